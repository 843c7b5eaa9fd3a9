// A checkpoint is a set of named tensors in files, whatever their format. Opening one checks every rule of the format;
// after that no tensor's name, encoding, shape or bytes can be wrong, and nothing was copied: tensors are views of
// mapped files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/model/checkpoint/mapped_file.hpp"
#include "core/model/checkpoint/tensor_table.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// An open checkpoint. Const calls are [thread-safe]. Names, shapes and bytes of its tensors live as long as it does.
// The files must not be cut short by others meanwhile: the kernel answers a read past their end with SIGBUS.
class Checkpoint {
 public:
  Checkpoint() = default;
  virtual ~Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // The tensor of that exact name, or null. Constant time.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const { return table_.find(name); }

  // All tensors, in the order of the files.
  [[nodiscard]] std::span<const TensorInfo> tensors() const { return table_.tensors(); }

  // Sum of the sizes of the files.
  [[nodiscard]] size_t file_bytes() const;

  // Its files, in order.
  [[nodiscard]] std::span<const MappedFile> files() const { return files_; }

  // The file that the tensor lies in, for messages; empty for a tensor of another checkpoint.
  [[nodiscard]] std::filesystem::path file_of(const TensorInfo& tensor) const;

  // Bytes of a tensor, or of a part of one, that will be read soon: asks for them without waiting.
  void prefetch(std::span<const std::byte> part) const;

  // Gives the memory of the whole pages under these bytes back to the system, for what has been packed elsewhere. They
  // stay valid: reading them again reads the file again. Where the memory does not hold the files twice, the system's
  // cache is to forget them too: it would rather keep what has been read than what is still to come (13.8 GB on a
  // machine of 24: 140 s instead of 20). Does nothing for bytes of another checkpoint.
  void release(std::span<const std::byte> part) const;

 protected:
  std::vector<MappedFile> files_;
  TensorTable table_;

 private:
  [[nodiscard]] const MappedFile* holder_of(std::span<const std::byte> part) const;
};

// Opens a Hugging Face directory (model.safetensors, or model.safetensors.index.json and its shards), one .safetensors
// file, or a .gguf file (any part of a split one stands for all of its parts). Which reader it is follows from the
// file's first bytes, and from its extension where these say nothing. Errors begin with the file's path and name the
// tensor and the rule. MOE_NOT_FOUND: no such file, or a shard is missing.
moe::Result<std::unique_ptr<Checkpoint>> open_checkpoint(const std::filesystem::path& path);

}  // namespace patchbay
