#include "core/model/template/lexer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

using moe::Result;
using moe::Status;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
// Letters outside ASCII may stand in names; Python's finer rules on which ones change no valid template.
bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0; }
bool is_name_char(char c) { return is_name_start(c) || is_digit(c); }

// Line ends become \n, and one at the very end is dropped.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// Python's escapes in the text of a string literal.
Result<std::string> unescape(std::string_view raw) {
  std::string out;
  out.reserve(raw.size());
  for (size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '\\' || i + 1 == raw.size()) {
      out += raw[i];
      continue;
    }
    const char c = raw[++i];
    constexpr std::string_view kNames = "nrtabfv\\'\"";
    constexpr std::string_view kValues = "\n\r\t\a\b\f\v\\'\"";
    if (const size_t simple = kNames.find(c); simple != std::string_view::npos) {
      out += kValues[simple];
      continue;
    }
    if (c == '\n') continue;
    int base = 16;
    size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    size_t begin = i + 1;
    if (c >= '0' && c <= '7') {
      base = 8;
      begin = i;
      n_digits = 1;
      while (n_digits < 3 && begin + n_digits < raw.size() && raw[begin + n_digits] >= '0' &&
             raw[begin + n_digits] <= '7') {
        ++n_digits;
      }
    }
    if (c == 'N') return moe::unimplemented("string escape \\N{...}: expected another escape");
    if (n_digits == 0) {  // an unknown escape stands for itself
      out += '\\';
      out += c;
      continue;
    }
    const std::string digits(raw.substr(begin, n_digits));
    const bool hex = std::all_of(digits.begin(), digits.end(), [](unsigned char d) { return std::isxdigit(d) != 0; });
    if (digits.size() != n_digits || !hex)
      return moe::invalid(fmt::format("string escape \\{}: expected {} hexadecimal digits", c, n_digits));
    const unsigned long code = std::stoul(digits, nullptr, base);
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      return moe::invalid(fmt::format("string escape \\{}{}: expected a Unicode character", c, digits));
    }
    append_utf8(out, static_cast<char32_t>(code));
    i = begin + n_digits - 1;
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(source) {}

  Result<std::vector<Token>> run() {
    while (at_ < text_.size()) {
      if (const Status s = root(); !s.ok()) return s.error().in(fmt::format("line {}", line_));
    }
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  [[nodiscard]] std::string_view rest() const { return text_.substr(at_); }
  [[nodiscard]] bool sees(std::string_view what) const { return rest().substr(0, what.size()) == what; }

  // Moves on, counting lines.
  void skip(size_t n) {
    line_ += static_cast<int>(
        std::count(text_.begin() + static_cast<long>(at_), text_.begin() + static_cast<long>(at_ + n), '\n'));
    at_ += n;
  }
  void skip_spaces() { skip(rest().size() - strip_left(rest()).size()); }

  // Text up to the next tag, then that tag.
  Status root() {
    size_t tag = at_;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
        add(TokenKind::kData, std::string(rest()));
        skip(rest().size());
        return {};
      }
      if (text_[tag + 1] == '{' || text_[tag + 1] == '%' || text_[tag + 1] == '#') break;
      ++tag;
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : ' ';
    const std::string_view data = text_.substr(at_, tag - at_);
    if (const std::string_view kept = trimmed(data, kind, sign); !kept.empty())
      add(TokenKind::kData, std::string(kept));
    skip(data.size() + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#') return comment();
    if (kind == '{') return inside(TokenKind::kVariableBegin);
    const size_t here = at_;
    MOE_ASSIGN(const bool is_raw, raw());
    if (is_raw) return {};
    at_ = here;
    return inside(TokenKind::kBlockBegin);
  }

  // The text before a tag as the tag's sign and lstrip_blocks leave it.
  [[nodiscard]] std::string_view trimmed(std::string_view data, char kind, char sign) const {
    if (sign == '-') return strip_right(data);
    if (sign == '+' || kind == '{') return data;
    const size_t newline = data.rfind('\n');
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_begin == 0 && !line_starting_) return data;
    return strip_left(data.substr(line_begin)).empty() ? data.substr(0, line_begin) : data;
  }

  // The end of a block, comment or raw tag, if it is here: "%}" and a newline, "-%}" and all spaces, or "+%}".
  bool end_tag(std::string_view close, bool trims_newline) {
    if (rest().empty()) return false;
    const size_t begin = at_;
    if (rest().substr(1, close.size()) == close && (sees("-") || sees("+"))) {
      const bool minus = sees("-");
      if (!minus && !trims_newline) return false;
      skip(1 + close.size());
      if (minus) skip_spaces();
    } else if (sees(close)) {
      skip(close.size());
      if (trims_newline && sees("\n")) skip(1);
    } else {
      return false;
    }
    line_starting_ = at_ > begin && text_[at_ - 1] == '\n';
    return true;
  }

  Status comment() {
    const size_t end = text_.find("#}", at_);
    if (end == std::string_view::npos) return moe::invalid("comment: expected its end '#}', got end of template");
    const bool signed_end = end > at_ && (text_[end - 1] == '-' || text_[end - 1] == '+');
    skip(end - at_ - (signed_end ? 1 : 0));
    end_tag("#}", true);
    return {};
  }

  // A raw block, whose "{%" has been passed: true if it was one; otherwise the caller takes it as any block.
  Result<bool> raw() {
    const int line = line_;
    skip_spaces();
    const bool named = sees("raw");
    if (named) {
      skip(3);
      skip_spaces();
    }
    if (!named || sees("+") || !end_tag("%}", false)) {
      line_ = line;
      return false;
    }
    for (size_t tag = text_.find("{%", at_); tag != std::string_view::npos; tag = text_.find("{%", tag + 1)) {
      const std::string_view after = text_.substr(tag + 2);
      const bool is_signed = !after.empty() && (after[0] == '-' || after[0] == '+');
      const std::string_view word = strip_left(after.substr(is_signed ? 1 : 0));
      if (word.substr(0, 6) != "endraw") continue;
      const std::string_view close = strip_left(word.substr(6));
      const bool close_signed = !close.empty() && (close[0] == '-' || close[0] == '+');
      if (close.substr(close_signed ? 1 : 0, 2) != "%}") continue;
      const std::string_view data = text_.substr(at_, tag - at_);
      add(TokenKind::kData, std::string(trimmed(data, '%', is_signed ? after[0] : ' ')));
      skip(static_cast<size_t>(close.data() - rest().data()));
      end_tag("%}", true);
      return true;
    }
    line_ = line;
    return moe::invalid("raw block: expected its end '{% endraw %}', got end of template");
  }

  // The tokens of one tag, its ends included.
  Status inside(TokenKind begin) {
    const bool block = begin == TokenKind::kBlockBegin;
    add(begin, block ? "{%" : "{{");
    brackets_.clear();
    while (true) {
      skip_spaces();
      if (at_ >= text_.size())
        return moe::invalid(fmt::format("tag: expected '{}', got end of template", block ? "%}" : "}}"));
      const int line = line_;
      if (brackets_.empty() && (block ? end_tag("%}", true) : end_variable())) {
        tokens_.push_back({block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, block ? "%}" : "}}", line});
        return {};
      }
      MOE_TRY(token());
    }
  }

  bool end_variable() {
    if (!sees("}}") && !sees("-}}")) return false;
    const bool strips = sees("-");
    skip(strips ? 3 : 2);
    if (strips) skip_spaces();
    line_starting_ = text_[at_ - 1] == '\n';
    return true;
  }

  Status token() {
    const char c = text_[at_];
    if (is_digit(c)) return number();
    if (is_name_start(c)) return name();
    if (c == '\'' || c == '"') return string(c);
    return op();
  }

  Status name() {
    size_t n = 1;
    while (n < rest().size() && is_name_char(rest()[n])) ++n;
    add(TokenKind::kName, std::string(rest().substr(0, n)));
    skip(n);
    return {};
  }

  Status string(char quote) {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size())
      return moe::invalid(fmt::format("string: expected its end {}, got end of template", quote));
    MOE_ASSIGN(std::string value, unescape(text_.substr(at_ + 1, end - at_ - 1)));
    add(TokenKind::kString, std::move(value));
    skip(end + 1 - at_);
    return {};
  }

  // Digits with single underscores between them, as offsets from at_.
  [[nodiscard]] size_t digits_end(size_t i, int base) const {
    const auto is_one = [&](size_t k) {
      if (k >= rest().size()) return false;
      const auto d = static_cast<unsigned char>(rest()[k]);
      if (base == 16) return std::isxdigit(d) != 0;
      return d >= '0' && d < '0' + base;
    };
    while (is_one(i) || (i < rest().size() && rest()[i] == '_' && is_one(i + 1))) ++i;
    return i;
  }

  Status number() {
    const std::string_view r = rest();
    const char mark =
        r.size() > 1 && r[0] == '0' ? static_cast<char>(std::tolower(static_cast<unsigned char>(r[1]))) : ' ';
    const int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    size_t end = base == 10 ? digits_end(0, 10) : digits_end(2, base);
    bool real = false;
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';  // x.0.1 reads elements 0 and 1
    if (base == 10 && !after_dot) {
      if (end + 1 < r.size() && r[end] == '.' && is_digit(r[end + 1])) {
        end = digits_end(end + 1, 10);
        real = true;
      }
      size_t e = end + 1;
      if (end < r.size() && (r[end] == 'e' || r[end] == 'E')) {
        if (e < r.size() && (r[e] == '+' || r[e] == '-')) ++e;
        if (e < r.size() && is_digit(r[e])) {
          end = digits_end(e, 10);
          real = true;
        }
      }
    }
    if (base == 10 && !real && r[0] == '0') {  // 007 is no number
      for (end = 1; end < r.size() && (r[end] == '0' || r.substr(end, 2) == "_0");) ++end;
    }
    std::string text(r.substr(0, end));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    add(real ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    skip(end);
    return {};
  }

  Status op() {
    static constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto found = std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view o) { return sees(o); });
    if (found == kOperators.end()) {
      return moe::invalid(fmt::format("tag: expected an expression, got '{}'", rest().substr(0, next_char(rest(), 0))));
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets_.empty()) return moe::invalid(fmt::format("tag: expected an expression, got '{}'", c));
      if (brackets_.back() != c) return moe::invalid(fmt::format("tag: expected '{}', got '{}'", brackets_.back(), c));
      brackets_.pop_back();
    }
    add(TokenKind::kOperator, std::string(*found));
    skip(found->size());
    return {};
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last tag ended a line, so spaces before the next may be stripped
  std::string brackets_;       // the closing brackets that are due
  std::vector<Token> tokens_;
};

}  // namespace

std::string describe(const Token& token) {
  if (token.kind == TokenKind::kEnd) return "end of template";
  if (token.kind == TokenKind::kData) return "text";
  return fmt::format("'{}'", token.text);
}

Result<std::vector<Token>> tokenize(std::string_view source) {
  const std::string text = normalize_newlines(source);
  return Lexer(text).run();
}

}  // namespace patchbay::jinja
