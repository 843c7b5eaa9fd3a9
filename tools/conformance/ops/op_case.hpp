// One call of a backend operation as data: arguments, arrays and weights on the host, and how far a right answer may be
// from the loops'. op_cases.hpp makes them, op_run.hpp runs them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "moe/abi/ops.h"
#include "moe/sdk/compute.hpp"
#include "moe/sdk/numeric.hpp"
#include "moe/sdk/tensor.hpp"

namespace patchbay::conformance {

// Half the distance of an f32 to the next, relative: the error of one rounding.
inline constexpr double kUnit = 0x1p-24;
// Roundings that a sum in f32 may take, in any order over the lengths that the cases have (up to a few hundred terms,
// in lanes).
inline constexpr double kSumUnits = 16 * kUnit;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return uniform(0, 1) < p; }
  template <typename T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }

 private:
  std::mt19937_64 engine_;
};

inline int64_t dtype_bytes(int32_t dtype) {
  switch (dtype) {
    case MOE_F16:
    case MOE_BF16:
      return 2;
    case MOE_I64:
      return 8;
    default:
      return 4;
  }
}

// Memory that tensors of the arguments point into, aligned for any type.
struct Array {
  int32_t dtype = MOE_F32;
  int64_t n = 0;  // elements
  bool output = false;
  std::vector<uint64_t> words;
  [[nodiscard]] int64_t n_bytes() const { return n * dtype_bytes(dtype); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(words.data());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(words.data());
  }
};

struct HostWeight {
  int64_t n_groups;
  int64_t n_out;
  int64_t n_in;
  std::vector<float> values;
};

// Reads a row of a weight as the backend keeps it.
using WeightRow = std::function<const float*(const moe_weight*, int64_t group, int64_t row)>;

// The tolerance of each element of the output arrays, by array; 0 where it must be the same bits (padding between rows
// among it).
using Tolerances = std::map<size_t, std::vector<double>>;

struct OpCase {
  std::string op;    // MOE_OP_*
  std::string text;  // shapes, enum values and the seed
  std::vector<uint64_t> args;
  struct Slot {
    size_t offset;  // of the moe_tensor in the arguments
    size_t array;
    int64_t first;  // element of the array at which the view begins
    bool rows;      // its first dimension is that of the call's rows
  };
  std::vector<Slot> slots;
  struct WeightSlot {
    size_t offset;  // of the moe_weight* in the arguments
    size_t weight;
  };
  std::vector<WeightSlot> weight_slots;
  std::deque<Array> arrays;
  std::vector<HostWeight> weights;
  int64_t n_rows = 0;
  // Fills in the tolerances; `args` point to the arrays as they were before the call.
  std::function<void(const moe_op_args& args, const WeightRow& row, Tolerances& out)> tolerance;
  // Where answers are not compared number by number (route): what is wrong with `got`, or nothing. `args` as for
  // tolerance.
  std::function<std::string(const moe_op_args& args, const std::deque<Array>& want, const std::deque<Array>& got)>
      compare;
};

// Makes a case: tensors and weights go straight into the argument struct.
template <typename Args>
class CaseBuilder {
 public:
  CaseBuilder(const char* op, uint64_t seed) : random(seed * 0x9E3779B97F4A7C15ULL + 1), args(moe::op_args<Args>()) {
    case_.op = op;
    note("seed", static_cast<int64_t>(seed));
  }

  Random random;
  Args args;

  template <typename T>
  void note(const char* name, T value) {
    if (!case_.text.empty()) case_.text += " ";
    case_.text.append(name).append("=").append(std::to_string(value));
  }

