// The safetensors format: u64 length of the header (little endian), a JSON header, the data.
// Source: the format's description at github.com/huggingface/safetensors; where it says "should", this reader insists.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "core/model/checkpoint/checkpoint.hpp"

namespace patchbay {

// Limits that no file in use comes near (the largest known has some 10^5 tensors of at most 5 dimensions). They keep
// the memory for a header of 100 MB under the file's size + 64 MiB.
inline constexpr size_t kMaxSafetensorsHeaderBytes = 100'000'000;
inline constexpr size_t kMaxSafetensorsTensors = size_t{1} << 20;
inline constexpr size_t kMaxSafetensorsRank = 8;
inline constexpr size_t kMaxSafetensorsMetadata = size_t{1} << 16;

// A dtype of the format, the encoding's id for it, and its width (some are narrower than a byte).
struct SafetensorsDtype {
  std::string_view name;
  std::string_view encoding;
  unsigned bits;
};
// Null if there is no such dtype or encoding.
const SafetensorsDtype* find_safetensors_dtype(std::string_view name);
const SafetensorsDtype* find_safetensors_encoding(std::string_view encoding);

// Bytes of a shape (no dimension negative), or none if the product does not stay below 2^60 or does not fill whole
// bytes. A dimension of 0 does not excuse a wrap in the others: strides are computed from these.
std::optional<size_t> safetensors_bytes(std::span<const int64_t> shape, unsigned bits);

// The `__metadata__` of a header, as views of the file or the table's arena.
using SafetensorsMetadata = std::vector<std::pair<std::string_view, std::string_view>>;

// Most tensors that the file can declare, from its length alone: what reserve() is to be called with before reading it.
size_t max_safetensors_tensors(std::span<const std::byte> file);

// Checks the whole file and adds its tensors to `table`. `mapping`, if not null, is the file that `file` belongs to:
// the pages of the header are given back while it is read. After an error the table is of no use.
moe::Result<SafetensorsMetadata> read_safetensors(std::span<const std::byte> file, const MappedFile* mapping,
                                                  TensorTable* table);

moe::Result<std::unique_ptr<Checkpoint>> open_safetensors_file(const std::filesystem::path& path);

// `path` is the index ("model.safetensors.index.json"); the shards lie beside it.
moe::Result<std::unique_ptr<Checkpoint>> open_safetensors_index(const std::filesystem::path& path);

}  // namespace patchbay
