// Values of GGUF metadata, read from bytes that have been checked.
#include <cstring>

#include "core/model/checkpoint/gguf.hpp"

namespace patchbay {
namespace {

template <typename T>
T take(const std::byte** at) {
  T value;
  std::memcpy(&value, *at, sizeof(T));
  *at += sizeof(T);
  return value;
}

std::string_view take_string(const std::byte** at) {
  const auto n = take<uint64_t>(at);
  const std::string_view text(reinterpret_cast<const char*>(*at), n);
  *at += n;
  return text;
}

GgufArray take_array(const std::byte** at) {
  GgufArray array;
  array.type = static_cast<GgufType>(take<uint32_t>(at));
  array.n = take<uint64_t>(at);
  const std::byte* begin = *at;
  for (uint64_t i = 0; i < array.n; ++i) decode_gguf_value(array.type, at);
  array.bytes = {begin, *at};
  return array;
}

}  // namespace

GgufValue decode_gguf_value(GgufType type, const std::byte** at) {
  switch (type) {
    case GgufType::kU8:
      return {type, uint64_t{take<uint8_t>(at)}};
    case GgufType::kI8:
      return {type, int64_t{take<int8_t>(at)}};
    case GgufType::kU16:
      return {type, uint64_t{take<uint16_t>(at)}};
    case GgufType::kI16:
      return {type, int64_t{take<int16_t>(at)}};
    case GgufType::kU32:
      return {type, uint64_t{take<uint32_t>(at)}};
    case GgufType::kI32:
      return {type, int64_t{take<int32_t>(at)}};
    case GgufType::kF32:
      return {type, double{take<float>(at)}};
    case GgufType::kBool:
      return {type, take<uint8_t>(at) != 0};
    case GgufType::kString:
      return {type, take_string(at)};
    case GgufType::kArray:
      return {type, take_array(at)};
    case GgufType::kU64:
      return {type, take<uint64_t>(at)};
    case GgufType::kI64:
      return {type, take<int64_t>(at)};
    case GgufType::kF64:
      return {type, take<double>(at)};
  }
  return {type, false};  // unreachable: types are checked before
}

std::optional<std::vector<std::string_view>> GgufArray::strings() const {
  if (type != GgufType::kString) return std::nullopt;
  std::vector<std::string_view> all;
  all.reserve(n);
  for_each([&](const GgufValue& value) { all.push_back(std::get<std::string_view>(value.value())); });
  return all;
}

std::optional<int64_t> GgufValue::integer() const {
  if (const auto* v = std::get_if<int64_t>(&value_)) return *v;
  const auto* v = std::get_if<uint64_t>(&value_);
  if (v == nullptr || *v > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(*v);
}

std::optional<double> GgufValue::number() const {
  if (const auto* v = std::get_if<double>(&value_)) return *v;
  if (const auto* v = std::get_if<uint64_t>(&value_)) return static_cast<double>(*v);
  if (const auto* v = std::get_if<int64_t>(&value_)) return static_cast<double>(*v);
  return std::nullopt;
}

std::optional<bool> GgufValue::boolean() const {
  const auto* v = std::get_if<bool>(&value_);
  return v == nullptr ? std::nullopt : std::optional(*v);
}

std::optional<std::string_view> GgufValue::string() const {
  const auto* v = std::get_if<std::string_view>(&value_);
  return v == nullptr ? std::nullopt : std::optional(*v);
}

}  // namespace patchbay
