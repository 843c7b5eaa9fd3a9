// The GGUF format, versions 2 and 3, little endian: metadata, tensor descriptions, padding, data.
// Source: the format's description in ggml's docs/gguf.md.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "core/model/checkpoint/checkpoint.hpp"

namespace patchbay {

// Limits that no file in use comes near; every count is also held against the bytes that are left in the file.
inline constexpr size_t kMaxGgufTensors = size_t{1} << 20;
inline constexpr size_t kMaxGgufMetadata = size_t{1} << 16;

// The format's numbers for the types of metadata.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

class GgufValue;

// An array of metadata, as it lies in the file (checked when the file was opened; never an array of arrays).
struct GgufArray {
  GgufType type = GgufType::kU8;  // of the elements
  uint64_t n = 0;
  std::span<const std::byte> bytes;

  // The elements in order: calls visit(value) for each.
  template <typename Visit>
  void for_each(Visit&& visit) const;
  // The strings, as views of the file; none if it is not an array of strings.
  [[nodiscard]] std::optional<std::vector<std::string_view>> strings() const;
};

// A value of metadata: integers widened to 64 bits, floats to double; strings and arrays are views of the file.
class GgufValue {
 public:
  using Variant = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

  GgufValue(GgufType type, Variant value) : type_(type), value_(value) {}

  [[nodiscard]] GgufType type() const { return type_; }  // as stored
  [[nodiscard]] const Variant& value() const { return value_; }

  // The value if it is of that kind, or none. integer() also refuses unsigned ones of 2^63 and more; number() takes
  // integers too.
  [[nodiscard]] std::optional<int64_t> integer() const;
  [[nodiscard]] std::optional<double> number() const;
  [[nodiscard]] std::optional<bool> boolean() const;
  [[nodiscard]] std::optional<std::string_view> string() const;
  [[nodiscard]] const GgufArray* array() const { return std::get_if<GgufArray>(&value_); }

 private:
  GgufType type_;
  Variant value_;
};

using GgufMetadata = std::map<std::string_view, GgufValue>;

// Checks the whole file and adds its tensors to `table`; names and strings are views of `file`. After an error the
// table is of no use. Shapes are outermost first: the format's dimensions in reverse.
moe::Result<GgufMetadata> read_gguf(std::span<const std::byte> file, TensorTable* table);

class GgufFile final : public Checkpoint {
 public:
  // Metadata of the (first) file, by key.
  [[nodiscard]] const GgufMetadata& metadata() const { return metadata_; }
  // The value of a key, or null.
  [[nodiscard]] const GgufValue* find_metadata(std::string_view key) const;

 private:
  friend moe::Result<std::unique_ptr<GgufFile>> open_gguf(const std::filesystem::path& path);
  moe::Status open(const std::filesystem::path& path);
  moe::Result<GgufMetadata> add(const std::filesystem::path& path);
  moe::Status open_parts(const std::filesystem::path& path, int64_t n_parts);

  GgufMetadata metadata_;
};

// A .gguf file, or all parts of a split one when given any part (NAME-00001-of-00003.gguf).
moe::Result<std::unique_ptr<GgufFile>> open_gguf(const std::filesystem::path& path);

// How the bytes of one value lie; used by GgufArray. `at` is moved past the value.
GgufValue decode_gguf_value(GgufType type, const std::byte** at);

template <typename Visit>
void GgufArray::for_each(Visit&& visit) const {
  const std::byte* at = bytes.data();
  for (uint64_t i = 0; i < n; ++i) visit(decode_gguf_value(type, &at));
}

}  // namespace patchbay
