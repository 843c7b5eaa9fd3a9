// Service::Stream: one `generate`, its generator and its events on their way to a connection.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "core/service/replay.hpp"
#include "core/service/service.hpp"

namespace patchbay {

// Events come from one thread, the engine's. A resumable stream may be without a connection for a while, and may change
// it.
class Service::Stream final : public EventStream, public TextListener, public std::enable_shared_from_this<Stream> {
 public:
  // `resume_key` is empty where it cannot be resumed.
  Stream(Service& service, ConnectionPtr connection, uint64_t request, std::string resume_key);

  moe::Status start(TextRequest request);
  void cancel() { generator_.cancel(); }

  // Its connection is closed: it is parked if it can be resumed, otherwise cancelled.
  void on_connection_closed(const Connection& connection);
  // It goes on over `to`, after the event `after`.
  moe::Status attach(const ConnectionPtr& to, uint64_t request, uint64_t after, std::optional<uint64_t> credit);
  // The reader has every event up to this one. True: it is all over, and nothing needs to be kept.
  bool acknowledge(uint64_t sequence);
  // Without a connection, or at its end with a reader that does not confirm it, for at least so long.
  [[nodiscard]] bool is_expired(std::chrono::milliseconds grace);
  [[nodiscard]] const std::string& resume_key() const { return resume_key_; }

  void on_text(const TextEvent& event) override;
  void on_end(const TextEnd& end) override;

 private:
  using Clock = std::chrono::steady_clock;

  void park();
  Connection::Sent send(uint64_t n_tokens, bool last);
  void cut(std::string why);
  void count(const v1::End& end, const RequestUsage& usage);

  Service& service_;
  const uint64_t request_;
  const std::string resume_key_;
  TextGenerator generator_;

  // Of the engine's thread.
  TextRequest asked_;  // which fields its events have
  uint64_t sequence_ = 0;
  v1::ServerMessage message_;  // reused from event to event
  std::string bytes_;

  std::mutex mutex_;  // guards what follows; held while events go to the connection, never while a connection closes
  ConnectionPtr connection_;  // null: parked
  std::optional<Replay> replay_;
  std::optional<Clock::time_point> idle_since_;  // parked, or ended
  bool ended_ = false;
  std::optional<moe::Error> cut_;
};

}  // namespace patchbay
