// Connection: the way of events to one reader: in order, held back while the reader has no room or has given no credit,
// within bounds.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "moe/abi/transport.h"

namespace patchbay {

// What a connection may hold for a reader that does not keep up.
struct HoldLimits {
  size_t events = 1024;            // of one stream
  size_t bytes = size_t{4} << 20;  // of one stream
  size_t answers = 256;            // that belong to no stream
  size_t streams = 256;            // that run or have events held
};

// The source of one stream of events. It may leave one connection for another while the first does not yet know; so
// what is on its way is each connection's own.
class EventStream {
 public:
  virtual ~EventStream() = default;

 protected:
  bool resumable_ = false;  // set before it is admitted

 private:
  friend class Connection;
};

// [thread-safe] The sink is called by whoever has an event for it, under the connection's lock; so it may not call
// back.
class Connection {
 public:
  enum class Sent {
    kYes,     // delivered or held
    kTooFar,  // not taken: the stream holds as much as it may
    kGone,    // not taken: the reader is gone or the connection closed
  };
  enum class Admission { kYes, kRunning, kTooMany, kClosed };

  Connection(const moe_sink& sink, const HoldLimits& limits) : sink_(sink), limits_(limits) {}

  // A stream joins under the client's number; kRunning: one of that number is not over. It leaves when its last event
  // has been delivered.
  Admission admit(uint64_t request, std::shared_ptr<EventStream> stream, std::optional<uint64_t> credit);
  // A stream leaves without a last event; what is held of it is dropped.
  void dismiss(uint64_t request);
  // A stream that has not left, or one that may be resumed and whose last event was delivered.
  [[nodiscard]] std::shared_ptr<EventStream> find(uint64_t request) const;

  // The next event of a stream that has not left. The last one is always taken.
  Sent send(uint64_t request, std::string_view bytes, uint64_t n_tokens, bool last);
  // A message that belongs to no stream.
  Sent answer(std::string_view bytes);
  // Whether an answer would be held now.
  [[nodiscard]] bool can_answer() const;

  // More tokens of a stream may go; nothing given: all of them. False: the reader is gone.
  bool add_credit(uint64_t request, std::optional<uint64_t> tokens);
  // The reader has room. False: it is gone.
  bool resume();
  // No delivery begins or runs after this. Returns the streams, which are now nobody's.
  std::vector<std::shared_ptr<EventStream>> close();

 private:
  struct Event {
    std::string bytes;
    uint64_t n_tokens = 0;
    bool last = false;
  };
  struct Item {
    Event event;
    std::optional<uint64_t> request;  // the stream's; absent: an answer
  };
  struct Delivery {  // of one stream
    std::shared_ptr<EventStream> stream;
    std::optional<uint64_t> credit;  // tokens that may still go; absent: no limit
    std::deque<Event> waiting;       // for credit
    size_t n_held = 0;               // events waiting here or in the outbox
    size_t n_held_bytes = 0;
  };

  void leave(uint64_t request);
  bool post(std::string_view bytes, std::optional<uint64_t> request, bool last);
  bool post_waiting(uint64_t request);
  bool flush();
  void release(const Item& item);
  void drop_all();

  const moe_sink sink_;
  const HoldLimits limits_;
  mutable std::mutex mutex_;
  std::deque<Item> outbox_;  // for room; not empty exactly while the reader is blocked
  std::unordered_map<uint64_t, Delivery> streams_;
  // Resumable ones that have left with their last event, until another takes the number.
  std::unordered_map<uint64_t, std::shared_ptr<EventStream>> delivered_;
  size_t n_answers_ = 0;  // in outbox_
  bool closed_ = false;
};

}  // namespace patchbay
