// The methods of Python's str.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/format.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

constexpr size_t kNone = std::string_view::npos;

template <std::string (*map)(std::string_view)>
Result<Value> mapped(Interpreter& in, const Value& self, Args& args) {
  MOE_TRY(Params::bind("str method", args, {}));
  return in.text(map(self.str()->text));
}

// --- stripping

using Set = std::vector<std::string_view>;

bool strips(const Set* set, std::string_view c) {
  return set == nullptr ? is_space(decode(c)) : std::binary_search(set->begin(), set->end(), c);
}

std::string_view stripped(std::string_view text, const Set* set, bool left, bool right) {
  while (left && !text.empty()) {
    const size_t end = next_char(text, 0);
    if (!strips(set, text.substr(0, end))) break;
    text.remove_prefix(end);
  }
  while (right && !text.empty()) {
    const size_t begin = previous_char(text, text.size());
    if (!strips(set, text.substr(begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

template <bool left, bool right>
Result<Value> strip_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("strip", args, {"chars"}));
  MOE_TRY(in.pay_bytes(self.str()->text.size()));
  if (p.given(0) == nullptr) return in.text(std::string(stripped(self.str()->text, nullptr, left, right)));
  MOE_ASSIGN(const std::string chars, p.text(0, ""));
  Set set = split_chars(chars);
  std::sort(set.begin(), set.end());
  return in.text(std::string(stripped(self.str()->text, &set, left, right)));
}

template <bool prefix>
Result<Value> remove_affix(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("removeprefix", args, {"affix"}, 1));
  MOE_ASSIGN(const std::string affix, p.text(0, ""));
  std::string_view text = self.str()->text;
  if (prefix && text.substr(0, affix.size()) == affix) text.remove_prefix(affix.size());
  if (!prefix && text.size() >= affix.size() && text.substr(text.size() - affix.size()) == affix)
    text.remove_suffix(affix.size());
  return in.text(std::string(text));
}

// --- splitting

Result<Value> text_list(Interpreter& in, const std::vector<std::string_view>& parts, Flavor flavor = Flavor::kList) {
  std::vector<Value> out;
  MOE_TRY(in.step(parts.size()));
  for (const std::string_view part : parts) {
    MOE_ASSIGN(Value text, in.text(std::string(part)));
    out.push_back(std::move(text));
  }
  return in.list(std::move(out), flavor);
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view separator, size_t max) {
  std::vector<std::string_view> out;
  while (out.size() < max) {
    const size_t at = find_text(text, separator);
    if (at == kNone) break;
    out.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  out.push_back(text);
  return out;
}

std::vector<std::string_view> rsplit_on(std::string_view text, std::string_view separator, size_t max) {
  // From the right, cuts overlap differently ("aaa" at "aa"), so the search runs over the text backwards.
  const std::string backwards(text.rbegin(), text.rend());
  const std::string needle(separator.rbegin(), separator.rend());
  std::vector<std::string_view> out;
  size_t from = 0;
  while (out.size() < max) {
    const size_t at = find_text(backwards, needle, from);
    if (at == kNone) break;
    out.push_back(text.substr(text.size() - at, at - from));
    from = at + needle.size();
  }
  out.push_back(text.substr(0, text.size() - from));
  std::reverse(out.begin(), out.end());
  return out;
}

// Words between spaces, at most max cuts; what is left keeps its inner spaces.
std::vector<std::string_view> split_words(std::string_view text, size_t max, bool from_right) {
  std::vector<std::string_view> out;
  text = from_right ? strip_right(text) : strip_left(text);
  while (!text.empty() && out.size() < max) {
    size_t at = from_right ? text.size() : 0;
    if (from_right) {
      for (size_t begin = at; begin > 0; at = begin) {
        begin = previous_char(text, at);
        if (is_space(decode(text.substr(begin, at - begin)))) break;
      }
      out.push_back(text.substr(at));
      text = strip_right(text.substr(0, at));
    } else {
      for (size_t end = at; at < text.size(); at = end) {
        end = next_char(text, at);
        if (is_space(decode(text.substr(at, end - at)))) break;
      }
      out.push_back(text.substr(0, at));
      text = strip_left(text.substr(at));
    }
  }
  if (!text.empty()) out.push_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

template <bool from_right>
Result<Value> split_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("split", args, {"sep", "maxsplit"}));
  MOE_ASSIGN(const int64_t limit, p.integer(1, -1));
  const size_t max = limit < 0 ? SIZE_MAX : static_cast<size_t>(limit);
  const std::string_view text = self.str()->text;
  MOE_TRY(in.pay_bytes(text.size()));
  if (p.given(0) == nullptr) return text_list(in, split_words(text, max, from_right));
  MOE_ASSIGN(const std::string separator, p.text(0, ""));
  if (separator.empty()) return moe::invalid("empty separator");
  return text_list(in, from_right ? rsplit_on(text, separator, max) : split_on(text, separator, max));
}

bool ends_line(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Result<Value> splitlines(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("splitlines", args, {"keepends"}));
  const bool keep = p.truthy(0, false);
  const std::string_view text = self.str()->text;
  MOE_TRY(in.pay_bytes(text.size()));
  std::vector<std::string_view> out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = next_char(text, at);
    if (ends_line(decode(text.substr(at, end - at)))) {
      if (text[at] == '\r' && end < text.size() && text[end] == '\n') ++end;
      out.push_back(text.substr(begin, (keep ? end : at) - begin));
      begin = end;
    }
    at = end;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return text_list(in, out);
}

template <bool from_right>
Result<Value> partition(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("partition", args, {"sep"}, 1));
  MOE_ASSIGN(const std::string separator, p.text(0, ""));
  if (separator.empty()) return moe::invalid("empty separator");
  const std::string_view text = self.str()->text;
  MOE_TRY(in.pay_bytes(text.size()));
  const size_t at = from_right ? find_last_text(text, separator) : find_text(text, separator);
  if (at == kNone && from_right) return text_list(in, {"", "", text}, Flavor::kTuple);
  if (at == kNone) return text_list(in, {text, "", ""}, Flavor::kTuple);
  return text_list(in, {text.substr(0, at), separator, text.substr(at + separator.size())}, Flavor::kTuple);
}

// --- searching

// The part of the text that start and stop (arguments i and i + 1) name, and its place, in bytes.
struct Window {
  std::string_view text;
  size_t offset = 0;
  bool empty_beyond = false;  // start is after the end, where not even "" is found
};

Result<Window> window(Interpreter& in, const Str& s, const Params& p, size_t i) {
  MOE_TRY(in.pay_bytes(s.text.size()));
  const auto size = static_cast<int64_t>(s.n_chars);
  MOE_ASSIGN(int64_t start, p.given(i) == nullptr ? Result<int64_t>(0) : p.integer(i, 0));
  MOE_ASSIGN(int64_t stop, p.given(i + 1) == nullptr ? Result<int64_t>(size) : p.integer(i + 1, size));
  const auto clamp = [&](int64_t n) { return n < 0 ? std::max<int64_t>(std::max(n, -size) + size, 0) : n; };
  start = clamp(start);
  stop = std::min(clamp(stop), size);
  if (start > stop) return Window{{}, 0, true};
  const size_t begin = offset_of(s.text, static_cast<size_t>(start));
  const size_t end = offset_of(s.text, static_cast<size_t>(stop));
  return Window{std::string_view(s.text).substr(begin, end - begin), begin, false};
}

template <bool from_right, bool must_find>
Result<Value> find_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("find", args, {"sub", "start", "end"}, 1));
  MOE_ASSIGN(const std::string needle, p.text(0, ""));
  MOE_ASSIGN(const Window w, window(in, *self.str(), p, 1));
  const size_t at = w.empty_beyond ? kNone : from_right ? find_last_text(w.text, needle) : find_text(w.text, needle);
  if (at != kNone)
    return Value(static_cast<int64_t>(count_chars(std::string_view(self.str()->text).substr(0, w.offset + at))));
  if (must_find) return moe::invalid("substring not found");
  return Value(int64_t{-1});
}

