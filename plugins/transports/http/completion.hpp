// A completion while it is generated: the events of its choices in, a response out.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "moe/sdk/outbox.hpp"
#include "openai_response.hpp"
#include "session.hpp"

namespace httpd {

// One connection to the service, whose streams 1, 2, ... are the choices. [I/O thread]
class Completion final : public Exchange {
 public:
  // Sends the requests to the service. Their events, refusals too, come later, on the I/O thread.
  static moe::Result<std::unique_ptr<Completion>> start(const CompletionRequest& request, const std::string& model,
                                                        const moe_service& service, asio::io_context& io,
                                                        Session& session, const moe::OutboxBounds& bounds);
  ~Completion() override;

  void on_room() override { pump(); }
  void on_tick(Clock::time_point now) override;

 private:
  Completion(const CompletionRequest& request, const std::string& model, asio::io_context& io, Session& session,
             const moe::OutboxBounds& bounds);
  void wake();
  void pump();
  void take_event(const patchbay::v1::ServerMessage& message, std::string& out);
  void on_end(size_t index, const patchbay::v1::End& end, std::string& out);
  void fail(const moe::Error& error, std::string& out);
  void begin();
  void complete(std::string& out);

  Session& session_;
  const bool stream_;
  const bool include_usage_;
  const OpenAiWriter writer_;
  asio::io_context& io_;
  std::vector<Choice> choices_;
  size_t n_ended_ = 0;
  bool begun_ = false;     // the head of a stream was written
  bool complete_ = false;  // nothing more will be written
  Clock::time_point last_written_ = Clock::now();
  // Posted work must not find a completion that is gone.
  std::shared_ptr<Completion*> self_ = std::make_shared<Completion*>(this);

  std::atomic<bool> posted_ = false;
  moe::Outbox outbox_;  // last: its wake-ups use the rest
};

}  // namespace httpd
