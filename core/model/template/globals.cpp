// Global functions.
#include <fmt/format.h>

#include <array>

#include "core/model/template/builtins.hpp"
#include "core/model/template/objects.hpp"
#include "core/model/template/print.hpp"

namespace patchbay::jinja {
namespace {

// The sandbox of Jinja2 draws the same line.
constexpr int64_t kMaxRange = 100'000;

Result<Value> range_function(Interpreter& in, Args& args) {
  if (args.positional.empty() || args.positional.size() > 3 || !args.named.empty())
    return moe::invalid("range: expected 1 to 3 arguments");
  std::array<int64_t, 3> bounds = {0, 0, 1};
  for (size_t i = 0; i < args.positional.size(); ++i) {
    const auto n = args.positional[i].as_int();
    if (!n) return wrong_type("range", "integers", args.positional[i]);
    bounds[args.positional.size() == 1 ? 1 : i] = *n;
  }
  const auto [start, stop, by] = bounds;
  if (by == 0) return moe::invalid("range() arg 3 must not be zero");
  const bool any = by > 0 ? start < stop : start > stop;
  const uint64_t distance = by > 0 ? static_cast<uint64_t>(stop) - static_cast<uint64_t>(start)
                                   : static_cast<uint64_t>(start) - static_cast<uint64_t>(stop);
  const uint64_t stride = by > 0 ? static_cast<uint64_t>(by) : 0 - static_cast<uint64_t>(by);
  const uint64_t n = any ? (distance - 1) / stride + 1 : 0;
  if (n > static_cast<uint64_t>(kMaxRange)) {
    return moe::exhausted(
        fmt::format("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange));
  }
  MOE_TRY(in.step(n / 8));
  std::vector<Value> items;
  items.reserve(n);
  for (uint64_t i = 0; i < n; ++i)
    items.emplace_back(static_cast<int64_t>(static_cast<uint64_t>(start) + i * static_cast<uint64_t>(by)));
  return in.list(std::move(items), Flavor::kRange);
}

// dict(mapping or pairs, name=value, ...): the entries of both.
Result<Dict> entries(Interpreter& in, std::string_view function, Args& args) {
  Dict out;
  if (args.positional.size() > 1)
    return moe::invalid(fmt::format("{}: expected at most 1 argument, got {}", function, args.positional.size()));
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.dict() != nullptr) {
      MOE_TRY(in.step(source.dict()->entries.size()));
      for (const auto& [key, value] : source.dict()->entries) out.set(key, value);
    } else {
      MOE_ASSIGN(const auto pairs, in.iterate(source));
      for (const Value& pair : pairs->items) {
        MOE_TRY(in.step());
        MOE_ASSIGN(const auto parts, in.iterate(pair));
        if (parts->items.size() != 2)
          return moe::invalid(fmt::format("{}: expected pairs, got {} items", function, parts->items.size()));
        MOE_TRY(hashable(parts->items[0]));
        out.set(parts->items[0], parts->items[1]);
      }
    }
  }
  for (auto& [name, value] : args.named) out.set(Value::text(name), std::move(value));
  return out;
}

Result<Value> dict_function(Interpreter& in, Args& args) {
  MOE_ASSIGN(Dict out, entries(in, "dict", args));
  return in.dict(std::move(out));
}

Result<Value> namespace_function(Interpreter& in, Args& args) {
  MOE_ASSIGN(const Dict initial, entries(in, "namespace", args));
  auto space = std::make_shared<Namespace>();
  MOE_TRY(in.keep(space));
  for (const auto& [key, value] : initial.entries) {
    if (key.str() == nullptr) return wrong_type("namespace", "string keys", key);
    MOE_TRY(space->set(in, key.str()->text, value));
  }
  return Value(std::shared_ptr<Object>(std::move(space)));
}

Result<Value> raise_exception(Interpreter& in, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("raise_exception", args, {"message"}, 1));
  MOE_ASSIGN(std::string message, to_text(in, *p.get(0)));
  return moe::invalid(std::move(message));
}

Result<Value> strftime_now(Interpreter& in, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("strftime_now", args, {"format"}, 1));
  MOE_ASSIGN(const std::string format, p.text(0, ""));
  std::tm now{};
  if (in.now()) {
    now = *in.now();
  } else {
    const std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &now);
  }
  if (format.find('\0') != std::string::npos) return moe::invalid("embedded null character");
  // The closing mark tells an empty result from one that does not fit.
  char buffer[1024];
  const size_t n = std::strftime(buffer, sizeof buffer, (format + "|").c_str(), &now);
  if (n == 0) return moe::exhausted("strftime_now: expected at most 1022 bytes of text, got more");
  return in.text(std::string(buffer, n - 1));
}

Result<Value> cycler_function(Interpreter& in, Args& args) {
  if (args.positional.empty()) return moe::invalid("at least one item has to be provided");
  MOE_ASSIGN(const Value items, in.list(std::move(args.positional)));
  auto cycler = std::make_shared<Cycler>();
  cycler->items = items.shared_list();
  cycler->self = cycler;
  return Value(std::shared_ptr<Object>(std::move(cycler)));
}

Result<Value> joiner_function(Interpreter&, Args& args) {
  MOE_ASSIGN(const Params p, Params::bind("joiner", args, {"sep"}));
  auto joiner = std::make_shared<Joiner>();
  if (p.get(0) != nullptr) {
    joiner->separator = *p.get(0);
  } else {
    joiner->separator = Value::text(", ");
  }
  return Value(std::shared_ptr<Object>(std::move(joiner)));
}

Result<Value> cycler_next(Interpreter&, const Value& self, Args&) {
  auto* cycler = dynamic_cast<Cycler*>(self.object());
  const size_t at = std::exchange(cycler->at, (cycler->at + 1) % cycler->items->items.size());
  return cycler->items->items[at];
}

Result<Value> cycler_reset(Interpreter&, const Value& self, Args&) {
  dynamic_cast<Cycler*>(self.object())->at = 0;
  const Value none{None{}};
  return none;
}

constexpr Named<Function::Body> kFunctions[] = {
    {"cycler", cycler_function},          {"dict", dict_function},
    {"joiner", joiner_function},          {"namespace", namespace_function},
    {"raise_exception", raise_exception}, {"range", range_function},
    {"strftime_now", strftime_now},
};

}  // namespace

Result<Value> Cycler::attribute(Interpreter& in, std::string_view name) {
  if (name == "current") return items->items[at];
  const Value me(self.lock());
  if (name == "next") return Value(std::shared_ptr<Object>(std::make_shared<Method>(me, cycler_next)));
  if (name == "reset") return Value(std::shared_ptr<Object>(std::make_shared<Method>(me, cycler_reset)));
  return Object::attribute(in, name);
}

Result<Value> Joiner::call(Interpreter&, Args&) {
  if (!std::exchange(used, true)) return Value::text("");
  return separator;
}

Value find_global(std::string_view name) {
  const Function::Body body = find_named(kFunctions, name);
  if (body == nullptr) return {};
  return Value(std::shared_ptr<Object>(std::make_shared<Function>(body)));
}

}  // namespace patchbay::jinja