  // A view of an array of its own, sometimes with room between rows. `rows`: see OpCase::Slot.
  size_t tensor(moe_tensor& slot, int32_t dtype, std::vector<int64_t> shape, bool rows, bool may_pad = true) {
    slot = moe::make<moe_tensor>();
    slot.dtype = dtype;
    slot.device = moe::kHost;
    int64_t stride = 1;
    slot.ndim = static_cast<int32_t>(shape.size());
    for (int32_t i = slot.ndim - 1; i >= 0; --i) {
      slot.shape[i] = shape[static_cast<size_t>(i)];
      slot.strides[i] = stride;
      stride *= slot.shape[i];
      if (may_pad && i > 0 && random.chance(0.3)) stride += 1 + random.below(9);
    }
    Array array;
    array.dtype = dtype;
    array.n = stride;
    array.words.assign(static_cast<size_t>(array.n_bytes() / 8 + 1), 0);
    case_.arrays.push_back(std::move(array));
    view(slot, case_.arrays.size() - 1, 0, rows);
    return case_.arrays.size() - 1;
  }
  // A further view of an array.
  void view(moe_tensor& slot, size_t array, int64_t first, bool rows) {
    case_.slots.push_back({offset_of(&slot), array, first, rows});
  }
  // f32 values uniform in [-size, size], padding included (so that reading it shows).
  size_t f32(moe_tensor& slot, std::vector<int64_t> shape, bool rows, double size = 1.0) {
    const size_t a = tensor(slot, MOE_F32, std::move(shape), rows);
    float* x = array(a).template as<float>();
    for (int64_t i = 0; i < array(a).n; ++i) x[i] = static_cast<float>(random.uniform(-size, size));
    return a;
  }
  // A vector: no padding.
  size_t vector(moe_tensor& slot, int64_t n, double low, double high) {
    const size_t a = tensor(slot, MOE_F32, {n}, false, false);
    float* x = array(a).template as<float>();
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(random.uniform(low, high));
    return a;
  }
  // An output, full of values that must be overwritten (or added to).
  size_t output(moe_tensor& slot, std::vector<int64_t> shape, bool rows = true) {
    const size_t a = f32(slot, std::move(shape), rows);
    array(a).output = true;
    return a;
  }
  size_t i32(moe_tensor& slot, std::vector<int64_t> shape, bool rows, const std::function<int32_t(int64_t)>& value,
             bool may_pad = true) {
    const size_t a = tensor(slot, MOE_I32, std::move(shape), rows, may_pad);
    int32_t* x = array(a).template as<int32_t>();
    for (int64_t i = 0; i < array(a).n; ++i) x[i] = value(i);
    return a;
  }
  void weight(const moe_weight*& slot, int64_t groups, int64_t n_out, int64_t n_in, double size = 1.0) {
    HostWeight w{groups, n_out, n_in, std::vector<float>(static_cast<size_t>(groups * n_out * n_in))};
    for (float& v : w.values) v = static_cast<float>(random.uniform(-size, size));
    case_.weights.push_back(std::move(w));
    case_.weight_slots.push_back({offset_of(&slot), case_.weights.size() - 1});
  }
  Array& array(size_t i) { return case_.arrays[i]; }
  OpCase& raw() { return case_; }

  OpCase build(int64_t n_rows, std::function<void(const Args&, const WeightRow&, Tolerances&)> tolerance) {
    case_.n_rows = n_rows;
    case_.args.assign(sizeof(Args) / 8 + 1, 0);
    std::memcpy(case_.args.data(), &args, sizeof(Args));
    case_.tolerance = [tolerance](const moe_op_args& a, const WeightRow& row, Tolerances& out) {
      tolerance(reinterpret_cast<const Args&>(a), row, out);
    };
    return std::move(case_);
  }

 private:
  size_t offset_of(const void* field) const {
    return static_cast<size_t>(static_cast<const char*>(field) - reinterpret_cast<const char*>(&args));
  }
  OpCase case_;
};

// Where element `column` of row (i, g) of a view lies in its array, and reading it.
inline int64_t index_of(const moe_tensor& t, int64_t i, int64_t g, int64_t column) {
  return i * t.strides[0] + (t.ndim == 3 ? g * t.strides[1] : 0) + column * t.strides[t.ndim - 1];
}
inline double value(const moe_tensor& t, int64_t i, int64_t g, int64_t column) {
  const int64_t at = index_of(t, i, g, column);
  switch (t.dtype) {
    case MOE_F16:
      return moe::f16_to_f32(static_cast<const uint16_t*>(t.data)[at]);
    case MOE_BF16:
      return moe::bf16_to_f32(static_cast<const uint16_t*>(t.data)[at]);
    default:
      return static_cast<const float*>(t.data)[at];
  }
}
template <typename T>
T element(const moe_tensor& t, int64_t i) {
  return static_cast<const T*>(t.data)[i * t.strides[0]];
}

}  // namespace patchbay::conformance