Result<Value> count_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("count", args, {"sub", "start", "end"}, 1));
  MOE_ASSIGN(const std::string needle, p.text(0, ""));
  MOE_ASSIGN(const Window w, window(in, *self.str(), p, 1));
  if (w.empty_beyond) return Value(int64_t{0});
  if (needle.empty()) return Value(static_cast<int64_t>(count_chars(w.text)) + 1);
  return Value(static_cast<int64_t>(split_on(w.text, needle, SIZE_MAX).size()) - 1);
}

bool affix_matches(std::string_view text, std::string_view affix, bool start) {
  if (affix.size() > text.size()) return false;
  return text.substr(start ? 0 : text.size() - affix.size(), affix.size()) == affix;
}

template <bool start>
Result<Value> has_affix(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind(start ? "startswith" : "endswith", args, {"affix", "start", "end"}, 1));
  MOE_ASSIGN(const Window w, window(in, *self.str(), p, 1));
  if (p.get(0)->is_list(Flavor::kTuple)) {
    for (const Value& affix : p.get(0)->list()->items) {
      if (affix.str() == nullptr) return wrong_type("startswith", "strings", affix);
      MOE_TRY(in.step());
      if (!w.empty_beyond && affix_matches(w.text, affix.str()->text, start)) return Value(true);
    }
    return Value(false);
  }
  if (p.get(0)->str() == nullptr) {
    return moe::invalid(fmt::format("{} first arg must be str or a tuple of str, not {}",
                                    start ? "startswith" : "endswith", p.get(0)->type_name()));
  }
  return Value(!w.empty_beyond && affix_matches(w.text, p.get(0)->str()->text, start));
}

