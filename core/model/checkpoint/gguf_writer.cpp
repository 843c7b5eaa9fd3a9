#include "core/model/checkpoint/gguf_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>
#include <unordered_set>

#include "core/model/checkpoint/gguf.hpp"
#include "core/model/checkpoint/gguf_types.hpp"
#include "core/model/checkpoint/utf8.hpp"

namespace patchbay {
namespace {

constexpr uint64_t kAlignment = 32;  // the format's own where metadata do not say otherwise

constexpr uint64_t align(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
constexpr GgufType type_of() {
  if constexpr (std::is_same_v<T, uint8_t>) return GgufType::kU8;
  if constexpr (std::is_same_v<T, int8_t>) return GgufType::kI8;
  if constexpr (std::is_same_v<T, uint16_t>) return GgufType::kU16;
  if constexpr (std::is_same_v<T, int16_t>) return GgufType::kI16;
  if constexpr (std::is_same_v<T, uint32_t>) return GgufType::kU32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufType::kI32;
  if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
  if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
  if constexpr (std::is_same_v<T, std::string>) return GgufType::kString;
  if constexpr (std::is_same_v<T, uint64_t>) return GgufType::kU64;
  if constexpr (std::is_same_v<T, int64_t>) return GgufType::kI64;
  if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
}

template <typename T>
void put(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}
void put(std::string* out, const std::string& text) {
  put(out, static_cast<uint64_t>(text.size()));
  *out += text;
}

template <typename T>
void put_value(std::string* out, const T& value) {
  put(out, static_cast<uint32_t>(type_of<T>()));
  put(out, value);
}
template <typename T>
void put_value(std::string* out, const std::vector<T>& values) {
  put(out, static_cast<uint32_t>(GgufType::kArray));
  put(out, static_cast<uint32_t>(type_of<T>()));
  put(out, static_cast<uint64_t>(values.size()));
  for (const T& value : values) put(out, value);
}

moe::Error wrong(const TensorDeclaration& tensor, std::string_view rule) {
  return moe::invalid(fmt::format("tensor {}: {}", quoted_name(tensor.name), rule));
}

moe::Result<uint64_t> checked_bytes(const TensorDeclaration& tensor) {
  const GgufTensorType* type = find_gguf_encoding(tensor.encoding);
  if (type == nullptr)
    return wrong(tensor, fmt::format("expected an encoding of the format, got \"{}\"", tensor.encoding));
  if (tensor.name.empty() || !is_utf8(tensor.name)) return wrong(tensor, "expected a name in UTF-8, got none");
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (tensor.shape.size() > kMaxGgufDims || row % type->block_elements != 0) {
    return wrong(tensor, fmt::format("shape: expected at most {} dimensions and rows of a multiple of {}, got {}",
                                     kMaxGgufDims, type->block_elements, shape_text(tensor.shape)));
  }
  uint64_t elements = 1;
  uint64_t bytes = 0;
  bool bad = false;
  bool empty = false;
  for (const int64_t d : tensor.shape) {
    empty = empty || d == 0;
    bad = bad || d < 0 || (d != 0 && __builtin_mul_overflow(elements, static_cast<uint64_t>(d), &elements));
  }
  bad = bad || __builtin_mul_overflow(elements, uint64_t{type->block_bytes}, &bytes) || bytes > (uint64_t{1} << 60);
  if (bad) return wrong(tensor, fmt::format("shape: expected a size below 2^60, got {}", shape_text(tensor.shape)));
  return empty ? 0 : bytes / type->block_elements;
}

moe::Result<std::string> metadata_text(const GgufWriter::Metadata& metadata) {
  std::string out;
  std::unordered_set<std::string_view> keys;
  for (const auto& [key, value] : metadata) {
    // Tensors are placed by the format's own alignment.
    if (key.empty() || !is_utf8(key) || key == "general.alignment") {
      return moe::invalid(
          fmt::format("metadata {}: expected a key in UTF-8 other than general.alignment", quoted_name(key)));
    }
    if (!keys.insert(key).second)
      return moe::invalid(fmt::format("metadata {}: expected once, got it twice", quoted_name(key)));
    put(&out, key);
    std::visit([&](const auto& v) { put_value(&out, v); }, value);
  }
  return out;
}

}  // namespace

moe::Result<GgufWriter> GgufWriter::create(const std::filesystem::path& path, const Metadata& metadata,
                                           const std::vector<TensorDeclaration>& tensors) {
  if (tensors.size() > kMaxGgufTensors || metadata.size() > kMaxGgufMetadata) {
    return moe::invalid(fmt::format("{}: expected at most {} tensors and {} metadata, got more", path.string(),
                                    kMaxGgufTensors, kMaxGgufMetadata));
  }
  GgufWriter writer;
  std::string start = "GGUF";
  put(&start, uint32_t{3});
  put(&start, static_cast<uint64_t>(tensors.size()));
  put(&start, static_cast<uint64_t>(metadata.size()));
  MOE_ASSIGN(const std::string pairs, metadata_text(metadata));
  start += pairs;
  uint64_t end = 0;
  for (const TensorDeclaration& tensor : tensors) {
    MOE_ASSIGN(const uint64_t bytes, checked_bytes(tensor));
    if (!writer.places_.emplace(tensor.name, Place{end, bytes, 0}).second)
      return wrong(tensor, "expected once, got it twice");
    put(&start, tensor.name);
    put(&start, static_cast<uint32_t>(tensor.shape.size()));
    for (auto d = tensor.shape.rbegin(); d != tensor.shape.rend(); ++d) put(&start, static_cast<uint64_t>(*d));
    put(&start, find_gguf_encoding(tensor.encoding)->id);
    put(&start, end);
    end += align(bytes);
    if (end > static_cast<uint64_t>(INT64_MAX) / 2) return wrong(tensor, "expected a total size below 2^62, got more");
  }
  start.resize(align(start.size()));
  for (auto& [name, place] : writer.places_) place.begin += start.size();
  MOE_ASSIGN(writer.file_, OutputFile::create(path, start.size() + end));
  MOE_TRY(writer.file_->write_at(0, std::as_bytes(std::span(start))));
  // Readers of others want the padding of the last tensor; where the disk could not be reserved this is what makes the
  // file as long.
  constexpr std::byte kZero{0};
  if (end > 0) MOE_TRY(writer.file_->write_at(start.size() + end - 1, {&kZero, 1}));
  return writer;
}

moe::Status GgufWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  if (failed_) return moe::precondition("checkpoint: expected no write after an error, got one");
  failed_ = true;
  const auto at = places_.find(std::string(name));
  if (at == places_.end())
    return moe::invalid(fmt::format("tensor {}: expected one that was declared, got another", quoted_name(name)));
  Place& place = at->second;
  if (bytes.size() > place.bytes - place.written) {
    return moe::invalid(fmt::format("tensor {}: expected {} bytes, got more", quoted_name(name), place.bytes));
  }
  MOE_TRY(file_->write_at(place.begin + place.written, bytes));
  place.written += bytes.size();
  failed_ = false;
  return {};
}

moe::Status GgufWriter::finish() {
  if (failed_) return moe::precondition("checkpoint: expected no error before the end, got one");
  failed_ = true;  // also: nothing can be written any more
  for (const auto& [name, place] : places_) {
    if (place.written == place.bytes) continue;
    return moe::precondition(
        fmt::format("tensor {}: expected {} bytes, got {}", quoted_name(name), place.bytes, place.written));
  }
  return file_->commit();
}

}  // namespace patchbay
