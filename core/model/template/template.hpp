// Template: a program in the Jinja2 language, as models ship it for their chats, run in a sandbox.
//
// A chat template is code from outside (CVE-2024-34359), so it gets values and nothing else: no files, no clock but the
// one passed in, no attributes of the host, and budgets on everything that grows. The behaviour is that of Python's
// jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]), which
// is how transformers runs chat templates; the tests compare with it case by case.
#pragma once

#include <cstddef>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "moe/sdk/result.hpp"

namespace patchbay {

// What one render may use; crossing a line is MOE_RESOURCE_EXHAUSTED. The defaults let a conversation of a million
// tokens pass and stop a hostile template within about a second.
struct TemplateBudget {
  size_t max_steps = 4'000'000;                 // nodes evaluated, plus one for each 64 bytes of text produced
  size_t max_depth = 1000;                      // nested evaluations: expressions, statements and macro calls together
  size_t max_output_bytes = size_t{16} << 20;   // the text, with what macros and block sets are capturing
  size_t max_memory_bytes = size_t{256} << 20;  // strings, lists and dicts alive at once
};

namespace jinja {
struct Program;
}

// A parsed template. Immutable: copies share one program, and any number of threads may render it. [thread-safe]
class Template {
 public:
  // Parses `source` (UTF-8, at most 1 MiB). Errors are "line L: expected X, got Y"; linear in the source's length.
  static moe::Result<Template> parse(std::string source);

  // The text for `context`, an object of variables. Errors are "line L: ..."; a call of raise_exception('m') in the
  // template gives "line L: m". `now` is the local time that strftime_now sees; without it, the clock's.
  [[nodiscard]] moe::Result<std::string> render(const nlohmann::ordered_json& context,
                                                const TemplateBudget& budget = {},
                                                const std::optional<std::tm>& now = std::nullopt) const;

 private:
  explicit Template(std::shared_ptr<const jinja::Program> program) : program_(std::move(program)) {}

  std::shared_ptr<const jinja::Program> program_;
};

}  // namespace patchbay
