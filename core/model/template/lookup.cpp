// Attributes, subscripts, slices and iteration.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"
#include "core/model/template/objects.hpp"
#include "core/model/template/print.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

// Methods that change their object exist in Python and are refused by the immutable sandbox.
constexpr std::string_view kListChanges[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
constexpr std::string_view kDictChanges[] = {"clear", "pop", "popitem", "setdefault", "update"};

template <size_t n>
bool among(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool is_unsafe(const Value& of, std::string_view name) {
  if (name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__") return true;
  if (of.dict() != nullptr) return among(kDictChanges, name);
  return of.is_list(Flavor::kList) && among(kListChanges, name);
}

MethodFn find_method(const Value& of, std::string_view name) {
  if (of.str() != nullptr) return find_string_method(name);
  if (of.dict() != nullptr) return find_dict_method(name);
  if (of.is_list(Flavor::kList) || of.is_list(Flavor::kTuple) || of.is_list(Flavor::kRange))
    return find_list_method(name);
  return nullptr;
}

std::string described(const Value& of) { return of.is_none() ? "'None'" : fmt::format("'{} object'", of.type_name()); }

Value missing_attribute(const Value& of, std::string_view name) {
  return undefined(fmt::format("{} has no attribute '{}'", described(of), name));
}

// An attribute in Python's sense: a method. `found` tells that from undefined.
Value method_of(const Value& of, std::string_view name, bool& found) {
  found = true;
  if (is_unsafe(of, name)) {
    return undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, of.type_name()));
  }
  if (const MethodFn body = find_method(of, name)) {
    return Value(std::shared_ptr<Object>(std::make_shared<Method>(of, body)));
  }
  found = false;
  return {};
}

bool can_index(const Value& of) {
  const List* l = of.list();
  return of.str() != nullptr || (l != nullptr && l->flavor <= Flavor::kRange);
}

size_t length_of(const Value& of) { return of.str() != nullptr ? of.str()->n_chars : of.list()->items.size(); }

Result<Value> char_at(Interpreter& in, const Str& s, size_t index) {
  if (s.ascii()) return in.text(s.text.substr(index, 1));
  MOE_TRY(in.pay_bytes(s.text.size()));
  const size_t begin = offset_of(s.text, index);
  return in.text(s.text.substr(begin, next_char(s.text, begin) - begin));
}

// The bounds of a slice after Python's rules: from start by step, n items.
struct Range {
  int64_t start;
  int64_t step;
  size_t n;
};

Result<Range> resolve(size_t length, const Value& start, const Value& stop, const Value& step) {
  const auto size = static_cast<int64_t>(length);
  const auto whole = [](const Value& v) { return v.is_none() || v.as_int().has_value(); };
  if (!whole(start) || !whole(stop) || !whole(step)) {
    for (const Value* v : {&start, &stop, &step}) {
      if (v->is_undefined()) return undefined_error(*v);
    }
    return moe::invalid("slice indices must be integers or None or have an __index__ method");
  }
  const int64_t by = step.as_int().value_or(1);
  if (by == 0) return moe::invalid("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1;
  const int64_t high = by > 0 ? size : size - 1;
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? std::max(i, -size - 1) + size : i, low, high); };
  const int64_t first = start.as_int() ? clamp(*start.as_int()) : (by > 0 ? low : high);
  const int64_t last = stop.as_int() ? clamp(*stop.as_int()) : (by > 0 ? high : low);
  const int64_t distance = by > 0 ? last - first : first - last;
  if (distance <= 0) return Range{0, 1, 0};
  const uint64_t stride = by > 0 ? static_cast<uint64_t>(by) : 0 - static_cast<uint64_t>(by);
  return Range{first, by, static_cast<size_t>((static_cast<uint64_t>(distance) - 1) / stride + 1)};
}

