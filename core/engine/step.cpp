#include "core/engine/step.hpp"

#include <algorithm>
#include <array>
#include <cstring>

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

InputLayout::InputLayout(int64_t n_tokens, int64_t n_logit_rows, int64_t n_page_entries) {
  const auto take = [this](int64_t n, uint64_t element_bytes) {
    constexpr uint64_t kLine = 64;
    return std::exchange(end, (end + static_cast<uint64_t>(n) * element_bytes + kLine - 1) / kLine * kLine);
  };
  cache_rows = take(n_tokens, 8);
  ids = take(n_tokens, 4);
  positions = take(n_tokens, 4);
  sequences = take(n_tokens, 4);
  logit_rows = take(n_logit_rows, 4);
  page_table = take(n_page_entries, 4);
}

moe::Status StepDevice::allocate(const StepLimits& limits, int64_t d_model) {
  limits_ = limits;
  d_model_ = d_model;
  max_pages_ = limits.max_pages;
  const auto n = static_cast<uint64_t>(limits.max_tokens);
  const uint64_t n_input_bytes = InputLayout(limits.max_tokens, limits.max_tokens, limits.max_sequences * limits.max_pages).end;
  const uint64_t n_decision_bytes = n * static_cast<uint64_t>(decision_columns_) * 4;
  struct Wanted {
    Buffer* buffer;
    uint64_t n_bytes;
  };
  const Wanted all[] = {{&inputs_, n_input_bytes},
                        {&decisions_, n_decision_bytes},
                        {&x_, n * static_cast<uint64_t>(d_model) * 4},
                        {&h_, n * static_cast<uint64_t>(d_model) * 4},
                        {&workspace_, workspace_bytes_}};
  for (const auto& w : all) {
    MOE_ASSIGN(*w.buffer, device_->alloc(std::max<uint64_t>(w.n_bytes, 64)));
  }
  if (!device_->host_visible()) {
    MOE_ASSIGN(host_inputs_, device_->alloc_host(n_input_bytes));
    MOE_ASSIGN(host_decisions_, device_->alloc_host(std::max<uint64_t>(n_decision_bytes, 64)));
  }
  return scratch_.allocate(*device_);
}

uint64_t StepDevice::total_bytes() const {
  uint64_t sum = scratch_.total_bytes();
  for (const Buffer* b : {&inputs_, &decisions_, &x_, &h_, &workspace_}) sum += b->bytes();
  return sum;
}

moe::Status StepDevice::upload(const Batch& batch) {
  n_tokens_ = batch.n_tokens();
  n_logit_rows_ = static_cast<int64_t>(batch.logit_rows.size());
  n_sequences_ = batch.n_sequences();
  max_pages_ = batch.max_pages;
  layout_ = InputLayout(n_tokens_, n_logit_rows_, n_sequences_ * max_pages_);
  int64_t last = 0;
  for (const int32_t position : batch.positions) last = std::max<int64_t>(last, position);
  used_pages_ = 1;
  while (used_pages_ * limits_.page_tokens <= last) used_pages_ *= 2;
  used_pages_ = std::min(used_pages_, max_pages_);
  char* const to = host_inputs();
  const auto put = [to](uint64_t offset, const auto& values) {
    if (!values.empty()) std::memcpy(to + offset, values.data(), values.size() * sizeof(values[0]));
  };
  put(layout_.cache_rows, batch.cache_rows);
  put(layout_.ids, batch.ids);
  put(layout_.positions, batch.positions);
  put(layout_.sequences, batch.sequences);
  put(layout_.logit_rows, batch.logit_rows);
  put(layout_.page_table, batch.page_table);
  if (device_->host_visible()) return {};
  return device_->upload(inputs_.data(), to, layout_.end);
}

moe::Status StepDevice::start_download_decisions() {
  if (device_->host_visible()) return {};
  return device_->start_download(host_decisions_.data(), decisions_.data(), static_cast<uint64_t>(n_tokens_ * decision_columns_) * 4);
}

moe_pages StepDevice::pages() const {
  moe_pages pages{};
  pages.page_table = moe::tensor(static_cast<char*>(inputs_.data()) + layout_.page_table, MOE_I32, {n_sequences_, max_pages_}, device_->where());
  pages.page_table.shape[1] = used_pages_;
  pages.page_size = limits_.page_tokens;
  return pages;
}

moe_pages StepDevice::host_pages() const {
  moe_pages out = pages();
  out.page_table.data = host_inputs() + layout_.page_table;
  out.page_table.device = moe::kHost;
  return out;
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

namespace {

// Parts whose operation is there: a model without a norm, say, has none.
constexpr size_t kMostParts = 16;
struct PartList {
  std::array<const char*, kMostParts> ids{};
  std::array<const moe_op_args*, kMostParts> args{};
  size_t n = 0;
  uint32_t temporary = 0;

  PartList(std::span<const Fused::Part> parts, uint32_t wanted_temporary) {
    uint32_t bit = 1;
    for (const auto& part : parts) {
      if (*part.op) {
        temporary |= (wanted_temporary & bit) != 0 ? 1U << n : 0;
        ids[n] = part.id;
        args[n++] = part.args;
      }
      bit *= 2;
    }
  }
};

}  // namespace

moe::Status Fused::find(StepDevice& device, std::span<const Part> parts, uint32_t temporary) {
  const PartList list(parts, temporary);
  if (list.n < 2) return {};
  MOE_ASSIGN(info_, device.device().find_fused({list.ids.data(), list.n}, {list.args.data(), list.n}, list.temporary));
  if (info_) device.request_workspace(info_->workspace_bytes);
  return {};
}

moe::Status Fused::run(StepDevice& device, std::span<const Part> parts) const {
  if (info_) {
    const PartList list(parts, 0);
    return device.device().launch_fused(*info_, {list.args.data(), list.n}, device.workspace(), device.workspace_bytes());
  }
  for (const auto& part : parts) {
    if (*part.op) MOE_TRY(part.op->launch(*part.args, device.workspace(), device.workspace_bytes()));
  }
  return {};
}

}  // namespace patchbay
