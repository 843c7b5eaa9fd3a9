#include "core/service/replay.hpp"

namespace patchbay {

void Replay::forget_first() {
  n_bytes_ -= events_.front().bytes.size();
  events_.pop_front();
  ++n_forgotten_;
}

void Replay::add(std::string_view bytes, uint64_t n_tokens, bool last) {
  while (is_full() && !events_.empty()) forget_first();
  events_.push_back({std::string(bytes), n_tokens, last});
  n_bytes_ += bytes.size();
}

void Replay::acknowledge(uint64_t sequence) {
  if (sequence > last()) return;
  while (n_forgotten_ < sequence) forget_first();
}

}  // namespace patchbay
