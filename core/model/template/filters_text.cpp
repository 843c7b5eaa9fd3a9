// Filters over text. Like Jinja2's, they take any value as its str().
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/format.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

// A filter that only maps text to text.
template <std::string (*map)(std::string_view)>
Result<Value> mapped(Interpreter& in, const Value& input, Args& args) {
  MOE_TRY(Params::bind("filter", args, {}));
  MOE_ASSIGN(const std::string text, to_text(in, input));
  return in.text(map(text));
}

// Unlike str.title, this only looks at spaces, hyphens and opening brackets.
std::string title_words(std::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&] {
    if (!word.empty()) {
      const size_t first = next_char(word, 0);
      out += to_upper(std::string_view(word).substr(0, first)) + to_lower(std::string_view(word).substr(first));
    }
    word.clear();
  };
  for (const std::string_view c : split_chars(text)) {
    const bool separates = is_space(decode(c)) || std::string_view("-({[<").find(c) != std::string_view::npos;
    if (!separates) {
      word += c;
      continue;
    }
    flush();
    out += c;
  }
  flush();
  return out;
}

Result<Value> method(Interpreter& in, const Value& input, Args& args, std::string_view name) {
  MOE_ASSIGN(std::string text, to_text(in, input));
  MOE_ASSIGN(const Value self, in.text(std::move(text)));
  return find_string_method(name)(in, self, args);
}

Result<Value> trim_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("trim", args, {"chars"}));
  Args chars;
  if (p.get(0) != nullptr) chars.positional.push_back(*p.get(0));
  return method(in, input, chars, "strip");
}

Result<Value> replace_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("replace", args, {"old", "new", "count"}, 2));
  Args texts;
  for (const size_t i : {size_t{0}, size_t{1}}) {
    MOE_ASSIGN(std::string text, to_text(in, *p.get(i)));
    MOE_ASSIGN(Value value, in.text(std::move(text)));
    texts.positional.push_back(std::move(value));
  }
  if (p.given(2) != nullptr) texts.positional.push_back(*p.given(2));
  return method(in, input, texts, "replace");
}

Result<Value> center_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("center", args, {"width"}));
  MOE_ASSIGN(const int64_t width, p.integer(0, 80));
  Args widths{{Value(width)}, {}};
  return method(in, input, widths, "center");
}

Result<Value> escape_filter(Interpreter& in, const Value& input, Args&) {
  if (input.str() != nullptr && input.str()->markup) return input;
  MOE_ASSIGN(const std::string text, to_text(in, input));
  return in.text(escape_html(text), true);
}

Result<Value> forceescape_filter(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(const std::string text, to_text(in, input));
  return in.text(escape_html(text), true);
}

Result<Value> safe_filter(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(std::string text, to_text(in, input));
  return in.text(std::move(text), true);
}

Result<Value> format_filter(Interpreter& in, const Value& input, Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    return moe::invalid("can't handle positional and keyword arguments at the same time");
  MOE_ASSIGN(std::string text, to_text(in, input));
  MOE_ASSIGN(const Value format, in.text(std::move(text)));
  Dict names;
  for (auto& [name, value] : args.named) names.set(Value::text(name), std::move(value));
  const bool named = !names.entries.empty();
  MOE_ASSIGN(const Value values,
             named ? in.dict(std::move(names)) : in.list(std::move(args.positional), Flavor::kTuple));
  return format_percent(in, *format.str(), values);
}

Result<Value> indent_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("indent", args, {"width", "first", "blank"}));
  MOE_ASSIGN(const std::string text, to_text(in, input));
  std::string by;
  if (p.get(0) != nullptr && p.get(0)->str() != nullptr) {
    by = p.get(0)->str()->text;
  } else {
    MOE_ASSIGN(const int64_t width, p.integer(0, 4));
    MOE_TRY(in.check_bytes(static_cast<size_t>(std::max<int64_t>(width, 0))));
    by = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  MOE_ASSIGN(const Value source, in.text(text + "\n"));  // so that an ending newline begins one more, empty line
  Args none;
  MOE_ASSIGN(const Value lines, find_string_method("splitlines")(in, source, none));
  std::string out = p.truthy(1, false) ? by : "";
  const auto& items = lines.list()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string& line = items[i].str()->text;
    if (i > 0) out += "\n";
    if (i > 0 && (!line.empty() || p.truthy(2, false))) out += by;
    out += line;
    MOE_TRY(in.step(by.size() / 64));
    MOE_TRY(in.check_bytes(out.size()));
  }
  return in.text(std::move(out));
}

Result<Value> truncate_filter(Interpreter& in, const Value& input, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("truncate", args, {"length", "killwords", "end", "leeway"}));
  MOE_ASSIGN(const int64_t length, p.integer(0, 255));
  MOE_ASSIGN(const std::string end, p.text(2, "..."));
  MOE_ASSIGN(const int64_t leeway, p.given(3) == nullptr ? Result<int64_t>(5) : p.integer(3, 5));
  MOE_ASSIGN(const std::string text, to_text(in, input));
  const auto n_end = static_cast<int64_t>(count_chars(end));
  if (length < n_end) return moe::invalid(fmt::format("expected length >= {}, got {}", n_end, length));
  if (leeway < 0) return moe::invalid(fmt::format("expected leeway >= 0, got {}", leeway));
  const auto n = static_cast<int64_t>(count_chars(text));
  if (n <= length || n - length <= leeway) return in.text(text);
  std::string cut = text.substr(0, offset_of(text, static_cast<size_t>(length - n_end)));
  if (!p.truthy(1, false)) cut.resize(std::min(cut.rfind(' '), cut.size()));
  return in.text(cut + end);
}

Result<Value> wordcount_filter(Interpreter& in, const Value& input, Args&) {
  MOE_ASSIGN(const std::string text, to_text(in, input));
  int64_t n = 0;
  bool inside = false;
  for (const std::string_view c : split_chars(text)) {
    const bool part = c == "_" || is_class(decode(c), CharClass::kAlnum);
    if (part && !inside) ++n;
    inside = part;
  }
  return Value(n);
}

Result<Value> urlencode_filter(Interpreter& in, const Value& input, Args&) {
  if (input.dict() != nullptr || input.list() != nullptr) return wrong_type("urlencode", "a string", input);
  MOE_ASSIGN(const std::string text, to_text(in, input));
  std::string out;
  for (const char c : text) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("_.-~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return in.text(std::move(out));
}

constexpr Named<FilterFn> kTextFilters[] = {
    {"capitalize", mapped<capitalize>},
    {"center", center_filter},
    {"e", escape_filter},
    {"escape", escape_filter},
    {"forceescape", forceescape_filter},
    {"format", format_filter},
    {"indent", indent_filter},
    {"lower", mapped<to_lower>},
    {"replace", replace_filter},
    {"safe", safe_filter},
    {"title", mapped<title_words>},
    {"trim", trim_filter},
    {"truncate", truncate_filter},
    {"upper", mapped<to_upper>},
    {"urlencode", urlencode_filter},
    {"wordcount", wordcount_filter},
};

}  // namespace

FilterFn find_text_filter(std::string_view name) { return find_named(kTextFilters, name); }

}  // namespace patchbay::jinja
