// Oniguruma's dialect in PCRE2's words, where the two disagree on what tokenizer patterns use:
//   \s \w \h     Oniguruma: White_Space; Alphabetic|M|Nd|Pc; hexadecimal. PCRE2: adds U+180E; lacks marks; space
//   \p{Name}     Oniguruma: long names, Script. PCRE2: short category names, Script_Extensions
//   X{1,3}+      Oniguruma: the interval repeated. PCRE2: possessive
//   (?m)         Oniguruma: the dot takes newlines. PCRE2: (?s)
//   [a&&[^b]]    Oniguruma: what is in both. PCRE2: plain characters; (?:(?![b])[a]) means the same
//   [a[b]]       Oniguruma: a set in a set. PCRE2: plain characters; refused here
#include <fmt/format.h>
#include <unicode/uchar.h>

#include <charconv>
#include <optional>

#include "core/model/tokenizer/regex.hpp"

namespace patchbay {
namespace {

constexpr std::string_view kSpace = "\\p{Z}\\t-\\r\\x{85}";
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kHex = "0-9A-Fa-f";

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  moe::Result<std::string> run() {
    while (at_ < in_.size()) MOE_TRY(step());
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool sees(std::string_view s) const { return in_.substr(at_).starts_with(s); }
  void copy(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }

  moe::Status step() {
    const char c = in_[at_];
    if (c == '\\') return escape();
    if (in_class_) return class_character(c);
    if (c == '[') {
      class_start_ = out_.size();
      copy(1);
      open_class();
      return {};
    }
    if (c == '(' && sees("(?")) return group();
    if (c == '{') return interval();
    copy(1);
    return {};
  }

  // Behind its bracket.
  void open_class() {
    in_class_ = true;
    if (sees("^")) copy(1);
    if (sees("]")) copy(1);  // first in its class: itself
  }

  moe::Status class_character(char c) {
    if (sees("[:")) {
      const size_t end = in_.find(":]", at_);
      if (end != std::string_view::npos) {
        copy(end + 2 - at_);
        return {};
      }
    }
    if (c == '[')
      return moe::unimplemented(fmt::format("pattern: expected no class within a class, got one at byte {}", at_));
    if (sees("&&")) return intersection();
    if (c == ']') in_class_ = false;
    copy(1);
    return {};
  }

  // [left&&[right]] or [left&&right]: a lookahead for the right one, and then the left one.
  moe::Status intersection() {
    std::string left = out_.substr(class_start_) + "]";
    if (is_intersected_ || left.starts_with("[^")) {
      return moe::unimplemented(
          fmt::format("pattern: expected an intersection of two sets, got another at byte {}", at_));
    }
    out_.resize(class_start_);
    at_ += 2;
    const bool bracketed = sees("[");
    if (bracketed) ++at_;
    out_ += '[';
    open_class();
    is_intersected_ = true;
    while (in_class_ && at_ < in_.size()) MOE_TRY(step());
    is_intersected_ = false;
    if (in_class_ || (bracketed && !sees("]"))) {
      return moe::invalid(fmt::format("pattern: expected ] behind the intersection, got another at byte {}", at_));
    }
    if (bracketed) ++at_;
    std::string right = out_.substr(class_start_);
    out_.resize(class_start_);
    const bool negated = right.starts_with("[^");
    if (negated) right.erase(1, 1);
    out_ += fmt::format("(?:(?{}{}){})", negated ? '!' : '=', right, left);
    return {};
  }

  moe::Status escape() {
    if (at_ + 1 == in_.size()) return moe::invalid("pattern: expected a character after \\, got the end");
    const char c = in_[at_ + 1];
    switch (c) {
      case 's':
        return set(kSpace, false);
      case 'S':
        return set(kSpace, true);
      case 'w':
        return set(kWord, false);
      case 'W':
        return set(kWord, true);
      case 'h':
        return set(kHex, false);
      case 'H':
        return set(kHex, true);
      case 'p':
      case 'P':
        return property();
      case 'u':
        return code_point();
      default:
        copy(2);
        return {};
    }
  }

  moe::Status set(std::string_view members, bool negated) {
    if (in_class_ && negated) {
      return moe::unimplemented(
          fmt::format("pattern: expected no negated set within a class, got {}", in_.substr(at_, 2)));
    }
    at_ += 2;
    if (in_class_) {
      out_ += members;
    } else {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", members);
    }
    return {};
  }

  moe::Status code_point() {
    const std::string_view digits = in_.substr(at_ + 2, 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      return moe::invalid(fmt::format("pattern: expected \\uXXXX, got \\u{}", digits));
    }
    out_ += fmt::format("\\x{{{}}}", digits);
    at_ += 6;
    return {};
  }

  moe::Status property() {
    const size_t end = in_.find('}', at_);
    if (!in_.substr(at_ + 2).starts_with("{") || end == std::string_view::npos) {
      copy(2);
      return {};
    }
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    const bool caret = name.starts_with("^");
    if (caret) name.remove_prefix(1);
    out_ += fmt::format("\\{}{{{}{}}}", in_[at_ + 1], caret ? "^" : "", property_name(std::string(name)));
    at_ = end + 1;
    return {};
  }

  static std::string property_name(const std::string& name) {
    if (name.size() > 64 || name.find('\0') != std::string::npos) return name;
    const auto category = u_getPropertyValueEnum(UCHAR_GENERAL_CATEGORY_MASK, name.c_str());
    if (category != UCHAR_INVALID_CODE) {
      const char* brief = u_getPropertyValueName(UCHAR_GENERAL_CATEGORY_MASK, category, U_SHORT_PROPERTY_NAME);
      if (brief != nullptr) return brief;
    }
    if (u_getPropertyValueEnum(UCHAR_SCRIPT, name.c_str()) != UCHAR_INVALID_CODE) return "sc:" + name;
    return name;
  }

  moe::Status group() {
    copy(2);
    while (at_ < in_.size() && (std::string_view("imx-").find(in_[at_]) != std::string_view::npos)) {
      out_ += in_[at_] == 'm' ? 's' : in_[at_];
      ++at_;
    }
    return {};
  }

  static std::optional<unsigned> number(std::string_view s) {
    unsigned n = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), n);
    if (error != std::errc() || end != s.data() + s.size()) return std::nullopt;
    return n;
  }

  moe::Status interval() {
    const size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) {
      copy(1);
      return {};
    }
    const std::string_view body = in_.substr(at_ + 1, end - at_ - 1);
    const size_t comma = body.find(',');
    const std::optional<unsigned> low = number(body.substr(0, comma));
    const bool repeated = in_.substr(end + 1).starts_with("+");
    if (repeated && low.has_value()) {
      // (X{0,n})+ is X* and (X{1,n})+ is X+; (X{2,})+ is X{2,}; others have no such form.
      const bool open = comma != std::string_view::npos && comma + 1 == body.size();
      if (*low > 1 && !open) {
        return moe::unimplemented(fmt::format("pattern: expected an interval without + behind it, got {{{}}}+", body));
      }
      out_ += open ? fmt::format("{{{},}}", *low) : (*low == 0 ? "*" : "+");
      at_ = end + 2;
      return {};
    }
    if (comma == 0 && number(body.substr(1)).has_value()) {
      out_ += fmt::format("{{0,{}}}", body.substr(1));
      at_ = end + 1;
      return {};
    }
    copy(1);
    return {};
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  bool in_class_ = false;
  size_t class_start_ = 0;       // in out_
  bool is_intersected_ = false;  // within the right side of &&
};

}  // namespace

moe::Result<std::string> pcre2_from_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace patchbay