template <CharClass which>
Result<Value> all_of_class(Interpreter& in, const Value& self, Args& args) {
  MOE_TRY(Params::bind("str method", args, {}));
  MOE_TRY(in.pay_bytes(self.str()->text.size()));
  const auto chars = split_chars(self.str()->text);
  return Value(!chars.empty() &&
               std::all_of(chars.begin(), chars.end(), [](std::string_view c) { return is_class(decode(c), which); }));
}

Result<Value> is_space_method(Interpreter&, const Value& self, Args& args) {
  MOE_TRY(Params::bind("isspace", args, {}));
  return Value(!self.str()->text.empty() && strip(self.str()->text).empty());
}

// isupper and islower: some cased character, none of another case.
template <CharClass wanted, CharClass other>
Result<Value> is_case(Interpreter&, const Value& self, Args& args) {
  MOE_TRY(Params::bind("str method", args, {}));
  bool some = false;
  for (const std::string_view c : split_chars(self.str()->text)) {
    if (is_class(decode(c), other)) return Value(false);
    some |= is_class(decode(c), wanted);
  }
  return Value(some);
}

Result<Value> is_title(Interpreter&, const Value& self, Args& args) {
  MOE_TRY(Params::bind("istitle", args, {}));
  bool some = false;
  for (const std::string_view c : split_chars(self.str()->text)) some |= is_class(decode(c), CharClass::kCased);
  return Value(some && to_title(self.str()->text) == self.str()->text);
}

// --- building

Result<Value> replace_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("replace", args, {"old", "new", "count"}, 2));
  MOE_ASSIGN(const std::string old_text, p.text(0, ""));
  MOE_ASSIGN(const std::string new_text, p.text(1, ""));
  MOE_ASSIGN(const int64_t count, p.integer(2, -1));
  const std::string_view text = self.str()->text;
  MOE_TRY(in.pay_bytes(text.size()));
  size_t left = count < 0 ? SIZE_MAX : static_cast<size_t>(count);
  std::string out;
  size_t at = 0;
  for (; left > 0; --left) {
    const size_t found = find_text(text, old_text, at);
    if (found == kNone) break;
    out += text.substr(at, found - at);
    out += new_text;
    at = found + old_text.size();
    MOE_TRY(in.step(1 + new_text.size() / 64));
    MOE_TRY(in.check_bytes(out.size()));
    if (!old_text.empty()) continue;
    if (found == text.size()) break;  // "" stands between all characters, once at the end
    at = next_char(text, found);
    out += text.substr(found, at - found);
  }
  if (at < text.size()) out += text.substr(at);
  return in.text(std::move(out));
}

