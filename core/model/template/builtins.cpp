#include "core/model/template/builtins.hpp"

namespace patchbay::jinja {

FilterFn find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_sequence_filter, find_value_filter}) {
    if (const FilterFn filter = find(name)) return filter;
  }
  return nullptr;
}

}  // namespace patchbay::jinja
