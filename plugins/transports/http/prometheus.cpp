#include "prometheus.hpp"

#include <fmt/format.h>

#include <iterator>

namespace httpd {

std::string prometheus_text(const patchbay::v1::Metrics& metrics) {
  std::string text;
  const std::string* last = nullptr;
  for (const auto& m : metrics.metrics()) {
    if (last == nullptr || *last != m.name()) {
      fmt::format_to(std::back_inserter(text), "# TYPE {} {}\n", m.name(), m.counter() ? "counter" : "gauge");
    }
    last = &m.name();
    fmt::format_to(std::back_inserter(text), "{} {}\n", m.name(), m.value());
  }
  return text;
}

}  // namespace httpd
