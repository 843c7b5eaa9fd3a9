// Packed weights in a file, so that the next start reads them instead of packing again.
//
// One file for each device whose backend gives packed bytes (moe.backend.packed/1) and each precision. Weights are used
// from the mapped file where the system holds that in large pages. In small ones they read slower (by a tenth to a third,
// see tests/bench/RESULTS.md), so a weight that comes in those is read into memory of the device's, or stays there once
// packed, unless memory is too short for all weights: pages of a file the system can take back. The file:
//
//   [0, 88)            "MOEPACK1", where the directory begins u64, its bytes u64, SHA-256 of these two numbers and of
//   the
//                      directory in hexadecimal; little-endian
//   [64 KiB, ...)      the weights' bytes, each from a multiple of 64 KiB, large ones from one of 2 MiB and followed by
//                      zeros up to the next
//   at the end         the directory, JSON: what it is for (format, layout, precision, checkpoint), and of each weight
//                      its key, offset and bytes
//
// A file that is for something else, was cut short or has a wrong header is not used: one note says why, and it is
// written anew. What the weights' bytes are is not checked at a start; a file has its name only once they are on the
// disk.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/engine/device.hpp"
#include "core/model/checkpoint/checkpoint.hpp"
#include "core/model/checkpoint/input_file.hpp"
#include "core/model/checkpoint/output_file.hpp"
#include "core/plugin/thread_pool.hpp"

namespace patchbay {

inline constexpr const char* kPackedCacheEnding = ".packed";

// Where packed weights are kept, and of what.
struct PackedCacheOptions {
  // model.packed_cache: "auto" (beside the checkpoint's first file, if the files are at least 1 GiB, the folder can be
  // written to and the disk has twice the room), "off", or a folder, which is made if it is not there.
  std::string where = "auto";
  std::string precision;        // encoding that weights are wanted in
  uint64_t expected_bytes = 0;  // of all packed weights, for reserving room: an estimate
  uint64_t memory_bytes = 0;    // that they may take; a copy in the system's cache beside them stays if that fits too
};

// One device's file. [main-thread]
class PackedCache {
 public:
  PackedCache(Device& device, const PackedCacheOptions& options, const Checkpoint& checkpoint, ThreadPool& pool);

  // From the file, or packed and added to it. `key`: equal for weights that have the same bytes (SHA-256 of what they
  // are made of); `from_file` says which it was. Errors are the backend's: what is wrong with the file is a note.
  moe::Result<PreparedWeight> prepare(const moe_weight_source& source, const std::string& key, bool* from_file);

  // After the last weight: gives a new file its name.
  void finish();

  // For the operator.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Weight {
    uint64_t offset;
    uint64_t n_bytes;
  };
  using Identity = std::vector<std::pair<std::string, std::string>>;

  [[nodiscard]] moe::Status read();
  [[nodiscard]] moe::Status read_directory(std::string_view text, uint64_t end);
  [[nodiscard]] bool load_in_large_pages(std::span<const std::byte> bytes);
  [[nodiscard]] moe::Result<PreparedWeight> take(const moe_weight_source& source, const Weight& weight);
  [[nodiscard]] moe::Result<PreparedWeight> read_into_memory(const moe_weight_source& source, const Weight& weight);
  [[nodiscard]] moe::Status fill(const Weight& weight, std::span<std::byte> out);
  // f(offset, n_bytes) for pieces of so many bytes, on all threads.
  template <typename F>
  void for_pieces(uint64_t n_bytes, const F& f);
  void start_writing();
  [[nodiscard]] moe::Status reserve();
  [[nodiscard]] std::optional<std::span<const std::byte>> write(const std::string& key,
                                                                std::span<const std::byte> bytes);
  void stop_writing(const moe::Error& why);

  Device& device_;
  std::filesystem::path path_;
  bool automatic_;
  uint64_t expected_bytes_;
  Identity identity_;
  ThreadPool& pool_;
  bool in_memory_;  // there is room for all weights
  bool forgets_;    // what the system's cache holds of a file whose weights are in memory
  std::optional<InputFile> old_file_;
  std::optional<MappedFile> old_;
  std::map<std::string, Weight> old_weights_;
  std::vector<std::pair<std::string, std::span<const std::byte>>> used_;  // of old_weights_, by key
  bool may_write_ = true;
  std::optional<OutputFile> new_;
  std::optional<MappedFile> new_bytes_;
  std::vector<std::pair<std::string, Weight>> new_weights_;
  uint64_t end_ = 0;  // of what was written
  std::vector<Buffer> buffers_;  // of weights that were read
  std::vector<std::string> notes_;
};

// Those of all devices of a model. Lives as long as the weights that it gave. [main-thread]
class PackedCaches {
 public:
  // The checkpoint is read while weights are prepared, not later.
  PackedCaches(PackedCacheOptions options, const Checkpoint& checkpoint, ThreadPool& pool);
  // As PackedCache's; of a device that gives no packed bytes, the backend's.
  moe::Result<PreparedWeight> prepare(Device& device, const moe_weight_source& source, const std::string& key,
                                      bool* from_file);
  // Ends all; what there is to say about them.
  std::vector<std::string> finish();

 private:
  PackedCacheOptions options_;
  const Checkpoint& checkpoint_;
  ThreadPool& pool_;
  bool on_;
  std::map<const Device*, std::unique_ptr<PackedCache>> caches_;
};

}  // namespace patchbay
