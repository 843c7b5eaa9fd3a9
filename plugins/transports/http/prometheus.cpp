#include "prometheus.hpp"

#include <fmt/format.h>

#include <iterator>

namespace httpd {

namespace {

std::string escaped(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return out;
}

std::string labels_of(const patchbay::v1::Metric& metric) {
  std::string text;
  for (const auto& l : metric.labels()) {
    text += fmt::format("{}{}=\"{}\"", text.empty() ? "" : ",", l.name(), escaped(l.value()));
  }
  return text.empty() ? text : "{" + text + "}";
}

}  // namespace

std::string prometheus_text(const patchbay::v1::Metrics& metrics) {
  std::string text;
  std::string last;
  for (const auto& m : metrics.metrics()) {
    const std::string& family = m.histogram().empty() ? m.name() : m.histogram();
    const char* type = !m.histogram().empty() ? "histogram" : m.counter() ? "counter" : "gauge";
    if (family != last) fmt::format_to(std::back_inserter(text), "# TYPE {} {}\n", family, type);
    last = family;
    fmt::format_to(std::back_inserter(text), "{}{} {}\n", m.name(), labels_of(m), m.value());
  }
  return text;
}

}  // namespace httpd
