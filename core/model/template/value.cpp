#include "core/model/template/value.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

// Few entries are found faster by looking at each.
constexpr size_t kIndexFrom = 8;

uint64_t hash_number(const Value& value) {
  if (const auto i = value.as_int()) return std::hash<int64_t>{}(*i);
  const double d = *value.real();
  // 2.0 == 2, so they must share a hash.
  if (d == std::floor(d) && std::fabs(d) < 9.0e18) return std::hash<int64_t>{}(static_cast<int64_t>(d));
  return std::hash<double>{}(d);
}

bool equal_numbers(const Value& a, const Value& b) {
  const auto x = a.as_int();
  const auto y = b.as_int();
  if (x && y) return *x == *y;
  // long double holds every int64 exactly, so 2^53 + 1 differs from 2.0^53.
  const long double p = x ? static_cast<long double>(*x) : static_cast<long double>(*a.real());
  const long double q = y ? static_cast<long double>(*y) : static_cast<long double>(*b.real());
  return p == q;
}

bool equal_lists(const List& a, const List& b) {
  if (a.flavor != b.flavor || a.flavor == Flavor::kGenerator || a.flavor == Flavor::kValues) return &a == &b;
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    const Value* other = b.find(entry.first);
    return other != nullptr && equal(entry.second, *other);
  });
}

}  // namespace

Value Value::text(std::string s) {
  auto str = std::make_shared<Str>();
  str->n_chars = count_chars(s);
  str->text = std::move(s);
  return Value(std::shared_ptr<const Str>(std::move(str)));
}

std::optional<int64_t> Value::as_int() const {
  if (const int64_t* i = integer()) return *i;
  if (const bool* b = boolean()) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::as_number() const {
  if (const double* d = real()) return *d;
  if (const auto i = as_int()) return static_cast<double>(*i);
  return std::nullopt;
}

bool Value::truthy() const {
  if (const auto n = as_number()) return *n != 0;
  if (const Str* s = str()) return !s->text.empty();
  if (const List* l = list()) return l->flavor == Flavor::kGenerator || !l->items.empty();
  if (const Dict* d = dict()) return !d->entries.empty();
  return object() != nullptr;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (boolean() != nullptr) return "bool";
  if (integer() != nullptr) return "int";
  if (real() != nullptr) return "float";
  if (const Str* s = str()) return s->markup ? "Markup" : "str";
  if (dict() != nullptr) return "dict";
  if (object() != nullptr) return object()->type_name();
  switch (list()->flavor) {
    case Flavor::kList:
      return "list";
    case Flavor::kTuple:
      return "tuple";
    case Flavor::kRange:
      return "range";
    case Flavor::kItems:
      return "dict_items";
    case Flavor::kKeys:
      return "dict_keys";
    case Flavor::kValues:
      return "dict_values";
    case Flavor::kGenerator:
      break;
  }
  return "generator";
}

size_t Value::depth() const {
  if (const List* l = list()) return l->depth;
  if (const Dict* d = dict()) return d->depth;
  if (object() != nullptr) return object()->depth();
  return 0;
}

size_t Value::weight() const {
  if (const Str* s = str()) return 1 + s->text.size() / 64;
  if (const List* l = list()) return l->weight;
  if (const Dict* d = dict()) return d->weight;
  return 1;
}

const Value* Dict::find(const Value& key) const {
  if (entries.size() < kIndexFrom) {
    const auto it = std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return equal(e.first, key); });
    return it == entries.end() ? nullptr : &it->second;
  }
  const auto [first, last] = index.equal_range(hash_of(key));
  for (auto it = first; it != last; ++it) {
    if (equal(entries[it->second].first, key)) return &entries[it->second].second;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto is_key = [&](const Value& k) { return k.str() != nullptr && k.str()->text == key; };
  if (entries.size() < kIndexFrom) {
    const auto it = std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return is_key(e.first); });
    return it == entries.end() ? nullptr : &it->second;
  }
  const auto [first, last] = index.equal_range(std::hash<std::string_view>{}(key));
  for (auto it = first; it != last; ++it) {
    if (is_key(entries[it->second].first)) return &entries[it->second].second;
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  depth = std::max({depth, key.depth() + 1, value.depth() + 1});
  weight += key.weight() + value.weight();
  if (const Value* old = find(key)) {
    const_cast<Value&>(*old) = std::move(value);  // find is const for readers; the dict is still ours while it is built
    return;
  }
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() < kIndexFrom) return;
  const size_t from = entries.size() == kIndexFrom ? 0 : entries.size() - 1;
  for (size_t i = from; i < entries.size(); ++i) index.emplace(hash_of(entries[i].first), i);
}

bool equal(const Value& a, const Value& b) {
  if (a.as_number() && b.as_number()) return equal_numbers(a, b);
  if (a.str() != nullptr && b.str() != nullptr) return a.str()->text == b.str()->text;
  if (a.list() != nullptr && b.list() != nullptr) return equal_lists(*a.list(), *b.list());
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(*a.dict(), *b.dict());
  if (a.object() != nullptr && b.object() != nullptr) return a.object() == b.object();
  return (a.is_undefined() && b.is_undefined()) || (a.is_none() && b.is_none());
}

uint64_t hash_of(const Value& value) {
  if (value.as_number()) return hash_number(value);
  if (const Str* s = value.str()) return std::hash<std::string_view>{}(s->text);
  if (const List* l = value.list()) {
    uint64_t h = l->items.size();
    for (const Value& item : l->items) h = h * 0x9E3779B97F4A7C15ULL + hash_of(item);
    return h;
  }
  return std::hash<const void*>{}(value.object());
}

Status hashable(const Value& value) {
  const List* l = value.list();
  if (value.dict() != nullptr || (l != nullptr && l->flavor != Flavor::kTuple)) {
    return moe::invalid(fmt::format("unhashable type: '{}'", value.type_name()));
  }
  if (l == nullptr) return {};
  for (const Value& item : l->items) MOE_TRY(hashable(item));
  return {};
}

}  // namespace patchbay::jinja
