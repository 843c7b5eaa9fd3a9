// The values that a template computes with: Python's, minus everything that could reach the host.
//
// Strings, lists and dicts never change once made (the sandbox forbids it, as transformers' does), so sharing them is
// safe and no cycle can form through them. Each carries its depth; a value deeper than kMaxValueDepth is refused, so
// that walking and destroying values may recurse.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "moe/sdk/result.hpp"

namespace patchbay::jinja {

using moe::Result;
using moe::Status;

inline constexpr size_t kMaxValueDepth = 200;
// A list that holds one list twice, sixty times over, is small in memory and endless to walk. So a value also knows
// what it weighs when walked as a tree, and a heavier one is refused.
inline constexpr size_t kMaxValueWeight = size_t{1} << 24;

class Value;
struct Args;
class Interpreter;

// Bytes alive during one render. It outlives every value of that render.
struct Meter {
  size_t live_bytes = 0;
  size_t max_bytes = SIZE_MAX;
};

// Keeps bytes counted for as long as it lives. Without a meter (constants of the program) it counts nothing.
class Charge {
 public:
  Charge() = default;
  Charge(Meter* meter, size_t bytes) : meter_(meter), bytes_(bytes) {
    if (meter_ != nullptr) meter_->live_bytes += bytes_;
  }
  Charge(Charge&& other) noexcept : meter_(std::exchange(other.meter_, nullptr)), bytes_(other.bytes_) {}
  Charge& operator=(Charge&& other) noexcept {
    std::swap(meter_, other.meter_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Charge() {
    if (meter_ != nullptr) meter_->live_bytes -= bytes_;
  }

 private:
  Meter* meter_ = nullptr;
  size_t bytes_ = 0;
};

// Text. `markup` marks what the filters escape and safe made: adding plain text to it escapes that text.
struct Str {
  std::string text;
  size_t n_chars = 0;
  bool markup = false;
  Charge charge;

  [[nodiscard]] bool ascii() const { return n_chars == text.size(); }
};

// Python's sequence types differ in what they print as and in what they can do; a generator can be read once and has no
// length.
enum class Flavor : uint8_t { kList, kTuple, kRange, kItems, kKeys, kValues, kGenerator };

struct List {
  std::vector<Value> items;
  Flavor flavor = Flavor::kList;
  bool is_group = false;  // of groupby: a tuple whose items are also .grouper and .list
  size_t depth = 1;
  size_t weight = 1;
  mutable bool consumed = false;  // generators only
  Charge charge;
};

// Keys in order of insertion, found by hash.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_multimap<uint64_t, size_t> index;  // hash of the key -> position
  size_t depth = 1;
  size_t weight = 1;
  Charge charge;

  // The value of a key, or null. The key is hashable.
  [[nodiscard]] const Value* find(const Value& key) const;
  [[nodiscard]] const Value* find(std::string_view key) const;
  // Adds the entry, or changes the value of the key's.
  void set(Value key, Value value);
};

// What is not data: namespaces, macros, functions, methods, the loop.
struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;
  // Python's name of the type, for messages.
  [[nodiscard]] virtual std::string_view type_name() const = 0;
  [[nodiscard]] virtual bool callable() const { return false; }
  virtual Result<Value> call(Interpreter& in, Args& args);
  // An attribute or undefined.
  virtual Result<Value> attribute(Interpreter& in, std::string_view name);
  [[nodiscard]] virtual size_t depth() const { return 1; }
  // Drops the values that it holds.
  virtual void clear() {}
};

struct Undefined {
  std::shared_ptr<const std::string> why;  // what using it says
};
struct None {};

class Value {
 public:
  Value() = default;                                              // undefined, without a reason
  Value(Undefined u) : state_(std::move(u)) {}                    // NOLINT: implicit by design, here and below
  Value(None n) : state_(n) {}                                    // NOLINT
  Value(bool b) : state_(b) {}                                    // NOLINT
  Value(int64_t i) : state_(i) {}                                 // NOLINT
  Value(double d) : state_(d) {}                                  // NOLINT
  Value(std::shared_ptr<const Str> s) : state_(std::move(s)) {}   // NOLINT
  Value(std::shared_ptr<const List> l) : state_(std::move(l)) {}  // NOLINT
  Value(std::shared_ptr<const Dict> d) : state_(std::move(d)) {}  // NOLINT
  Value(std::shared_ptr<Object> o) : state_(std::move(o)) {}      // NOLINT
  Value(const char*) = delete;                                    // would become a bool
  // Text that no meter counts: constants of the program and of the library.
  static Value text(std::string s);

  [[nodiscard]] bool is_undefined() const { return std::holds_alternative<Undefined>(state_); }
  [[nodiscard]] bool is_none() const { return std::holds_alternative<None>(state_); }
  [[nodiscard]] const bool* boolean() const { return std::get_if<bool>(&state_); }
  [[nodiscard]] const int64_t* integer() const { return std::get_if<int64_t>(&state_); }
  [[nodiscard]] const double* real() const { return std::get_if<double>(&state_); }
  [[nodiscard]] const Str* str() const { return pointee<Str>(); }
  [[nodiscard]] const List* list() const { return pointee<List>(); }
  [[nodiscard]] const Dict* dict() const { return pointee<Dict>(); }
  [[nodiscard]] Object* object() const {
    const auto* p = std::get_if<std::shared_ptr<Object>>(&state_);
    return p == nullptr ? nullptr : p->get();
  }
  [[nodiscard]] std::shared_ptr<const List> shared_list() const {
    const auto* p = std::get_if<std::shared_ptr<const List>>(&state_);
    return p == nullptr ? nullptr : *p;
  }
  [[nodiscard]] const Undefined* undefined() const { return std::get_if<Undefined>(&state_); }
  [[nodiscard]] bool is_list(Flavor flavor) const { return list() != nullptr && list()->flavor == flavor; }

  // An integer or a bool as an integer, as Python's arithmetic takes them.
  [[nodiscard]] std::optional<int64_t> as_int() const;
  // Any number as a double.
  [[nodiscard]] std::optional<double> as_number() const;
  [[nodiscard]] bool truthy() const;
  [[nodiscard]] std::string_view type_name() const;
  [[nodiscard]] size_t depth() const;
  // Nodes that a walk visits, long text counted as more than one.
  [[nodiscard]] size_t weight() const;

 private:
  template <typename T>
  [[nodiscard]] const T* pointee() const {
    const auto* p = std::get_if<std::shared_ptr<const T>>(&state_);
    return p == nullptr ? nullptr : p->get();
  }

  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Str>, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Object>>
      state_;
};

// The arguments of a call.
struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Equality as ==; never fails.
bool equal(const Value& a, const Value& b);
// Only for hashable values; equal values have equal hashes.
uint64_t hash_of(const Value& value);
// An error "unhashable type: 'list'" for what cannot be a key.
Status hashable(const Value& value);

}  // namespace patchbay::jinja
