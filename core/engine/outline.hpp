// What a model needs, found by building it on a backend that keeps nothing: every weight that a part asks for, with its
// shape and, where there is a checkpoint, what is stored for it or why it cannot be had. So nothing here repeats what
// the parts know.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/engine/weights.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

enum class WeightPart { kEmbedding, kAttention, kNorm, kRouter, kExperts, kShared, kDense, kHead };
inline constexpr size_t kWeightParts = 8;
// "embedding", "attention", ...
const char* weight_part_name(WeightPart part);

// One weight that a part asks for: n_groups matrices [n_out, n_in], or vectors (n_in = 1).
struct WeightNeed {
  WeightPart part = WeightPart::kAttention;
  TensorMap ModelSpec::*map = nullptr;  // where the role is looked up
  std::string role;
  int64_t layer = 0;
  int64_t n_groups = 1;
  int64_t n_out = 0;
  int64_t n_in = 1;
  bool vector = false;             // kept as f32 whatever the precision
  bool follows_precision = false;  // kept as model.precision says; otherwise as stored
  // Of the checkpoint, where it was found in one.
  double stored_bytes = 0;  // with its scales; of a tensor that holds several weights, the share
  std::string encoding;

  // A double: a config.json may ask for more than 2^63.
  [[nodiscard]] double n_elements() const {
    return static_cast<double>(n_groups) * static_cast<double>(n_out) * static_cast<double>(n_in);
  }
};

// One layer, for inspection.
struct LayerInfo {
  bool dense = false;
  std::string router;
  std::string expert;
  std::string attention_backend;
  std::string expert_backend;
  int64_t n_experts = 0;
  int64_t k = 0;
};

struct ModelOutline {
  ModelSpec spec;
  std::vector<WeightNeed> weights;     // in the order in which they are loaded
  std::vector<std::string> problems;   // why the checkpoint would not load; empty: it would
  std::vector<std::string> unused;     // tensors that nothing asks for
  uint64_t attention_cache_bytes = 0;  // that one token takes with a cache of f32
  uint64_t router_cache_bytes = 0;
  std::vector<LayerInfo> layers;  // as far as they could be built
};

// Writes down what is asked for. Without a checkpoint every tensor exists that the architecture file names.
class OutlineLoader final : public WeightLoader {
 public:
  // `checkpoint` may be null. Both live as long as the loader.
  OutlineLoader(const Checkpoint* checkpoint, const ModelSpec& spec);

  [[nodiscard]] moe::Result<MatrixSet> matrices(const TensorMap& map, const std::string& role, int64_t layer,
                                                int64_t n_groups, int64_t n_out, int64_t n_in) const override;
  [[nodiscard]] moe::Result<std::vector<float>> vectors(const TensorMap& map, const std::string& role, int64_t layer,
                                                        int64_t n_groups, int64_t n) const override;
  [[nodiscard]] bool has(const TensorMap& map, const std::string& role, int64_t layer) const override;
  moe::Result<PreparedWeight> prepare(Device& device, const MatrixSet& set, const char* encoding,
                                      uint32_t uses) override;

  // What was written down; once, after the model was built.
  ModelOutline take();

 private:
  [[nodiscard]] TensorMap ModelSpec::*member_of(const TensorMap& map) const;
  [[nodiscard]] WeightPart part_of(const TensorMap& map, const std::string& role, int64_t layer,
                                   int64_t n_groups) const;
  void note_stored(WeightNeed& need) const;
  [[nodiscard]] moe::Result<MatrixSet> stand_in(const WeightNeed& need) const;

  const Checkpoint* real_;
  mutable ModelOutline outline_;
  mutable size_t first_unprepared_ = 0;
  mutable std::set<std::string> said_;
  // Tensors without data, for weights that are not there.
  struct Invented {
    std::array<int64_t, 2> shape;
    TensorInfo info;
  };
  mutable std::deque<Invented> invented_;
};

// A backend that keeps nothing and runs nothing.
Component<moe_backend> outline_backend();

}  // namespace patchbay
