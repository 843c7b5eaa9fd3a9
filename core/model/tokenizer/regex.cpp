#include "core/model/tokenizer/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

constexpr size_t kMaxPatternBytes = size_t{64} << 10;
constexpr size_t kJitStackStart = size_t{32} << 10;
constexpr size_t kJitStackMax = size_t{4} << 20;

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// What a match writes to. One a thread, and nothing in it outlives a call: making one costs more than most matches.
struct Scratch {
  Scratch()
      : data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)) {
    if (context != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  [[nodiscard]] bool good() const { return data != nullptr && context != nullptr; }

  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

}  // namespace

struct Regex::Code {
  Code(pcre2_code* c, bool j) : code(c), jit(j) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  pcre2_code* code;
  bool jit;
};

moe::Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return moe::invalid(fmt::format("pattern: expected at most {} bytes, got {}", kMaxPatternBytes, pattern.size()));
  }
  MOE_ASSIGN(const std::string translated, pcre2_from_oniguruma(pattern));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (context == nullptr) return moe::exhausted("pattern: no memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    return moe::invalid(fmt::format("pattern: expected a regular expression, got \"{}\" ({} near byte {})", translated,
                                    pcre2_message(error), at));
  }
  const bool jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;  // without, the interpreter does the same, slower
  return Regex(std::make_shared<const Code>(code, jit));
}

moe::Status Regex::find_all(std::string_view text, std::vector<Match>& out) const {
  thread_local Scratch scratch;
  if (!scratch.good()) return moe::exhausted("pattern: no memory");
  // Linear by construction: known patterns take at most a few steps a byte, whatever the text.
  const size_t budget = 1'000'000 + 16 * text.size();
  pcre2_set_match_limit(scratch.context, static_cast<uint32_t>(std::min<size_t>(budget, UINT32_MAX)));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.data);
  size_t from = 0;
  size_t tiled = 0;
  bool any = false;
  while (from <= text.size()) {
    const int rc =
        code_->jit
            ? pcre2_jit_match(code_->code, subject, text.size(), from, 0, scratch.data, scratch.context)
            : pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, scratch.data, scratch.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0)
      return moe::exhausted(fmt::format("pattern: expected a match within its budget, got: {}", pcre2_message(rc)));
    const size_t begin = range[0];
    const size_t end = range[1];
    if (begin == end && any && end == tiled) {  // an empty match right behind the last one does not count
      if (from == text.size()) break;
      from += unicode::length_at(text, from);
      continue;
    }
    if (begin > tiled) out.push_back({tiled, begin, false});
    out.push_back({begin, end, true});
    from = tiled = end;
    any = true;
  }
  if (tiled < text.size()) out.push_back({tiled, text.size(), false});
  return {};
}

}  // namespace patchbay
