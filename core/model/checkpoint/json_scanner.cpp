#include "core/model/checkpoint/json_scanner.hpp"

#include <fmt/format.h>

#include <cstring>

#include "core/model/checkpoint/utf8.hpp"

namespace patchbay {
namespace {

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string* out, uint32_t code) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

}  // namespace

bool JsonScanner::fail(std::string_view expected) {
  if (!error_.empty()) return false;
  std::string got = "the end";
  if (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    got = c > 0x20 && c < 0x7f ? fmt::format("'{}'", text_[at_]) : fmt::format("byte 0x{:02x}", c);
  }
  error_ = fmt::format("byte {}: expected {}, got {}", at_, expected, got);
  return false;
}

void JsonScanner::skip_space() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
    ++at_;
}

bool JsonScanner::take(char c) {
  skip_space();
  if (at_ == text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

bool JsonScanner::expect(char c) { return take(c) || fail(fmt::format("'{}'", c)); }

bool JsonScanner::close(char c) { return take(c) || fail(fmt::format("',' or '{}'", c)); }

bool JsonScanner::end() {
  skip_space();
  return at_ == text_.size() || fail("the end");
}

bool JsonScanner::string(std::string_view* out) {
  if (!take('"')) return fail("a string");
  const size_t begin = at_;
  while (at_ < text_.size()) {
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') {
      *out = text_.substr(begin, at_ - begin);
      ++at_;
      return true;
    }
    if (c == '\\') return string_with_escapes(begin, out);
    if (c < 0x20) return fail("no control character in a string");
    if (c < 0x80) {
      ++at_;
    } else if (!character()) {
      return false;
    }
  }
  return fail("'\"'");
}

bool JsonScanner::character() {
  const size_t n = utf8_length(text_.substr(at_));
  at_ += n;
  return n > 0 || fail("UTF-8");
}

bool JsonScanner::hex4(uint32_t* out) {
  *out = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const char lower = static_cast<char>(c | 0x20);
    if (is_digit(c)) {
      *out = *out * 16 + static_cast<uint32_t>(c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      *out = *out * 16 + static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      return fail("four hexadecimal digits");
    }
  }
  return true;
}

// After a backslash.
bool JsonScanner::escape(std::string* out) {
  static constexpr std::string_view kNames = "\"\\/bfnrt";
  static constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  if (const size_t i = kNames.find(c); c != '\0' && i != std::string_view::npos) {
    out->push_back(kValues[i]);
    ++at_;
    return true;
  }
  if (c != 'u') return fail("an escape");
  ++at_;
  uint32_t code = 0;
  if (!hex4(&code)) return false;
  if (code >= 0xd800 && code < 0xdc00) {
    uint32_t low = 0;
    if (text_.substr(at_, 2) != "\\u") return fail("the second half of a surrogate pair");
    at_ += 2;
    if (!hex4(&low)) return false;
    if (low < 0xdc00 || low > 0xdfff) return fail("the second half of a surrogate pair");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  } else if (code >= 0xdc00 && code < 0xe000) {
    return fail("the first half of a surrogate pair");
  }
  append_utf8(out, code);
  return true;
}

bool JsonScanner::string_with_escapes(size_t begin, std::string_view* out) {
  std::string value(text_.substr(begin, at_ - begin));
  while (at_ < text_.size() && text_[at_] != '"') {
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c < 0x20) return fail("no control character in a string");
    if (c == '\\') {
      ++at_;
      if (!escape(&value)) return false;
      continue;
    }
    const size_t from = at_;
    if (!character()) return false;
    value.append(text_, from, at_ - from);
  }
  if (at_ == text_.size()) return fail("'\"'");
  ++at_;
  auto* copy = static_cast<char*>(arena_->allocate(value.size() + 1, 1));
  std::memcpy(copy, value.data(), value.size());
  *out = {copy, value.size()};
  return true;
}

bool JsonScanner::unsigned_integer(uint64_t* out) {
  skip_space();
  const size_t begin = at_;
  uint64_t value = 0;
  for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
    const auto digit = static_cast<uint64_t>(text_[at_] - '0');
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) || __builtin_add_overflow(value, digit, &value)) {
      return fail("a number below 2^64");
    }
  }
  const bool leading_zero = at_ - begin > 1 && text_[begin] == '0';
  const char next = at_ < text_.size() ? text_[at_] : '\0';
  if (at_ == begin || leading_zero || next == '.' || next == 'e' || next == 'E') return fail("an unsigned integer");
  *out = value;
  return true;
}

bool JsonScanner::number() {
  const auto digits = [this] {
    const size_t begin = at_;
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
    return at_ > begin || fail("a digit");
  };
  take('-');
  const bool zero = at_ < text_.size() && text_[at_] == '0';
  const size_t begin = at_;
  if (!digits()) return false;
  if (zero && at_ - begin > 1) return fail("no leading zero");
  if (at_ < text_.size() && text_[at_] == '.') {
    ++at_;
    if (!digits()) return false;
  }
  if (at_ < text_.size() && (text_[at_] | 0x20) == 'e') {
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
    return digits();
  }
  return true;
}

bool JsonScanner::literal(std::string_view word) {
  if (text_.substr(at_, word.size()) != word) return fail("a value");
  at_ += word.size();
  return true;
}

bool JsonScanner::skip_value() {
  constexpr size_t kMaxDepth = 64;
  std::string open;  // the closing bracket of every level that is open
  std::string_view ignored;
  while (true) {
    // One value, or the opening of one.
    skip_space();
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    bool opened = false;
    if (c == '{' || c == '[') {
      if (open.size() == kMaxDepth) return fail("at most 64 levels of nesting");
      ++at_;
      const char closing = c == '{' ? '}' : ']';
      opened = !take(closing);
      if (opened) open.push_back(closing);
    } else if (c == '"') {
      if (!string(&ignored)) return false;
    } else if (c == '-' || is_digit(c)) {
      if (!number()) return false;
    } else if (!literal(c == 't' ? "true" : c == 'f' ? "false" : "null")) {
      return false;
    }
    // What closes after it, and the key of the next one.
    while (!opened && !open.empty() && !take(',')) {
      if (!close(open.back())) return false;
      open.pop_back();
    }
    if (open.empty()) return true;
    if (open.back() == '}' && (!string(&ignored) || !expect(':'))) return false;
  }
}

}  // namespace patchbay
