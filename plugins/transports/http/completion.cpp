#include "completion.hpp"

#include <boost/asio/post.hpp>

#include "errors.hpp"

namespace httpd {

namespace v1 = patchbay::v1;

namespace {

constexpr std::chrono::seconds kSilence{10};  // then a comment, so that nothing on the way thinks it has ended

std::string event(const std::string& data) { return "data: " + data + "\n\n"; }

}  // namespace

Completion::Completion(const CompletionRequest& request, const std::string& model, asio::io_context& io,
                       Session& session, const moe::OutboxBounds& bounds)
    : session_(session),
      stream_(request.stream),
      include_usage_(request.include_usage),
      writer_(request, model),
      io_(io),
      choices_(request.choices.size()),
      outbox_(bounds, [this] { wake(); }) {}

Completion::~Completion() {
  outbox_.close();  // no wake-up after this
  *self_ = nullptr;
}

moe::Result<std::unique_ptr<Completion>> Completion::start(const CompletionRequest& request, const std::string& model,
                                                           const moe_service& service, asio::io_context& io,
                                                           Session& session, const moe::OutboxBounds& bounds) {
  std::unique_ptr<Completion> completion(new Completion(request, model, io, session, bounds));
  MOE_TRY(completion->outbox_.open(service));
  v1::ClientMessage message;
  for (size_t i = 0; i < request.choices.size(); ++i) {
    message.set_request(i + 1);
    *message.mutable_generate() = request.choices[i];
    MOE_TRY(completion->outbox_.submit(message.SerializeAsString()));
  }
  return completion;
}

// [any thread]
void Completion::wake() {
  if (posted_.exchange(true)) return;
  asio::post(io_, [self = self_] {
    if (Completion* completion = *self) completion->pump();
  });
}

// A stream waits for its reader: then events stay in the queue, the service holds what comes after them, and in the end
// cuts the request.
void Completion::pump() {
  posted_ = false;
  if (complete_ || (stream_ && !session_.has_room())) return;  // on_room comes
  std::string out;
  while (const std::string* bytes = outbox_.front()) {
    v1::ServerMessage message;
    const bool parsed = message.ParseFromArray(bytes->data(), static_cast<int>(bytes->size()));
    outbox_.pop();
    if (!parsed) {
      fail(moe::internal("service: expected an event, got something else"), out);
    } else {
      take_event(message, out);
    }
    if (complete_) break;
  }
  outbox_.resume();
  if (out.empty() && !complete_) return;
  if (stream_ && begun_) {
    last_written_ = Clock::now();
    session_.write(out);
    if (complete_) session_.end();
  }
}

void Completion::take_event(const v1::ServerMessage& message, std::string& out) {
  if (message.has_error()) {
    return fail({message.error().code(), message.error().message()}, out);
  }
  const size_t index = message.request() - 1;
  if (index >= choices_.size()) return;
  Choice& choice = choices_[index];
  if (message.has_tokens()) {
    writer_.add(message.tokens(), choice);
    if (!stream_) return;
    begin();
    const bool is_news = !message.tokens().text().empty() || !message.tokens().reasoning().empty() ||
                         !choice.new_logprobs.is_null() || !choice.begun;
    if (is_news) out += event(dump(writer_.delta(index, message.tokens(), choice)));
  } else if (message.has_end()) {
    on_end(index, message.end(), out);
  }
}

void Completion::on_end(size_t index, const v1::End& end, std::string& out) {
  if (end.reason() == v1::FINISH_REASON_FAILED) return fail({end.error().code(), end.error().message()}, out);
  if (end.reason() == v1::FINISH_REASON_CANCELLED) {
    return fail({MOE_CANCELLED, "server: expected to finish the request, got told to stop"}, out);
  }
  Choice& choice = choices_[index];
  choice.end = end;
  choice.ended = true;
  ++n_ended_;
  if (stream_) {
    begin();
    out += event(dump(writer_.finish(index, choice)));
  }
  if (n_ended_ == choices_.size()) complete(out);
}

void Completion::complete(std::string& out) {
  complete_ = true;
  if (!stream_) return session_.respond({200, "application/json", dump(writer_.whole(choices_)), {}});
  if (include_usage_) out += event(dump(writer_.usage(choices_)));
  out += event("[DONE]");
}

// The whole response fails with its first choice that does. Before anything was written that is a status, afterwards
// an event.
void Completion::fail(const moe::Error& error, std::string& out) {
  complete_ = true;
  outbox_.close();
  if (!begun_) return session_.respond(error_response(error));
  out += event(error_body(status_of(error.code), error.message));
}

void Completion::begin() {
  if (std::exchange(begun_, true)) return;
  session_.begin(
      {200, "text/event-stream; charset=utf-8", "", {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
}

void Completion::on_tick(Clock::time_point now) {
  if (!stream_ || complete_ || !session_.has_room() || now - last_written_ < kSilence) return;
  begin();
  last_written_ = now;
  session_.write(": waiting\n\n");
}

}  // namespace httpd
