// From a checkpoint's tensors to weights on a device: finds them by role, checks their shapes, hands them to the backend to pack.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/engine/device.hpp"
#include "core/engine/packed_cache.hpp"
#include "core/model/architecture/model_spec.hpp"
#include "core/model/checkpoint/assemble.hpp"
#include "core/model/checkpoint/checkpoint.hpp"

namespace patchbay {

// Matrices as a backend reads them (moe_weight_source): n_groups times [n_out, n_in], each the rows of one or more tensors below each
// other.
struct MatrixSet {
  std::string name;  // of the first tensor
  std::string role;
  int64_t n_out = 0;
  int64_t n_in = 0;
  std::vector<std::vector<TensorSource>> groups;
};

// Progress of loading: bytes of the checkpoint read so far, and in all.
using LoadProgress = std::function<void(uint64_t done, uint64_t total)>;

// How weights are wanted on their device, from the configuration's precision.
struct Precision {
  const char* encoding = "auto";               // of prepared weights
  moe_activation_type activation = MOE_F32;    // that products round to
};

// A tensor's name from its pattern: {layer}, {expert} and {n_layers} become numbers.
std::string expand_tensor_name(const std::string& pattern, int64_t layer, int64_t expert, int64_t n_layers);

class WeightLoader {
 public:
  // `packed`: where packed weights are kept; may be null.
  WeightLoader(const Checkpoint& checkpoint, const ModelSpec& spec, LoadProgress progress, PackedCaches* packed = nullptr);
  virtual ~WeightLoader() = default;
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  // The tensor of a role as a 2-D source [n_out, n_in] (or its transpose, part, ... as the pattern says). Null: no alternative exists.
  [[nodiscard]] moe::Result<std::optional<TensorSource>> matrix(const TensorMap& map, const std::string& role, int64_t layer) const;

  // n_groups matrices [n_out, n_in] of a role. MOE_NOT_FOUND names the tensors that were looked for.
  [[nodiscard]] virtual moe::Result<MatrixSet> matrices(const TensorMap& map, const std::string& role, int64_t layer, int64_t n_groups,
                                                        int64_t n_out, int64_t n_in) const;
  // `more` below `base`, row by row, group by group.
  static moe::Status append(MatrixSet& base, const MatrixSet& more);

  // [n_groups, n] as f32.
  [[nodiscard]] virtual moe::Result<std::vector<float>> vectors(const TensorMap& map, const std::string& role, int64_t layer, int64_t n_groups,
                                                                int64_t n) const;
  [[nodiscard]] virtual bool has(const TensorMap& map, const std::string& role, int64_t layer) const;

  // Packs them on the device and lets go of the checkpoint's pages.
  virtual moe::Result<PreparedWeight> prepare(Device& device, const MatrixSet& set, const char* encoding, uint32_t uses = MOE_USE_MATMUL);
  // f32 values in device memory.
  static moe::Result<Buffer> upload(Device& device, const std::vector<float>& values);

  // After everything has been loaded: the tensors of the checkpoint that no role asked for.
  struct Leftovers {
    std::vector<std::string> unknown;
    std::map<std::string, int64_t> ignored;  // how many, by the prefix under which the architecture ignores them
  };
  [[nodiscard]] Leftovers leftovers() const;

 protected:
  // The alternative of a role that is in the checkpoint.
  struct Found {
    const TensorPattern* pattern = nullptr;
    const TensorInfo* tensor = nullptr;
    const TensorInfo* scales = nullptr;
  };
  [[nodiscard]] std::optional<Found> locate(const TensorMap& map, const std::string& role, int64_t layer, int64_t expert) const;
  [[nodiscard]] const ModelSpec& spec() const { return spec_; }

 private:
  // "file: tensor "name"", for messages.
  [[nodiscard]] std::string subject(const TensorInfo& tensor) const;
  [[nodiscard]] std::string scales_name(const TensorPattern& pattern, const std::string& tensor, int64_t layer, int64_t expert) const;
  [[nodiscard]] std::string expand(const std::string& pattern, int64_t layer, int64_t expert) const;
  // All patterns of the role whose tensors are in the checkpoint, in order; locate() gives the first.
  [[nodiscard]] std::vector<Found> alternatives(const TensorMap& map, const std::string& role, int64_t layer, int64_t expert) const;
  [[nodiscard]] moe::Result<TensorSource> source(const Found& found, int64_t group, int64_t n_groups) const;
  [[nodiscard]] moe::Error missing(const TensorMap& map, const std::string& role, int64_t layer, int64_t expert) const;

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  LoadProgress progress_;
  PackedCaches* packed_;
  TensorRename rename_;  // of the architecture's, the one that this checkpoint has
  uint64_t bytes_total_ = 0;
  std::atomic<uint64_t> bytes_done_{0};
  mutable std::vector<bool> used_;
};

}  // namespace patchbay
