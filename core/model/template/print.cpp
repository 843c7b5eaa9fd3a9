#include "core/model/template/print.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/model/template/objects.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

// Namespaces can hold themselves.
constexpr size_t kMaxPrintDepth = kMaxValueDepth + 8;

std::string show_quoted(std::string_view text) {
  const bool double_quotes = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const size_t end = next_char(text, i);
    const std::string_view c = text.substr(i, end - i);
    const char32_t code = decode(c);
    i = end;
    if (code == static_cast<unsigned char>(quote) || code == '\\') {
      out += '\\';
      out += c;
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (is_printable(code)) {
      out += c;
    } else {
      out += code < 0x100     ? fmt::format("\\x{:02x}", static_cast<uint32_t>(code))
             : code < 0x10000 ? fmt::format("\\u{:04x}", static_cast<uint32_t>(code))
                              : fmt::format("\\U{:08x}", static_cast<uint32_t>(code));
    }
  }
  out += quote;
  return out;
}

// Writes repr() step by step, so that the budget sees the text grow.
class Printer {
 public:
  Printer(Interpreter& in, std::string& out) : in_(in), out_(out) {}

  Status repr(const Value& v, size_t depth = 0) {
    MOE_TRY(in_.step());
    MOE_TRY(in_.check_bytes(out_.size()));
    if (depth > kMaxPrintDepth) return moe::exhausted("repr: expected less nesting, got a value that may hold itself");
    if (const Str* s = v.str()) {
      MOE_TRY(in_.pay_bytes(s->text.size()));
      return add(s->markup ? fmt::format("Markup({})", show_quoted(s->text)) : show_quoted(s->text));
    }
    if (v.list() != nullptr) return list(*v.list(), depth);
    if (v.dict() != nullptr) return dict(*v.dict(), depth);
    if (v.object() != nullptr) return object(*v.object(), depth);
    if (v.is_undefined()) return add("Undefined");
    if (v.is_none()) return add("None");
    if (const bool* b = v.boolean()) return add(*b ? "True" : "False");
    if (const int64_t* i = v.integer()) return add(fmt::format("{}", *i));
    return add(float_repr(*v.real()));
  }

 private:
  Status add(std::string_view text) {
    out_ += text;
    return {};
  }

  Status items(const std::vector<Value>& values, size_t depth) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (i > 0) out_ += ", ";
      MOE_TRY(repr(values[i], depth + 1));
    }
    return {};
  }

  Status list(const List& l, size_t depth) {
    switch (l.flavor) {
      case Flavor::kGenerator:
        return add("<generator object>");
      case Flavor::kRange:
        return range(l);
      case Flavor::kTuple:
        out_ += '(';
        MOE_TRY(items(l.items, depth));
        return add(l.items.size() == 1 ? ",)" : ")");
      case Flavor::kItems:
        out_ += "dict_items([";
        break;
      case Flavor::kKeys:
        out_ += "dict_keys([";
        break;
      case Flavor::kValues:
        out_ += "dict_values([";
        break;
      case Flavor::kList:
        out_ += '[';
        break;
    }
    MOE_TRY(items(l.items, depth));
    return add(l.flavor == Flavor::kList ? "]" : "])");
  }

  Status range(const List& l) {
    const int64_t first = l.items.empty() ? 0 : *l.items[0].integer();
    const int64_t by = l.items.size() < 2 ? 1 : *l.items[1].integer() - first;
    const int64_t end = l.items.empty() ? 0 : *l.items.back().integer() + (by > 0 ? 1 : -1);
    return add(by == 1 ? fmt::format("range({}, {})", first, end) : fmt::format("range({}, {}, {})", first, end, by));
  }

  Status dict(const Dict& d, size_t depth) {
    out_ += '{';
    for (size_t i = 0; i < d.entries.size(); ++i) {
      if (i > 0) out_ += ", ";
      MOE_TRY(repr(d.entries[i].first, depth + 1));
      out_ += ": ";
      MOE_TRY(repr(d.entries[i].second, depth + 1));
    }
    return add("}");
  }

  Status object(const Object& o, size_t depth) {
    if (const auto* space = dynamic_cast<const Namespace*>(&o)) {
      out_ += "<Namespace {";
      for (size_t i = 0; i < space->attributes.size(); ++i) {
        out_ += fmt::format("{}{}: ", i > 0 ? ", " : "", show_quoted(space->attributes[i].first));
        MOE_TRY(repr(space->attributes[i].second, depth + 1));
      }
      return add("}>");
    }
    if (const auto* macro = dynamic_cast<const Macro*>(&o)) return add(fmt::format("<Macro '{}'>", macro->name));
    if (const auto* loop = dynamic_cast<const Loop*>(&o)) {
      return add(fmt::format("<LoopContext {}/{}>", loop->index0 + 1, loop->items->items.size()));
    }
    return add(fmt::format("<{} object>", o.type_name()));
  }

  Interpreter& in_;
  std::string& out_;
};

class JsonWriter {
 public:
  JsonWriter(Interpreter& in, const JsonStyle& style, std::string& out) : in_(in), style_(style), out_(out) {}

