// Any bytes as a template: an error or a text, within the budget.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/model/template/template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto context = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße 你好"},
                 {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "s": "a,b,,c", "n": -7, "l": [3, 1, 2], "d": {"k": [1, {}], "j": "v"}})");
  const auto parsed = patchbay::Template::parse(std::string(reinterpret_cast<const char*>(data), size));
  if (!parsed.ok()) return 0;
  patchbay::TemplateBudget budget;
  budget.max_steps = 20'000;
  budget.max_output_bytes = 1 << 16;
  budget.max_memory_bytes = 1 << 22;
  const auto text = parsed->render(context, budget);
  if (text.ok() && text->size() > budget.max_output_bytes) std::abort();
  return 0;
}