Result<Value> slice_text(Interpreter& in, const Str& s, const Range& range) {
  MOE_TRY(in.pay_bytes(s.text.size()));
  if (range.step == 1) {
    const size_t begin =
        s.ascii() ? static_cast<size_t>(range.start) : offset_of(s.text, static_cast<size_t>(range.start));
    const std::string_view rest = std::string_view(s.text).substr(std::min(begin, s.text.size()));
    return in.text(std::string(rest.substr(0, s.ascii() ? range.n : offset_of(rest, range.n))), s.markup);
  }
  MOE_TRY(in.step(s.n_chars / 8));
  const auto chars = split_chars(s.text);
  std::string out;
  int64_t at = range.start;
  for (size_t i = 0; i < range.n; ++i, at += i < range.n ? range.step : 0) out += chars[static_cast<size_t>(at)];
  return in.text(std::move(out), s.markup);
}

}  // namespace

Result<Value> Interpreter::attribute(const Value& of, std::string_view name) {
  if (of.is_undefined()) return undefined_error(of);
  if (of.object() != nullptr) return of.object()->attribute(*this, name);
  if (const List* l = of.list(); l != nullptr && l->is_group && (name == "grouper" || name == "list")) {
    return l->items[name == "grouper" ? 0 : 1];
  }
  bool found = false;
  Value method = method_of(of, name, found);
  if (found) return method;
  if (const Dict* d = of.dict()) {
    if (const Value* value = d->find(name)) return *value;
  }
  return missing_attribute(of, name);
}

Result<Value> Interpreter::item(const Value& of, const Value& key) {
  if (of.is_undefined()) return undefined_error(of);
  if (const Dict* d = of.dict(); d != nullptr && hashable(key).ok()) {
    MOE_TRY(step(key.weight() - 1));
    if (const Value* value = d->find(key)) return *value;
  }
  if (const auto index = key.as_int(); index && can_index(of)) {
    const auto size = static_cast<int64_t>(length_of(of));
    const int64_t i = *index < 0 ? *index + size : *index;
    if (i >= 0 && i < size) {
      return of.str() != nullptr ? char_at(*this, *of.str(), static_cast<size_t>(i))
                                 : of.list()->items[static_cast<size_t>(i)];
    }
  }
  if (const Str* name = key.str()) {
    if (of.dict() == nullptr) return attribute(of, name->text);
    bool found = false;
    Value method = method_of(of, name->text, found);
    return found ? method : missing_attribute(of, name->text);
  }
  MOE_ASSIGN(const std::string shown, to_repr(*this, key));
  return undefined(fmt::format("{} has no element {}", described(of), shown));
}

Result<Value> Interpreter::slice(const Value& of, const Value& start, const Value& stop, const Value& step_by) {
  if (of.is_undefined()) return undefined_error(of);
  if (!can_index(of)) return moe::invalid(fmt::format("'{}' object is not subscriptable by a slice", of.type_name()));
  MOE_ASSIGN(const Range range, resolve(length_of(of), start, stop, step_by));
  if (of.str() != nullptr) return slice_text(*this, *of.str(), range);
  std::vector<Value> out;
  MOE_TRY(step(range.n / 8));
  MOE_TRY(check_bytes(range.n * sizeof(Value)));
  out.reserve(range.n);
  int64_t at = range.start;
  for (size_t i = 0; i < range.n; ++i, at += i < range.n ? range.step : 0)
    out.push_back(of.list()->items[static_cast<size_t>(at)]);
  return list(std::move(out), of.list()->flavor);
}

Result<std::shared_ptr<const List>> Interpreter::iterate(const Value& value) {
  static const auto kEmpty = std::make_shared<const List>();
  if (value.is_undefined()) return kEmpty;
  if (auto items = value.shared_list()) {
    if (items->flavor != Flavor::kGenerator) return items;
    return std::exchange(items->consumed, true) ? kEmpty : items;
  }
  std::vector<Value> out;
  if (const Dict* d = value.dict()) {
    MOE_TRY(step(d->entries.size() / 8));
    for (const auto& entry : d->entries) out.push_back(entry.first);
  } else if (const Str* s = value.str()) {
    for (const std::string_view c : split_chars(s->text)) {
      MOE_TRY(step());
      MOE_ASSIGN(Value character, text(std::string(c)));
      out.push_back(std::move(character));
    }
  } else {
    return moe::invalid(fmt::format("'{}' object is not iterable", value.type_name()));
  }
  MOE_ASSIGN(const Value made, list(std::move(out)));
  return made.shared_list();
}

}  // namespace patchbay::jinja
