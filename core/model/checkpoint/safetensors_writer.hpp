// Writes checkpoints as Hugging Face directories hold them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/model/checkpoint/output_file.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// A tensor that is going to be written.
struct TensorDeclaration {
  std::string name;
  std::string encoding;        // an id of one of the format's dtypes, such as "f32", "bf16", "u8"
  std::vector<int64_t> shape;  // outermost first
};

struct SafetensorsWriterOptions {
  uint64_t max_shard_bytes = UINT64_MAX;  // of data in a file; one tensor that is larger is a shard of its own
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  std::string stem = "model";  // of the files' names
};

// Declares all tensors first, then takes their bytes in any order and any pieces, holding none in memory. The files
// appear with finish(), whole; without it (or after an error) nothing is left. One file is model.safetensors; more are
// model-00001-of-0000N.safetensors, with model.safetensors.index.json, which comes last. [main-thread]
class SafetensorsWriter {
 public:
  // `directory` must exist. MOE_RESOURCE_EXHAUSTED: the disk has no room for all of it.
  static moe::Result<SafetensorsWriter> create(const std::filesystem::path& directory,
                                               const std::vector<TensorDeclaration>& tensors,
                                               const SafetensorsWriterOptions& options = {});

  // The next bytes of that tensor. An error is final.
  moe::Status write(std::string_view name, std::span<const std::byte> bytes);

  // MOE_FAILED_PRECONDITION: bytes are missing, or an earlier call failed.
  moe::Status finish();

  // Names of the files, index included, in the order in which they appear.
  [[nodiscard]] std::vector<std::string> file_names() const;

 private:
  struct Place {
    size_t shard = 0;
    uint64_t begin = 0;  // in the file
    uint64_t bytes = 0;
    uint64_t written = 0;
  };
  using Places = std::unordered_map<std::string, Place>;

  SafetensorsWriter() = default;
  moe::Status open_shards(const std::filesystem::path& directory, const std::vector<TensorDeclaration>& tensors,
                          const SafetensorsWriterOptions& options);
  moe::Status open_shard(const std::filesystem::path& path, std::vector<const TensorDeclaration*> tensors,
                         const SafetensorsWriterOptions& options);
  moe::Status open_index(const std::filesystem::path& path, const std::vector<TensorDeclaration>& tensors);

  std::vector<OutputFile> files_;
  Places places_;
  bool failed_ = false;
};

}  // namespace patchbay
