#include "tools/conformance/sampler_run.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "tools/conformance/subject.hpp"

namespace patchbay::conformance {

LinkRow random_row(int64_t n_vocab, uint32_t seed) {
  std::mt19937 random(seed + 1);
  std::normal_distribution<float> normal(0.0F, 4.0F);
  LinkRow row;
  for (int64_t i = 0; i < n_vocab; ++i) {
    float v = normal(random);
    if (seed % 3 == 0) v = std::round(v);
    if (seed % 4 == 1 && random() % 3 == 0) v = -std::numeric_limits<float>::infinity();
    row.logits.push_back(v);
  }
  row.logits[random() % static_cast<size_t>(n_vocab)] = 1.5F;  // something is always left
  for (int i = 0; i < 12; ++i) row.history.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(n_vocab)));
  row.n_prompt = 4;
  row.seed = 100 + seed;
  row.counter = 7 * seed;
  return row;
}

moe::Result<std::unique_ptr<LinkRun>> LinkRun::create(Kit& kit, int64_t n_vocab,
                                                      const std::vector<GivenOption>& given) {
  std::unique_ptr<LinkRun> link(new LinkRun(kit.component<moe_sampler>(), n_vocab, given));
  MOE_ASSIGN(const OptionValues options, check_options(kit.header(), given, kit.header().name));
  MOE_TRY(across(
      [&](moe_message* m) { return link->table_->create(options.data(), options.size(), n_vocab, &link->state_, m); }));
  if (link->state_ == nullptr) return moe::internal("create: expected a state with MOE_OK, got null");
  return link;
}

LinkRun::~LinkRun() {
  if (state_ != nullptr) table_->destroy(state_);
}

moe::Result<LinkRow> LinkRun::apply(const LinkRow& row) const {
  MOE_ASSIGN(auto rows, apply_together({row}, {const_cast<LinkRun*>(this)}));
  return std::move(rows.front());
}

moe::Result<std::vector<LinkRow>> LinkRun::apply_together(std::vector<LinkRow> rows,
                                                          const std::vector<LinkRun*>& states) const {
  std::vector<moe_sample_row> raw;
  for (size_t i = 0; i < rows.size(); ++i) {
    LinkRow& r = rows[i];
    raw.push_back({states[i]->state_, r.logits.data(), r.history.data(), static_cast<int64_t>(r.history.size()),
                   r.n_prompt, r.seed, r.counter, r.picked, 0});
  }
  auto args = moe::make<moe_sample_args>();
  args.n_rows = static_cast<int64_t>(raw.size());
  args.n_vocab = n_vocab_;
  args.rows = raw.data();
  const CheckHost::ComputeScope scope;
  MOE_TRY(across([&](moe_message* m) { return table_->apply(&args, m); }));
  for (size_t i = 0; i < rows.size(); ++i) rows[i].picked = raw[i].picked;
  return rows;
}

void LinkRun::accept(int32_t token) const {
  if (table_->accept != nullptr) table_->accept(state_, token);
}
moe::Result<std::unique_ptr<LinkRun>> LinkRun::copy() const {
  std::unique_ptr<LinkRun> other(new LinkRun(table_, n_vocab_, given_));
  MOE_TRY(across([&](moe_message* m) { return table_->copy(state_, &other->state_, m); }));
  return other;
}
bool LinkRun::is_identity() const { return table_->is_identity != nullptr && table_->is_identity(state_) != 0; }
bool LinkRun::picks_largest() const {
  const auto* largest = extension<moe_sampler_largest>(table_.header(), MOE_SAMPLER_LARGEST_ID);
  return largest != nullptr && largest->picks_largest(state_) != 0;
}

namespace {

// Three rows a call, each with its request's state.
class SamplerSubject final : public Subject {
 public:
  explicit SamplerSubject(Kit& kit) : kit_(kit) {}

