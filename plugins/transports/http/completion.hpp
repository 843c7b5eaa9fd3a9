// A completion while it is generated: the events of its choices in, a response out.
#pragma once

#include <boost/asio/io_context.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "moe/sdk/transport.hpp"
#include "openai_response.hpp"
#include "session.hpp"

namespace httpd {

struct QueueBounds {
  size_t events = 0;  // that wait for the I/O thread or the reader
  size_t bytes = 0;
};

// One connection to the service, whose streams 1, 2, ... are the choices. [I/O thread, but deliver]
class Completion final : public Exchange, private moe::EventSink {
 public:
  // Sends the requests to the service. Their events, refusals too, come later, on the I/O thread.
  static moe::Result<std::unique_ptr<Completion>> start(const CompletionRequest& request, const std::string& model,
                                                        const moe_service& service, asio::io_context& io,
                                                        Session& session, const QueueBounds& bounds);
  ~Completion() override;

  void on_room() override { pump(); }
  void on_tick(Clock::time_point now) override;

 private:
  Completion(const CompletionRequest& request, const std::string& model, asio::io_context& io, Session& session,
             const QueueBounds& bounds);
  moe_status deliver(std::string_view message) noexcept override;
  void pump();
  std::deque<std::string> take();
  void take_event(const patchbay::v1::ServerMessage& message, std::string& out);
  void on_end(size_t index, const patchbay::v1::End& end, std::string& out);
  void fail(const moe::Error& error, std::string& out);
  void begin();
  void complete(std::string& out);

  Session& session_;
  const bool stream_;
  const bool include_usage_;
  const OpenAiWriter writer_;
  const QueueBounds bounds_;
  asio::io_context& io_;
  moe::ServiceConnection connection_;
  std::vector<Choice> choices_;
  size_t n_ended_ = 0;
  bool begun_ = false;     // the head of a stream was written
  bool complete_ = false;  // nothing more will be written
  Clock::time_point last_written_ = Clock::now();
  // Posted work must not find a completion that is gone.
  std::shared_ptr<Completion*> self_ = std::make_shared<Completion*>(this);

  std::mutex mutex_;
  std::deque<std::string> queue_;
  size_t n_bytes_ = 0;
  bool blocked_ = false;  // an event was refused: the service waits for resume
  bool posted_ = false;
};

}  // namespace httpd
