// The page at "/": page.html, as it is.
#pragma once

#include <string_view>

namespace httpd {

std::string_view page();

}  // namespace httpd
