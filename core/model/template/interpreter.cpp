#include "core/model/template/interpreter.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/model/template/unicode.hpp"

namespace patchbay::jinja {
namespace {

constexpr size_t kMaxJsonDepth = 100;
// What the bookkeeping of a node costs beside its payload.
constexpr size_t kNodeBytes = 96;

}  // namespace

void Scope::set(uint32_t name, Value value) {
  const auto it = std::find_if(variables.begin(), variables.end(), [&](const auto& v) { return v.first == name; });
  if (it != variables.end()) {
    it->second = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

const Value* Scope::find(uint32_t name) const {
  for (const Scope* s = this; s != nullptr; s = s->parent) {
    const auto it =
        std::find_if(s->variables.begin(), s->variables.end(), [&](const auto& v) { return v.first == name; });
    if (it != s->variables.end()) return &it->second;
  }
  return nullptr;
}

Interpreter::~Interpreter() {
  // Macros see scopes and scopes hold macros; namespaces may hold themselves. Everything stays owned while the links
  // are cut.
  for (const auto& scope : pinned_) scope->variables.clear();
  for (const auto& object : kept_) object->clear();
}

Result<std::string> Interpreter::run(const nlohmann::ordered_json& context) {
  if (!context.is_object()) return moe::invalid("template context: expected an object, got another type");
  std::string output;
  const InScope top(*this, nullptr);
  for (uint32_t id = 0; id < program_.names.size(); ++id) {
    const auto it = context.find(program_.names[id]);
    if (it == context.end()) continue;
    auto value = from_json(*it);
    if (!value.ok()) return value.error().in(fmt::format("variable '{}'", program_.names[id]));
    scope_->set(id, std::move(value).value());
  }
  // The template's own variables shadow the context's, so they get a scope of their own.
  const InScope own(*this, scope_);
  out_ = &output;
  const auto flow = exec(program_.body);
  if (!flow.ok()) return flow.error().in(fmt::format("line {}", error_line_));
  return output;
}

Status Interpreter::step(size_t n) {
  n_steps_ += n;
  if (n_steps_ <= budget_.max_steps) return {};
  return moe::exhausted(fmt::format("template: expected at most {} steps, got more", budget_.max_steps));
}

Status Interpreter::check_bytes(size_t bytes) const {
  if (bytes <= meter_.max_bytes && meter_.live_bytes <= meter_.max_bytes - bytes) return {};
  return moe::exhausted(fmt::format("template: expected at most {} bytes of values, got more", meter_.max_bytes));
}

Result<Value> Interpreter::text(std::string s, bool markup) {
  MOE_TRY(pay_bytes(s.size()));
  MOE_TRY(check_bytes(s.size() + kNodeBytes));
  auto str = std::make_shared<Str>();
  str->n_chars = count_chars(s);
  str->charge = Charge(&meter_, s.size() + kNodeBytes);
  str->text = std::move(s);
  str->markup = markup;
  return Value(std::shared_ptr<const Str>(std::move(str)));
}

Result<Value> Interpreter::list(std::vector<Value> items, Flavor flavor) {
  const size_t bytes = items.size() * sizeof(Value) + kNodeBytes;
  MOE_TRY(pay_bytes(bytes));
  MOE_TRY(check_bytes(bytes));
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->depth = std::max(list->depth, item.depth() + 1);
    list->weight += item.weight();
  }
  if (list->depth > kMaxValueDepth) {
    return moe::exhausted(fmt::format("list: expected at most {} levels of nesting, got more", kMaxValueDepth));
  }
  if (list->weight > kMaxValueWeight) return moe::exhausted("list: expected fewer items, counted through all levels");
  list->items = std::move(items);
  list->flavor = flavor;
  list->charge = Charge(&meter_, bytes);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Result<Value> Interpreter::dict(Dict d) {
  const size_t bytes = d.entries.size() * (2 * sizeof(Value) + 48) + kNodeBytes;
  MOE_TRY(pay_bytes(bytes));
  MOE_TRY(check_bytes(bytes));
  if (d.depth > kMaxValueDepth) {
    return moe::exhausted(fmt::format("dict: expected at most {} levels of nesting, got more", kMaxValueDepth));
  }
  if (d.weight > kMaxValueWeight) return moe::exhausted("dict: expected fewer items, counted through all levels");
  d.charge = Charge(&meter_, bytes);
  return Value(std::shared_ptr<const Dict>(std::make_shared<Dict>(std::move(d))));
}

Result<Value> Interpreter::from_json(const nlohmann::ordered_json& json, size_t depth) {
  if (depth > kMaxJsonDepth)
    return moe::exhausted(fmt::format("expected at most {} levels of nesting, got more", kMaxJsonDepth));
  MOE_TRY(step(0));
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::null:
      return Value(None{});
    case Type::boolean:
      return Value(json.get<bool>());
    case Type::number_integer:
      return Value(json.get<int64_t>());
    case Type::number_float:
      return Value(json.get<double>());
    case Type::string:
      return text(json.get_ref<const std::string&>());
    case Type::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
        return moe::invalid("expected an integer within 64 bits, got a larger one");
      return Value(static_cast<int64_t>(json.get<uint64_t>()));
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& element : json) {
        MOE_ASSIGN(Value item, from_json(element, depth + 1));
        items.push_back(std::move(item));
      }
      return list(std::move(items));
    }
    case Type::object: {
      Dict out;
      for (const auto& [key, element] : json.items()) {
        MOE_ASSIGN(Value name, text(key));
        MOE_ASSIGN(Value value, from_json(element, depth + 1));
        out.set(std::move(name), std::move(value));
      }
      return dict(std::move(out));
    }
    case Type::binary:
    case Type::discarded:
      break;
  }
  return moe::invalid("expected a JSON value, got another");
}

Status Interpreter::keep(std::shared_ptr<Object> object) {
  MOE_TRY(check_bytes(2 * kNodeBytes));
  meter_.live_bytes += 2 * kNodeBytes;
  kept_.push_back(std::move(object));
  return {};
}

Status Interpreter::pin(Scope* scope) {
  for (; scope != nullptr && !scope->pinned; scope = scope->parent) {
    MOE_TRY(check_bytes(2 * kNodeBytes));
    meter_.live_bytes += 2 * kNodeBytes;
    scope->pinned = true;
  }
  return {};
}

}  // namespace patchbay::jinja
