#include "core/engine/step.hpp"

#include <algorithm>

namespace patchbay {

size_t Scratch::request(const std::string& name, uint64_t n_bytes) {
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].name != name) continue;
    slots_[i].n_bytes = std::max(slots_[i].n_bytes, n_bytes);
    return i;
  }
  slots_.push_back({name, n_bytes, {}});
  return slots_.size() - 1;
}

moe::Status Scratch::allocate(Device& device) {
  for (auto& slot : slots_) {
    MOE_ASSIGN(slot.buffer, device.alloc(std::max<uint64_t>(slot.n_bytes, 64)));
  }
  return {};
}

uint64_t Scratch::total_bytes() const {
  uint64_t sum = 0;
  for (const auto& slot : slots_) sum += slot.n_bytes;
  return sum;
}

moe::Status StepDevice::allocate(const StepLimits& limits, int64_t d_model) {
  limits_ = limits;
  d_model_ = d_model;
  max_pages_ = limits.max_pages;
  const auto n = static_cast<uint64_t>(limits.max_tokens);
  struct Wanted {
    Buffer* buffer;
    uint64_t n_bytes;
  };
  const Wanted all[] = {{&ids_, n * 4},
                        {&positions_, n * 4},
                        {&sequences_, n * 4},
                        {&cache_rows_, n * 8},
                        {&logit_rows_, n * 4},
                        {&page_table_, static_cast<uint64_t>(limits.max_sequences * limits.max_pages) * 4},
                        {&x_, n * static_cast<uint64_t>(d_model) * 4},
                        {&h_, n * static_cast<uint64_t>(d_model) * 4},
                        {&workspace_, workspace_bytes_}};
  for (const auto& w : all) {
    MOE_ASSIGN(*w.buffer, device_->alloc(std::max<uint64_t>(w.n_bytes, 64)));
  }
  return scratch_.allocate(*device_);
}

uint64_t StepDevice::total_bytes() const {
  uint64_t sum = scratch_.total_bytes();
  for (const Buffer* b : {&ids_, &positions_, &sequences_, &cache_rows_, &logit_rows_, &page_table_, &x_, &h_, &workspace_}) sum += b->bytes();
  return sum;
}

moe::Status StepDevice::upload(const Batch& batch) {
  n_tokens_ = batch.n_tokens();
  n_logit_rows_ = static_cast<int64_t>(batch.logit_rows.size());
  n_sequences_ = batch.n_sequences();
  max_pages_ = batch.max_pages;
  MOE_TRY(device_->upload(ids_.data(), batch.ids.data(), batch.ids.size() * 4));
  MOE_TRY(device_->upload(positions_.data(), batch.positions.data(), batch.positions.size() * 4));
  MOE_TRY(device_->upload(sequences_.data(), batch.sequences.data(), batch.sequences.size() * 4));
  MOE_TRY(device_->upload(cache_rows_.data(), batch.cache_rows.data(), batch.cache_rows.size() * 8));
  MOE_TRY(device_->upload(logit_rows_.data(), batch.logit_rows.data(), batch.logit_rows.size() * 4));
  return device_->upload(page_table_.data(), batch.page_table.data(), batch.page_table.size() * 4);
}

moe_pages StepDevice::pages() const {
  moe_pages pages{};
  pages.page_table = moe::tensor(page_table_.data(), MOE_I32, {n_sequences_, max_pages_}, device_->where());
  pages.page_size = limits_.page_tokens;
  return pages;
}

moe_tensor columns(moe_tensor t, int64_t begin, int64_t n) {
  if (t.data != nullptr) t.data = static_cast<float*>(t.data) + begin * t.strides[1];
  t.shape[1] = n;
  return t;
}

moe_tensor as_heads(moe_tensor t, int64_t heads) {
  const int64_t dim = t.shape[1] / heads;
  t.ndim = 3;
  t.shape[1] = heads;
  t.shape[2] = dim;
  t.strides[2] = t.strides[1];
  t.strides[1] = dim;
  return t;
}

}  // namespace patchbay
