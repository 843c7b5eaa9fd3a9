// A link of the sampler chain with one request's state, called as the core calls it.
#pragma once

#include <memory>
#include <vector>

#include "moe/abi/sampler.h"
#include "tools/conformance/kit.hpp"

namespace patchbay::conformance {

struct LinkRow {
  std::vector<float> logits;
  std::vector<int32_t> history;
  int64_t n_prompt = 0;
  uint64_t seed = 0;
  uint64_t counter = 0;
  int32_t picked = MOE_PICKED_NONE;
};

// Logits as a model gives them, some of them equal, some taken out; a history; a place in the random stream.
LinkRow random_row(int64_t n_vocab, uint32_t seed);

class LinkRun {
 public:
  static moe::Result<std::unique_ptr<LinkRun>> create(Kit& kit, int64_t n_vocab, const std::vector<GivenOption>& given);
  ~LinkRun();
  LinkRun(const LinkRun&) = delete;
  LinkRun& operator=(const LinkRun&) = delete;

  moe::Result<LinkRow> apply(const LinkRow& row) const;
  // Rows of several requests in one call, each with a state of its own or this one's.
  moe::Result<std::vector<LinkRow>> apply_together(std::vector<LinkRow> rows,
                                                   const std::vector<LinkRun*>& states) const;
  void accept(int32_t token) const;
  moe::Result<std::unique_ptr<LinkRun>> copy() const;
  [[nodiscard]] bool is_identity() const;
  [[nodiscard]] bool picks_largest() const;
  [[nodiscard]] const std::vector<GivenOption>& given() const { return given_; }
  [[nodiscard]] moe_sampler_state* state() const { return state_; }
  [[nodiscard]] const moe_sampler& table() const { return *table_.table; }

 private:
  LinkRun(Component<moe_sampler> table, int64_t n_vocab, std::vector<GivenOption> given)
      : table_(std::move(table)), n_vocab_(n_vocab), given_(std::move(given)) {}

  Component<moe_sampler> table_;
  int64_t n_vocab_;
  std::vector<GivenOption> given_;
  moe_sampler_state* state_ = nullptr;
};

}  // namespace patchbay::conformance
