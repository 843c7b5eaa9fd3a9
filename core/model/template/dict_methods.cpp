// The methods of dicts and lists that change nothing.
#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/builtins.hpp"

namespace patchbay::jinja {
namespace {

Result<Value> dict_get(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("get", args, {"key", "default"}, 1));
  MOE_TRY(hashable(*p.get(0)));
  MOE_TRY(in.step(p.get(0)->weight() - 1));
  if (const Value* value = self.dict()->find(*p.get(0))) return *value;
  return p.get(1) != nullptr ? *p.get(1) : Value(None{});
}

Result<Value> dict_items(Interpreter& in, const Value& self, Args& args) {
  MOE_TRY(Params::bind("items", args, {}));
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict()->entries) {
    MOE_ASSIGN(Value pair, in.list({key, value}, Flavor::kTuple));
    out.push_back(std::move(pair));
  }
  return in.list(std::move(out), Flavor::kItems);
}

Result<Value> dict_keys(Interpreter& in, const Value& self, Args& args) {
  MOE_TRY(Params::bind("keys", args, {}));
  std::vector<Value> out;
  for (const auto& entry : self.dict()->entries) out.push_back(entry.first);
  return in.list(std::move(out), Flavor::kKeys);
}

Result<Value> dict_values(Interpreter& in, const Value& self, Args& args) {
  MOE_TRY(Params::bind("values", args, {}));
  std::vector<Value> out;
  for (const auto& entry : self.dict()->entries) out.push_back(entry.second);
  return in.list(std::move(out), Flavor::kValues);
}

// Values do not change, so a copy is the thing itself.
Result<Value> copy(Interpreter&, const Value& self, Args& args) {
  MOE_TRY(Params::bind("copy", args, {}));
  return self;
}

Result<Value> list_index(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("index", args, {"value", "start", "stop"}, 1));
  const auto size = static_cast<int64_t>(self.list()->items.size());
  MOE_ASSIGN(int64_t start, p.integer(1, 0));
  MOE_ASSIGN(int64_t stop, p.integer(2, size));
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? std::max(i, -size) + size : i, int64_t{0}, size); };
  for (int64_t i = clamp(start); i < clamp(stop); ++i) {
    const Value& item = self.list()->items[static_cast<size_t>(i)];
    MOE_TRY(in.step(std::min(item.weight(), p.get(0)->weight())));
    if (equal(item, *p.get(0))) return Value(i);
  }
  return moe::invalid("list.index(x): x not in list");
}

Result<Value> list_count(Interpreter& in, const Value& self, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("count", args, {"value"}, 1));
  int64_t n = 0;
  for (const Value& item : self.list()->items) {
    MOE_TRY(in.step(std::min(item.weight(), p.get(0)->weight())));
    n += equal(item, *p.get(0)) ? 1 : 0;
  }
  return Value(n);
}

constexpr Named<MethodFn> kDictMethods[] = {
    {"copy", copy}, {"get", dict_get}, {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
};

constexpr Named<MethodFn> kListMethods[] = {{"copy", copy}, {"count", list_count}, {"index", list_index}};

}  // namespace

MethodFn find_dict_method(std::string_view name) { return find_named(kDictMethods, name); }
MethodFn find_list_method(std::string_view name) { return find_named(kListMethods, name); }

}  // namespace patchbay::jinja
