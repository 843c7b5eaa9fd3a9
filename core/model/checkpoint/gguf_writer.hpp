// Writes GGUF files (version 3, little endian).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "core/model/checkpoint/output_file.hpp"
#include "core/model/checkpoint/safetensors_writer.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// A value of metadata to write, stored as the type of the format that it is here.
using GgufWriterValue =
    std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string, uint64_t, int64_t,
                 double, std::vector<std::string>, std::vector<float>, std::vector<int32_t>>;

// Declares metadata and tensors first, then takes the tensors' bytes in any order and any pieces, holding none in
// memory. The file appears with finish(), whole; without it (or after an error) nothing is left. [main-thread]
class GgufWriter {
 public:
  using Metadata = std::vector<std::pair<std::string, GgufWriterValue>>;

  // Encodings of the declarations are those of the format ("f32", "q4_k", ...), shapes outermost first.
  // MOE_RESOURCE_EXHAUSTED: the disk has no room for all of it.
  static moe::Result<GgufWriter> create(const std::filesystem::path& path, const Metadata& metadata,
                                        const std::vector<TensorDeclaration>& tensors);

  // The next bytes of that tensor. An error is final.
  moe::Status write(std::string_view name, std::span<const std::byte> bytes);

  // MOE_FAILED_PRECONDITION: bytes are missing, or an earlier call failed.
  moe::Status finish();

 private:
  struct Place {
    uint64_t begin = 0;  // in the file
    uint64_t bytes = 0;
    uint64_t written = 0;
  };

  GgufWriter() = default;

  std::optional<OutputFile> file_;
  std::unordered_map<std::string, Place> places_;
  bool failed_ = false;
};

}  // namespace patchbay
