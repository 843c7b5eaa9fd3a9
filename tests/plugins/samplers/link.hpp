// One link with one request's state, called through the ABI as the core calls it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "moe/abi/sampler.h"
#include "support/plugin_library.hpp"
#include "support/test_host.hpp"

namespace patchbay::test {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr const char* kLinks[] = {"greedy", "temperature", "top_k",      "top_p",
                                         "min_p",  "penalties",   "logit_bias", "pick"};

// The table of link `name`, from sampler_<name>.so; libraries stay open until the program ends.
inline const moe_sampler* sampler_table(const std::string& name) {
  static TestHost host;
  static std::map<std::string, std::unique_ptr<PluginLibrary>> libraries;
  auto& library = libraries[name];
  if (library == nullptr) {
    auto opened = PluginLibrary::open("sampler_" + name, host.get());
    if (!opened.ok()) {
      ADD_FAILURE() << opened.error().message;
      std::exit(1);
    }
    library = std::move(*opened);
  }
  return library->component<moe_sampler>(MOE_SAMPLER_ID, name);
}

using Given = std::map<std::string, std::variant<double, int64_t, std::string>>;

struct Row {
  std::vector<float> logits = {};
  std::vector<int32_t> history = {};
  int64_t n_prompt = 0;
  uint64_t seed = 0;
  uint64_t counter = 0;
  int32_t picked = MOE_PICKED_NONE;
};

class Link {
 public:
  Link(const std::string& name, int64_t n_vocab, const Given& given = {})
      : table_(sampler_table(name)), n_vocab_(n_vocab) {
    std::vector<moe_option_value> values;
    for (uint32_t i = 0; i < table_->component.n_options; ++i)
      values.push_back(value(table_->component.options[i], given));
    moe::MessageBuffer message;
    const moe_status status =
        table_->create(values.data(), static_cast<uint32_t>(values.size()), n_vocab, &state_, message.get());
    if (status != MOE_OK) error_ = message.error(status).message;
  }
  Link(Link&& other) noexcept
      : table_(other.table_), n_vocab_(other.n_vocab_), state_(std::exchange(other.state_, nullptr)) {}
  ~Link() {
    if (state_ != nullptr) table_->destroy(state_);
  }
  [[nodiscard]] Link fork() const {
    Link copy(table_, n_vocab_);
    EXPECT_EQ(table_->copy(state_, &copy.state_, nullptr), MOE_OK);
    return copy;
  }

  void apply(Row& row) const { apply({&row}, {this}); }
  [[nodiscard]] Row applied(Row row) const {
    apply(row);
    return row;
  }
  // Rows of several requests of the same link in one call.
  static void apply(const std::vector<Row*>& rows, const std::vector<const Link*>& links) {
    std::vector<moe_sample_row> raw;
    for (size_t i = 0; i < rows.size(); ++i) {
      Row& r = *rows[i];
      raw.push_back({links[i]->state_, r.logits.data(), r.history.data(), static_cast<int64_t>(r.history.size()),
                     r.n_prompt, r.seed, r.counter, r.picked, 0});
    }
    moe_sample_args args = moe::make<moe_sample_args>();
    args.n_rows = static_cast<int64_t>(raw.size());
    args.n_vocab = links[0]->n_vocab_;
    args.rows = raw.data();
    EXPECT_EQ(links[0]->table_->apply(&args, nullptr), MOE_OK);
    for (size_t i = 0; i < rows.size(); ++i) rows[i]->picked = raw[i].picked;
  }
  [[nodiscard]] bool is_identity() const { return table_->is_identity != nullptr && table_->is_identity(state_) != 0; }
  [[nodiscard]] bool picks_largest() const {
    const auto get = table_->component.get_extension;
    if (get == nullptr) return false;
    const auto* largest = static_cast<const moe_sampler_largest*>(get(MOE_SAMPLER_LARGEST_ID));
    return largest != nullptr && largest->picks_largest(state_) != 0;
  }
  [[nodiscard]] const std::string& error() const { return error_; }
  [[nodiscard]] const moe_sampler& table() const { return *table_; }

 private:
  Link(const moe_sampler* table, int64_t n_vocab) : table_(table), n_vocab_(n_vocab) {}

  static moe_option_value value(const moe_option& option, const Given& given) {
    moe_option_value v{};
    v.key = option.key;
    v.type = option.type;
    v.n = 1;
    const auto it = given.find(option.key);
    v.is_set = it != given.end() ? 1 : 0;
    const std::string text = option.default_text;
    if (option.type == MOE_OPTION_FLOAT) v.value.f = v.is_set != 0 ? std::get<double>(it->second) : std::stod(text);
    if (option.type == MOE_OPTION_INT) v.value.i = v.is_set != 0 ? std::get<int64_t>(it->second) : std::stoll(text);
    if (option.type == MOE_OPTION_STRING) {
      v.value.s = v.is_set != 0 ? std::get<std::string>(it->second).c_str() : option.default_text;
    }
    return v;
  }

  const moe_sampler* table_;
  int64_t n_vocab_;
  moe_sampler_state* state_ = nullptr;
  std::string error_;
};

// Logits as a model gives them: normal, sometimes from a coarse grid (ties), some taken out.
inline std::vector<float> random_logits(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  const bool coarse = seed % 3 == 0;
  const bool holes = seed % 4 == 1;
  std::vector<float> logits(n);
  for (float& v : logits) {
    v = normal(random);
    if (coarse) v = std::round(v);
    if (holes && random() % 3 == 0) v = -kInf;
  }
  logits[random() % n] = 1.5F;  // something is always left
  return logits;
}

// Ids from the best down, ties to the lower id.
inline std::vector<size_t> ranked(const std::vector<float>& logits) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  return order;
}

// The logits with all but the first n of `order` taken out.
inline std::vector<float> only_first(const std::vector<float>& logits, const std::vector<size_t>& order, size_t n) {
  std::vector<float> kept(logits.size(), -kInf);
  for (size_t i = 0; i < std::min(n, order.size()); ++i) kept[order[i]] = logits[order[i]];
  return kept;
}

inline std::vector<double> softmax(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (const float v : logits) sum += p.emplace_back(std::exp(v - max));
  for (double& v : p) v /= sum;
  return p;
}

}  // namespace patchbay::test
