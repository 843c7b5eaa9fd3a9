// Tensor views in C++: making them, and typed rows of them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "moe/abi/tensor.h"

namespace moe {

// A struct of the ABI with its header filled in and everything else zero.
template <typename T>
constexpr T make() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

template <typename T>
inline constexpr int32_t kDtype = 0;
template <>
inline constexpr int32_t kDtype<float> = MOE_F32;
template <>
inline constexpr int32_t kDtype<int32_t> = MOE_I32;
template <>
inline constexpr int32_t kDtype<int64_t> = MOE_I64;
template <>
inline constexpr int32_t kDtype<uint8_t> = MOE_U8;

inline constexpr moe_device kHost{MOE_DEVICE_HOST, 0};

// The tensor that is not there.
inline moe_tensor absent() { return make<moe_tensor>(); }
inline bool present(const moe_tensor& t) { return t.data != nullptr; }

// A contiguous view; `data` null gives a view with a shape and no data, as find_op takes it.
inline moe_tensor tensor(void* data, int32_t dtype, std::initializer_list<int64_t> shape, moe_device device = kHost) {
  moe_tensor t = make<moe_tensor>();
  t.data = data;
  t.dtype = dtype;
  t.device = device;
  for (const int64_t n : shape) t.shape[t.ndim++] = n;
  int64_t stride = 1;
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    t.strides[i] = stride;
    stride *= t.shape[i];
  }
  return t;
}

template <typename T>
moe_tensor tensor(T* data, std::initializer_list<int64_t> shape, moe_device device = kHost) {
  return tensor(const_cast<std::remove_const_t<T>*>(data), kDtype<std::remove_const_t<T>>, shape, device);
}

// Row i of a tensor whose innermost dimension is contiguous, as T. No check: the host made the view.
template <typename T>
T* row(const moe_tensor& t, int64_t i) {
  return static_cast<T*>(t.data) + i * t.strides[0];
}
template <typename T>
T* row(const moe_tensor& t, int64_t i, int64_t j) {
  return static_cast<T*>(t.data) + i * t.strides[0] + j * t.strides[1];
}
template <typename T>
std::span<T> row_span(const moe_tensor& t, int64_t i) {
  return {row<T>(t, i), static_cast<size_t>(t.shape[t.ndim - 1])};
}

// The same view with another number of rows (at most as many as there are).
inline moe_tensor with_rows(moe_tensor t, int64_t n) {
  t.shape[0] = n;
  return t;
}

}  // namespace moe
