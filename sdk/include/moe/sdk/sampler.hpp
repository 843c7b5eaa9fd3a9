// Links of the sampler chain in C++: derive from Sampler. One object is one request's state, so members are typed state
// and a fork is a copy.
//
//   class Floor : public moe::Sampler {
//    public:
//     static constexpr const char* kName = "floor";
//     static constexpr const char* kDoc = "Takes out tokens whose logit is below `value`.";
//     static constexpr moe_option kOptions[] = {
//         moe::float_option("value", "0", -100, 100, "The least logit.", MOE_OPTION_REQUEST)};
//     moe::Status configure(const moe::Options& options, int64_t) override { ... }
//     void apply(moe::SampleRow& row) override { for (float& l : row.logits()) if (l < floor_) l = moe::kRemoved; }
//   };
#pragma once

#include <concepts>
#include <limits>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>

#include "moe/abi/sampler.h"
#include "moe/sdk/plugin.hpp"
#include "moe/sdk/random.hpp"

namespace moe {

// The logit of a token that may not be chosen.
inline constexpr float kRemoved = -std::numeric_limits<float>::infinity();

// One request's row in one call: see moe_sample_row. Views are valid for the call.
class SampleRow {
 public:
  SampleRow(moe_sample_row* row, int64_t n_vocab) : row_(row), n_vocab_(n_vocab) {}

  [[nodiscard]] std::span<float> logits() const { return {row_->logits, static_cast<size_t>(n_vocab_)}; }
  // Prompt and output, in order.
  [[nodiscard]] std::span<const int32_t> history() const {
    return {row_->history, static_cast<size_t>(row_->n_history)};
  }
  [[nodiscard]] int64_t n_prompt() const { return row_->n_prompt; }
  // Uniform in [0, 1): the row's own draw, the same wherever the request runs. A link that needs several takes one lane
  // each.
  [[nodiscard]] double uniform(uint64_t lane = 0) const { return moe::uniform(row_->seed, row_->counter, lane); }

  // Decides: later links leave the row alone.
  void pick(int64_t token) const { row_->picked = static_cast<int32_t>(token); }
  // The logits are broken and this link was to decide: the request fails, and only it.
  void fail() const { row_->picked = MOE_PICKED_FAILED; }

 private:
  moe_sample_row* row_;
  int64_t n_vocab_;
};

// Copyable: a fork of a request copies its links' state.
class Sampler {
 public:
  virtual ~Sampler() = default;

  // Reads the request's options. May be called from several threads at once, on different objects. [thread-safe]
  virtual Status configure(const Options& options, int64_t n_vocab) = 0;
  // Changes the row's logits, or picks. A row with NaN or +inf must keep it, or fail if this link decides. Allocates
  // nothing after the first call. An exception fails this row alone. [compute-thread]
  virtual void apply(SampleRow& row) = 0;
  // The token that the chain ended with. [compute-thread]
  virtual void accept(int32_t) {}
  // Whether apply leaves every row as it is. [thread-safe]
  [[nodiscard]] virtual bool is_identity() const { return false; }
  // Whether apply picks the lowest index of the largest logit, or fails. [thread-safe]
  [[nodiscard]] virtual bool picks_largest() const { return false; }

 protected:
  Sampler() = default;
  Sampler(const Sampler&) = default;
  Sampler& operator=(const Sampler&) = default;
};

// Memory of a link that means nothing between calls: a copy is of the same size and holds nothing. Never initialised,
// so that pages that no call reaches cost nothing.
template <typename T>
requires std::is_trivial_v<T>
class Scratch {
 public:
  explicit Scratch(size_t n = 0) : n_(n), data_(n == 0 ? nullptr : new T[n]) {}
  Scratch(const Scratch& other) : Scratch(other.n_) {}
  Scratch& operator=(const Scratch& other) {
    if (this != &other) *this = Scratch(other.n_);
    return *this;
  }
  Scratch(Scratch&&) noexcept = default;
  Scratch& operator=(Scratch&&) noexcept = default;

  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] size_t size() const { return n_; }

 private:
  size_t n_;
  std::unique_ptr<T[]> data_;
};

template <std::derived_from<Sampler> C>
struct ComponentOf<C> {
  static constexpr const char* kKind = MOE_SAMPLER_ID;

  static Sampler* of(moe_sampler_state* state) { return reinterpret_cast<Sampler*>(state); }
  static const Sampler* of(const moe_sampler_state* state) { return reinterpret_cast<const Sampler*>(state); }
  static moe_sampler_state* handle(std::unique_ptr<Sampler> sampler) {
    return reinterpret_cast<moe_sampler_state*>(sampler.release());
  }

  static moe_status create(const moe_option_value* values, uint32_t n_values, int64_t n_vocab, moe_sampler_state** out,
                           moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      std::unique_ptr<Sampler> sampler = std::make_unique<C>();
      MOE_TRY(sampler->configure(Options(values, n_values), n_vocab));
      *out = handle(std::move(sampler));
      return {};
    });
  }
  static void destroy(moe_sampler_state* state) noexcept { delete of(state); }
  static void apply_row(moe_sample_row& row, int64_t n_vocab) noexcept {
    try {
      SampleRow view(&row, n_vocab);
      of(row.state)->apply(view);
    } catch (...) {
      row.picked = MOE_PICKED_FAILED;
    }
  }
  static moe_status apply(const moe_sample_args* args, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      MOE_TRY(check_struct(args, "args"));
      for (int64_t i = 0; i < args->n_rows; ++i) {
        if (args->rows[i].picked == MOE_PICKED_NONE) apply_row(args->rows[i], args->n_vocab);
      }
      return {};
    });
  }
  static void accept(moe_sampler_state* state, int32_t token) noexcept { of(state)->accept(token); }
  static moe_status copy(const moe_sampler_state* state, moe_sampler_state** out, moe_message* message) noexcept {
    return guard(message, [&]() -> Status {
      *out = handle(std::make_unique<C>(static_cast<const C&>(*of(state))));
      return {};
    });
  }
  static int32_t is_identity(const moe_sampler_state* state) noexcept { return of(state)->is_identity() ? 1 : 0; }

  static int32_t picks_largest(const moe_sampler_state* state) noexcept { return of(state)->picks_largest() ? 1 : 0; }

  static constexpr bool kMayPickLargest = !std::is_same_v<decltype(&C::picks_largest), bool (Sampler::*)() const>;
  static constexpr moe_sampler_largest kLargest = [] {
    auto largest = make<moe_sampler_largest>();
    largest.picks_largest = picks_largest;
    return largest;
  }();
  static const void* extension(const char* id) noexcept {
    if (std::string_view(id) == MOE_SAMPLER_LARGEST_ID) return &kLargest;
    if constexpr (requires { C::extension(id); }) return C::extension(id);
    return nullptr;
  }

  static constexpr moe_sampler kTable = [] {
    moe_sampler t{};
    t.component = component_header<C>(sizeof(moe_sampler));
    if constexpr (kMayPickLargest) t.component.get_extension = extension;
    t.create = create;
    t.destroy = destroy;
    t.apply = apply;
    t.copy = copy;
    // Calls that the class does not override are left out, so that the host need not make them.
    if constexpr (!std::is_same_v<decltype(&C::accept), void (Sampler::*)(int32_t)>) t.accept = accept;
    if constexpr (!std::is_same_v<decltype(&C::is_identity), bool (Sampler::*)() const>) t.is_identity = is_identity;
    return t;
  }();
};

}  // namespace moe