Result<Value> join_method(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("join", args, {"iterable"}, 1));
  MOE_ASSIGN(const auto items, in.iterate(*p.get(0)));
  std::string out;
  for (size_t i = 0; i < items->items.size(); ++i) {
    const Str* item = items->items[i].str();
    if (item == nullptr) {
      return moe::invalid(
          fmt::format("sequence item {}: expected str instance, {} found", i, items->items[i].type_name()));
    }
    if (i > 0) out += self.str()->text;
    out += item->text;
    MOE_TRY(in.step(1 + (item->text.size() + self.str()->text.size()) / 64));
    MOE_TRY(in.check_bytes(out.size()));
  }
  return in.text(std::move(out));
}

// center, ljust, rjust.
template <char align>
Result<Value> justify(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("justify", args, {"width", "fillchar"}, 1));
  MOE_ASSIGN(const int64_t width, p.integer(0, 0));
  MOE_ASSIGN(const std::string fill, p.text(1, " "));
  if (count_chars(fill) != 1) return moe::invalid("The fill character must be exactly one character long");
  const auto n = static_cast<int64_t>(self.str()->n_chars);
  if (width <= n) return self;
  const auto missing = static_cast<size_t>(width - n);
  size_t bytes = 0;
  if (__builtin_mul_overflow(missing, fill.size(), &bytes)) bytes = SIZE_MAX / 2;
  MOE_TRY(in.check_bytes(bytes));
  MOE_TRY(in.pay_bytes(bytes));
  // Python's center puts the odd space left only if the width is odd.
  const size_t before = align == '<'   ? 0
                        : align == '>' ? missing
                                       : missing / 2 + (missing & static_cast<size_t>(width) & 1);
  std::string out;
  for (size_t i = 0; i < before; ++i) out += fill;
  out += self.str()->text;
  for (size_t i = before; i < missing; ++i) out += fill;
  return in.text(std::move(out));
}

Result<Value> zfill(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("zfill", args, {"width"}, 1));
  const std::string& text = self.str()->text;
  const size_t head = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  MOE_ASSIGN(const int64_t width, p.integer(0, 0));
  MOE_ASSIGN(const Value digits, in.text(text.substr(head)));
  Args padding{{Value(std::max<int64_t>(width, 1) - static_cast<int64_t>(head)), Value::text("0")}, {}};
  MOE_ASSIGN(const Value filled, justify<'>'>(in, digits, padding));
  return in.text(text.substr(0, head) + filled.str()->text);
}

Result<Value> format_method(Interpreter& in, const Value& self, Args& args) {
  return format_braces(in, *self.str(), args);
}

constexpr Named<MethodFn> kMethods[] = {
    {"capitalize", mapped<capitalize>},
    {"casefold", mapped<fold_case>},
    {"center", justify<'^'>},
    {"count", count_method},
    {"endswith", has_affix<false>},
    {"find", find_method<false, false>},
    {"format", format_method},
    {"index", find_method<false, true>},
    {"isalnum", all_of_class<CharClass::kAlnum>},
    {"isalpha", all_of_class<CharClass::kAlpha>},
    {"isdecimal", all_of_class<CharClass::kDecimal>},
    {"isdigit", all_of_class<CharClass::kDigit>},
    {"islower", is_case<CharClass::kLower, CharClass::kUpper>},
    {"isnumeric", all_of_class<CharClass::kNumeric>},
    {"isspace", is_space_method},
    {"istitle", is_title},
    {"isupper", is_case<CharClass::kUpper, CharClass::kLower>},
    {"join", join_method},
    {"ljust", justify<'<'>},
    {"lower", mapped<to_lower>},
    {"lstrip", strip_method<true, false>},
    {"partition", partition<false>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace_method},
    {"rfind", find_method<true, false>},
    {"rindex", find_method<true, true>},
    {"rjust", justify<'>'>},
    {"rpartition", partition<true>},
    {"rsplit", split_method<true>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"splitlines", splitlines},
    {"startswith", has_affix<true>},
    {"strip", strip_method<true, true>},
    {"swapcase", mapped<swap_case>},
    {"title", mapped<to_title>},
    {"upper", mapped<to_upper>},
    {"zfill", zfill},
};

}  // namespace

MethodFn find_string_method(std::string_view name) { return find_named(kMethods, name); }

}  // namespace patchbay::jinja