  moe::Status create(const std::vector<GivenOption>& given) override {
    destroy();
    for (size_t i = 0; i < kRows; ++i) {
      MOE_ASSIGN(auto link, LinkRun::create(kit_, kVocab, given));
      links_.push_back(std::move(link));
    }
    return {};
  }
  void destroy() override { links_.clear(); }
  moe::Status create_only(const std::vector<GivenOption>& given) override {
    MOE_ASSIGN(const auto link, LinkRun::create(kit_, kVocab, given));
    return {};
  }
  moe::Status set_input(uint32_t which) override {
    memory_ = std::make_unique<CallMemory>(nullptr);
    raw_.clear();
    for (size_t i = 0; i < kRows; ++i) {
      const LinkRow row = random_row(kVocab, which * kRows + static_cast<uint32_t>(i));
      moe_sample_row raw{};
      raw.state = links_[i]->state();
      raw.logits = static_cast<float*>(
          memory_->add("logits", row.logits.data(), row.logits.size() * 4, CallMemory::Use::kOutput));
      raw.history = static_cast<const int32_t*>(
          memory_->add("history", row.history.data(), row.history.size() * 4, CallMemory::Use::kInput));
      raw.n_history = static_cast<int64_t>(row.history.size());
      raw.n_prompt = row.n_prompt;
      raw.seed = row.seed;
      raw.counter = row.counter;
      raw.picked = MOE_PICKED_NONE;
      raw_.push_back(raw);
    }
    before_ = raw_;
    args_ = moe::make<moe_sample_args>();
    args_.n_rows = static_cast<int64_t>(raw_.size());
    args_.n_vocab = kVocab;
    args_.rows = raw_.data();
    return memory_->status();
  }
  moe::Status refill(uint32_t which) override { return set_input(which); }
  moe::Status call() override {
    const CheckHost::ComputeScope scope;
    return across([&](moe_message* m) { return links_[0]->table().apply(&args_, m); });
  }
  std::vector<uint8_t> output() override {
    std::vector<uint8_t> out;
    for (const auto& raw : raw_) {
      const auto logits = memory_->read(raw.logits);
      out.insert(out.end(), logits.begin(), logits.end());
      const auto* picked = reinterpret_cast<const uint8_t*>(&raw.picked);
      out.insert(out.end(), picked, picked + sizeof(raw.picked));
    }
    return out;
  }
  std::string violations() override {
    for (size_t i = 0; i < raw_.size(); ++i) {
      moe_sample_row same = raw_[i];
      same.picked = before_[i].picked;
      if (std::memcmp(&same, &before_[i], sizeof(same)) != 0)
        return "row: expected nothing but logits and picked to change, got another field";
    }
    return memory_->violations();
  }
  void retire_memory() override {
    memory_->spoil();
    retired_.push_back(std::move(memory_));
  }
  std::string writes_to_retired() override {
    for (auto& m : retired_) {
      if (std::string found = m->violations(true); !found.empty()) return found;
    }
    return "";
  }
  std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() override {
    return {{"apply", [this](moe_message* m) {
               moe_sample_args args = args_;
               args.must_understand = 1U << 31;
               return links_[0]->table().apply(&args, m);
             }}};
  }
  std::string wrong_out_structs() override { return ""; }  // a link fills none

 private:
  static constexpr int64_t kVocab = 300;
  static constexpr uint32_t kRows = 3;
  Kit& kit_;
  std::vector<std::unique_ptr<LinkRun>> links_;
  std::unique_ptr<CallMemory> memory_;
  std::deque<std::unique_ptr<CallMemory>> retired_;
  std::vector<moe_sample_row> raw_, before_;
  moe_sample_args args_{};
};

}  // namespace

moe::Result<std::unique_ptr<Subject>> make_sampler_subject(Kit& kit) {
  return std::unique_ptr<Subject>(std::make_unique<SamplerSubject>(kit));
}

}  // namespace patchbay::conformance
