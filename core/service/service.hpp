// Service: requests from transports to the engine, events back. The one place that knows of connections.
//
// A message's way: transport -> submit -> (parse) -> Stream, a TextGenerator -> Engine; the engine's thread -> Stream
// -> (serialize) -> Connection -> transport. No lock is held while the engine is called.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/service/connection.hpp"
#include "core/service/metrics.hpp"
#include "core/service/text_generator.hpp"
#include "core/service/text_model.hpp"
#include "moe/abi/transport.h"
#include "patchbay.pb.h"

namespace patchbay {

struct ServiceOptions {
  size_t connections = 1024;
  HoldLimits hold;                                // for each connection
  std::chrono::milliseconds resume_grace{10000};  // how long a resumable stream outlives its connection
  size_t resumable = 1024;                        // streams that may be resumed, at one time
  std::chrono::milliseconds stalled_after{1500};  // without progress while there is work: health says STALLED
  bool allow_control = false;                     // whether clients may send control messages
  int64_t max_tokens = 0;                         // of a request that asks for more or does not say; 0: the context
  // Metrics from elsewhere, such as the host's from plugins, by name; "_total" at the end makes a counter.
  // [thread-safe]
  std::function<std::map<std::string, double>()> more_metrics;
};

class Service {
 public:
  // All must outlive it. `info` says what runs here; the fields context, n_vocab, has_text and has_chat are filled in.
  // The engine calls its sinks without a lock of its own, for a stream may cancel from within on_token.
  Service(Engine& engine, const TextModel& model, Metrics& metrics, v1::Info info, const ServiceOptions& options = {});
  // Every request must have ended: stop the transports, then the engine, then this.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // What transports are given; lives as long as this object.
  [[nodiscard]] const moe_service* abi() const { return &abi_; }

  // The same calls in C++. [thread-safe]
  moe::Result<uint64_t> open(const moe_sink& sink);
  moe::Status submit(uint64_t connection, std::string_view message);
  void resume(uint64_t connection);
  void close(uint64_t connection);

  // New requests are refused with UNAVAILABLE; those that wait or run go on. [thread-safe]
  void drain();
  [[nodiscard]] bool draining() const { return draining_; }
  // ServiceOptions::max_tokens of requests that come from now on. [thread-safe]
  void set_max_tokens(int64_t n) { max_tokens_ = n; }
  // Streams that run. [thread-safe]
  [[nodiscard]] size_t n_running() const;

  [[nodiscard]] v1::Health health() const;        // [thread-safe]
  [[nodiscard]] v1::Telemetry telemetry() const;  // [thread-safe]
  [[nodiscard]] v1::Metrics metrics()
      const;  // the registry's, the engine's and the service's own, sorted [thread-safe]

 private:
  class Stream;
  using ConnectionPtr = std::shared_ptr<Connection>;

  [[nodiscard]] ConnectionPtr find(uint64_t id) const;
  void generate(const ConnectionPtr& connection, const v1::ClientMessage& message);
  void credit(const ConnectionPtr& connection, const v1::ClientMessage& message);
  void resume_stream(const ConnectionPtr& connection, const v1::ClientMessage& message);
  void control(const ConnectionPtr& connection, const v1::ClientMessage& message);
  void dispatch(const ConnectionPtr& connection, const v1::ClientMessage& message);
  static moe::Status admit(const ConnectionPtr& connection, uint64_t request,
                           const std::shared_ptr<EventStream>& stream, std::optional<uint64_t> credit);
  moe::Status keep(const std::shared_ptr<Stream>& stream);
  void forget(const std::string& resume_key);
  void forget_expired();
  void refuse(const ConnectionPtr& connection, uint64_t request, const moe::Error& error);
  void answer(const ConnectionPtr& connection, const v1::ServerMessage& message);
  void abandon(Connection& connection);
  void add_running(const std::shared_ptr<Stream>& stream);
  std::shared_ptr<Stream> remove_running(const Stream* stream);
  void write_engine_metrics(std::vector<MetricSample>* out) const;
  [[nodiscard]] int32_t layer_index(size_t l) const;

  Engine& engine_;
  const TextModel& model_;
  Metrics& metrics_;
  v1::Info info_;
  const ServiceOptions options_;
  moe_service abi_{};
  std::atomic<bool> draining_ = false;
  std::atomic<int64_t> max_tokens_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::vector<int32_t> moe_layers_;  // their indices, as in info_

  mutable std::mutex mutex_;
  uint64_t last_connection_ = 0;
  std::unordered_map<uint64_t, ConnectionPtr> connections_;
  // Keeps what the engine points to alive, whatever becomes of the connection.
  std::unordered_map<const Stream*, std::shared_ptr<Stream>> running_;
  std::unordered_map<std::string, std::shared_ptr<Stream>> resumable_;  // by key
  std::chrono::steady_clock::time_point busy_since_;                    // since when running_ is not empty
};

}  // namespace patchbay
