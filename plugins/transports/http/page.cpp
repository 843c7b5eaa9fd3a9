#include "page.hpp"

namespace httpd {

namespace {

constexpr unsigned char kPage[] = {
#include "page_bytes.inc"
};

}  // namespace

std::string_view page() { return {reinterpret_cast<const char*>(kPage), sizeof kPage}; }

}  // namespace httpd
