// The first line is the expression, what follows is config.json. Whatever they are, the outcome is a finite value or an
// error.
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "core/model/architecture/expression.hpp"
#include "core/model/json/json.hpp"

namespace {
void must_be_finite(const patchbay::Value& value) {
  if (const auto* d = value.as<double>(); d != nullptr && !std::isfinite(*d)) std::abort();
  if (const auto* list = value.as<patchbay::Value::List>()) {
    for (const auto& element : *list) must_be_finite(element);
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(input.find('\n'), input.size());
  const auto expression = patchbay::Expression::parse(input.substr(0, line));
  if (!expression.ok()) {
    if (!expression.error().message.starts_with("column ")) std::abort();
    return 0;
  }
  const auto parsed = patchbay::parse_json(line < input.size() ? input.substr(line + 1) : "{}");
  const nlohmann::json config = parsed.ok() ? *parsed : nlohmann::json::object();
  const auto value =
      expression->evaluate(config, {{"layer", 3}, {"kinds", patchbay::Value::List{1, 2.5, "x", nullptr}}});
  if (value.ok()) {
    must_be_finite(*value);
  } else if (!value.error().message.starts_with("column ")) {
    std::abort();
  }
  return 0;
}