  Status write(const Value& v, size_t depth) {
    MOE_TRY(in_.step());
    MOE_TRY(in_.check_bytes(out_.size()));
    if (const Str* s = v.str()) return string(s->text);
    if (const Dict* d = v.dict()) return dict(*d, depth);
    if (v.is_list(Flavor::kList) || v.is_list(Flavor::kTuple)) return list(*v.list(), depth);
    const std::string scalar = scalar_text(v);
    if (scalar.empty()) return moe::invalid(fmt::format("Object of type {} is not JSON serializable", v.type_name()));
    out_ += scalar;
    return {};
  }

 private:
  // Empty for what is none.
  static std::string scalar_text(const Value& v) {
    if (v.is_none()) return "null";
    if (const bool* b = v.boolean()) return *b ? "true" : "false";
    if (const int64_t* i = v.integer()) return fmt::format("{}", *i);
    if (v.real() == nullptr) return "";
    const double d = *v.real();
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_repr(d);
  }

  void newline(size_t depth) {
    if (!style_.indent) return;
    out_ += '\n';
    for (size_t i = 0; i < depth; ++i) out_ += *style_.indent;
  }

  void escape(uint32_t unit) { out_ += fmt::format("\\u{:04x}", unit); }

  Status string(std::string_view text) {
    MOE_TRY(in_.pay_bytes(text.size()));
    out_ += '"';
    constexpr std::string_view kPlain = "\"\\\n\r\t\b\f";
    constexpr std::string_view kNames = "\"\\nrtbf";
    for (size_t i = 0; i < text.size();) {
      const size_t end = next_char(text, i);
      const std::string_view c = text.substr(i, end - i);
      i = end;
      if (const size_t at = kPlain.find(c[0]); at != std::string_view::npos && c.size() == 1) {
        out_ += '\\';
        out_ += kNames[at];
      } else if (c.size() == 1 && (static_cast<unsigned char>(c[0]) < 0x20 || (style_.ensure_ascii && c[0] == 0x7F))) {
        escape(static_cast<unsigned char>(c[0]));
      } else if (style_.ensure_ascii && c.size() > 1) {
        const char32_t code = decode(c);
        if (code >= 0x10000) escape(0xD800 + ((code - 0x10000) >> 10));
        escape(code >= 0x10000 ? 0xDC00 + ((code - 0x10000) & 0x3FF) : code);
      } else {
        out_ += c;
      }
    }
    out_ += '"';
    return {};
  }

  Status list(const List& l, size_t depth) {
    out_ += '[';
    for (size_t i = 0; i < l.items.size(); ++i) {
      if (i > 0) out_ += style_.between_items;
      newline(depth + 1);
      MOE_TRY(write(l.items[i], depth + 1));
    }
    if (!l.items.empty()) newline(depth);
    out_ += ']';
    return {};
  }

  Status key(const Value& k) {
    if (k.str() != nullptr) return string(k.str()->text);
    const std::string scalar = scalar_text(k);
    if (scalar.empty())
      return moe::invalid(fmt::format("keys must be str, int, float, bool or None, not {}", k.type_name()));
    out_ += fmt::format("\"{}\"", scalar);
    return {};
  }

  Status dict(const Dict& d, size_t depth) {
    std::vector<size_t> order(d.entries.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (style_.sort_keys) {
      const bool strings =
          std::all_of(d.entries.begin(), d.entries.end(), [](const auto& e) { return e.first.str() != nullptr; });
      if (!strings) return moe::invalid("tojson: expected string keys to sort, got others");
      std::sort(order.begin(), order.end(),
                [&](size_t a, size_t b) { return d.entries[a].first.str()->text < d.entries[b].first.str()->text; });
    }
    out_ += '{';
    for (size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_ += style_.between_items;
      newline(depth + 1);
      MOE_TRY(key(d.entries[order[i]].first));
      out_ += style_.after_key;
      MOE_TRY(write(d.entries[order[i]].second, depth + 1));
    }
    if (!order.empty()) newline(depth);
    out_ += '}';
    return {};
  }

  Interpreter& in_;
  const JsonStyle& style_;
  std::string& out_;
};

}  // namespace

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  const std::string_view all(buffer, static_cast<size_t>(end - buffer));
  const size_t e = all.find('e');
  const int exponent = std::atoi(std::string(all.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(all);
  const bool negative = all[0] == '-';
  std::string digits;
  for (const char c : all.substr(0, e)) {
    if (c != '.' && c != '-') digits += c;
  }
  std::string out = negative ? "-" : "";
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

Status append_text(Interpreter& in, std::string& out, const Value& value) {
  if (value.is_undefined()) return {};
  const Str* s = value.str();
  if (s == nullptr) return Printer(in, out).repr(value);
  MOE_TRY(in.pay_bytes(s->text.size()));
  MOE_TRY(in.check_bytes(out.size() + s->text.size()));
  out += s->text;
  return {};
}

Result<std::string> to_text(Interpreter& in, const Value& value) {
  std::string out;
  MOE_TRY(append_text(in, out, value));
  return out;
}

Result<std::string> to_repr(Interpreter& in, const Value& value) {
  std::string out;
  MOE_TRY(Printer(in, out).repr(value));
  return out;
}

Result<std::string> to_json(Interpreter& in, const Value& value, const JsonStyle& style) {
  std::string out;
  MOE_TRY(JsonWriter(in, style, out).write(value, 0));
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace patchbay::jinja
