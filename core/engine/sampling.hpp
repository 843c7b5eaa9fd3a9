// The sampler chain: links in order, a state of each for every request, and the last link that picks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/config/settings.hpp"
#include "core/engine/engine.hpp"
#include "core/plugin/registry.hpp"

namespace patchbay {

// One request's states, in the chain's order.
class ChainState {
 public:
  ChainState() = default;
  ChainState(ChainState&& o) noexcept : links_(std::move(o.links_)), states_(std::move(o.states_)) { o.states_.clear(); }
  ChainState& operator=(ChainState&& o) noexcept {
    std::swap(links_, o.links_);
    std::swap(states_, o.states_);
    return *this;
  }
  ~ChainState();

 private:
  friend class SamplerChain;
  std::vector<const moe_sampler*> links_;
  std::vector<moe_sampler_state*> states_;
};

class ThreadPool;  // core/plugin/thread_pool.hpp

// A row to sample: one request's logits and what the links may know of it.
struct SampleRow {
  ChainState* state = nullptr;
  float* logits = nullptr;
  const std::vector<int32_t>* history = nullptr;
  int64_t n_prompt = 0;
  uint64_t seed = 0;
  // Out: the token (of one that has a token, or MOE_PICKED_FAILED, already, `logits` is not looked at), or an error that is this request's alone.
  int32_t token = -1;
  std::string problem;
};

class SamplerChain {
 public:
  // The links of the configuration, or the default chain; `pick` is appended if none picks.
  static moe::Result<std::shared_ptr<const SamplerChain>> build(const std::vector<PluginChoice>& samplers, PluginRegistry& registry, int64_t n_vocab);

  // A request's states from its parameters. Errors name the parameter and the nearest that a link has. [thread-safe]
  [[nodiscard]] moe::Result<ChainState> start(const std::vector<SamplingParameter>& parameters) const;
  // Fills each row's token; with a pool, rows side by side where a link may run so (MOE_CAP_REENTRANT). [compute-thread]
  void sample(std::vector<SampleRow>& rows, ThreadPool* pool = nullptr) const;
  // Whether sample() would pick the row's largest logit, or fail it: then nobody needs the others.
  [[nodiscard]] bool picks_largest(const ChainState& state) const;
  // Tells the links what was generated.
  void accept(ChainState& state, int32_t token) const;

  [[nodiscard]] std::vector<std::string> names() const;
  // Whether both are the same links in the same order, so that a state of one is a state of the other.
  [[nodiscard]] bool has_links_of(const SamplerChain& other) const;

 private:
  struct Link {
    Component<moe_sampler> component;
    std::vector<GivenOption> options;
    const moe_sampler_largest* largest;  // null: it has none
  };
  std::vector<Link> links_;
  int64_t n_vocab_ = 0;
};

}  // namespace patchbay
