// A model on its devices: weights, cache and the forward pass.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config/settings.hpp"
#include "core/engine/cache.hpp"
#include "core/engine/feed_forward.hpp"
#include "core/engine/outline.hpp"
#include "core/engine/step.hpp"
#include "core/engine/weights.hpp"
#include "core/model/files/model_files.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

// What a step reads of a layer.
struct LayerBytes {
  uint64_t always = 0;        // weights, whatever it chooses
  uint64_t expert = 0;        // of one routed expert
  uint64_t cached_token = 0;  // keys and values, or latents, and routers' rows
  int64_t reach = 0;          // cached tokens that a token looks at, at most; 0: all
};

// What one token's forward pass reads, for judging speed against the machine's bandwidth.
struct ModelBytes {
  uint64_t weights = 0;            // all of them, as prepared
  uint64_t read_per_token = 0;     // at batch 1: everything but the routed experts that are not chosen, and the embedding table
  uint64_t cache_per_token = 0;    // that one cached token takes
  uint64_t cache = 0;              // the whole paged cache
  uint64_t scratch = 0;
  uint64_t head = 0;               // of the output's weights
  std::vector<LayerBytes> layers;
};

class Model {
 public:
  // Reads the checkpoint in settings.model.path and builds it on the configured backends. Everything that can be wrong with the
  // checkpoint, the configuration or a plugin is found here; a step cannot fail by them. Errors are one line.
  static moe::Result<std::shared_ptr<Model>> load(const Settings& settings, std::shared_ptr<PluginRegistry> registry, Host& host,
                                                  const LoadProgress& progress);
  // The same for a model that is open already; settings.model.path is not looked at.
  static moe::Result<std::shared_ptr<Model>> load(const Settings& settings, ModelFiles& files, std::shared_ptr<PluginRegistry> registry, Host& host,
                                                  const LoadProgress& progress);
  virtual ~Model() = default;

  // The logits [batch.logit_rows, n_vocab] f32 in host memory, valid until the next call.
  virtual moe::Result<float*> forward(const Batch& batch) = 0;

  // The same step, but only the lowest index of each row's largest logit reaches the host, -1 where nothing may be chosen (MOE_OP_ARGMAX).
  virtual moe::Result<const int32_t*> forward_to_largest(const Batch& batch) = 0;

  // The last step's decisions of MoE layer i (counted among MoE layers), in host memory: ids [n, k]; ids from count on are -1. Valid until the
  // next call of any of these.
  struct PlanView {
    std::span<const int32_t> ids;
    int64_t k = 0;
    int64_t n_experts = 0;
  };
  virtual PlanView plan(int64_t moe_layer) = 0;
  // Their weights [n, k]. Waits for the device.
  virtual moe::Result<std::span<const float>> plan_weights(int64_t moe_layer) = 0;

  [[nodiscard]] const ModelSpec& spec() const { return spec_; }
  [[nodiscard]] const StepLimits& limits() const { return limits_; }
  [[nodiscard]] int64_t context() const { return context_; }
  [[nodiscard]] int64_t n_moe_layers() const { return n_moe_layers_; }
  [[nodiscard]] int64_t max_logit_rows() const { return max_logit_rows_; }
  [[nodiscard]] const ModelBytes& bytes() const { return bytes_; }
  [[nodiscard]] const std::vector<LayerInfo>& layers() const { return layers_; }
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }
  virtual std::vector<Device*> devices() = 0;
  // When a forward pass last got through a layer. A step of a large chunk takes long, a layer of it does not. [thread-safe]
  [[nodiscard]] std::chrono::steady_clock::time_point last_progress() const { return last_progress_; }

 protected:
  std::atomic<std::chrono::steady_clock::time_point> last_progress_{};
  ModelSpec spec_;
  StepLimits limits_;
  int64_t context_ = 0;
  int64_t n_moe_layers_ = 0;
  int64_t max_logit_rows_ = 0;
  ModelBytes bytes_;
  std::vector<LayerInfo> layers_;
  std::vector<std::string> notes_;
};

// What the model's files and the architecture files of the settings say of it, before any tensor is looked at.
moe::Result<ModelSpec> read_model_spec(const Settings& settings, const ModelFiles& files);

// Builds the model on a backend that keeps nothing. `checkpoint` may be null: then every tensor is there that the architecture names. What is
// wrong with the checkpoint is in the outline's problems; an error is what leaves nothing to say.
moe::Result<ModelOutline> outline_model(const Settings& settings, const ModelSpec& spec, const Checkpoint* checkpoint,
                                        std::shared_ptr<PluginRegistry> registry, Host& host);

}  // namespace patchbay
