// Replay: what a stream's reader has not confirmed, kept to be sent again over another connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace patchbay {

// The newest events of a stream, within bounds: what is older is forgotten. One thread at a time.
class Replay {
 public:
  struct Event {
    std::string bytes;
    uint64_t n_tokens = 0;
    bool last = false;
  };

  Replay(size_t max_events, size_t max_bytes) : max_events_(max_events), max_bytes_(max_bytes) {}

  // The next event, of sequence last() + 1.
  void add(std::string_view bytes, uint64_t n_tokens, bool last);
  // The reader has everything up to this one. A number that has not been is ignored.
  void acknowledge(uint64_t sequence);

  // Sequence of the newest event, 0 before the first.
  [[nodiscard]] uint64_t last() const { return n_forgotten_ + events_.size(); }
  // Whether every event after `sequence` is still here.
  [[nodiscard]] bool has_all_after(uint64_t sequence) const { return sequence >= n_forgotten_ && sequence <= last(); }
  // Whether another event would push out one that was not confirmed.
  [[nodiscard]] bool is_full() const { return events_.size() >= max_events_ || n_bytes_ >= max_bytes_; }
  // Those that are not confirmed, in order.
  [[nodiscard]] const std::deque<Event>& events() const { return events_; }

 private:
  void forget_first();

  const size_t max_events_;
  const size_t max_bytes_;
  std::deque<Event> events_;
  size_t n_bytes_ = 0;
  uint64_t n_forgotten_ = 0;  // confirmed, or pushed out
};

}  // namespace patchbay
