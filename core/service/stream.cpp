#include "core/service/stream.hpp"

#include <fmt/format.h>

#include "core/service/wire.hpp"

namespace patchbay {

Service::Stream::Stream(Service& service, ConnectionPtr connection, uint64_t request, std::string resume_key)
    : service_(service),
      request_(request),
      resume_key_(std::move(resume_key)),
      generator_(service.engine_, service.model_, *this),
      connection_(std::move(connection)) {
  resumable_ = !resume_key_.empty();
  const HoldLimits& hold = service.options_.hold;
  if (resumable_) replay_.emplace(hold.events, hold.bytes);
}

moe::Status Service::Stream::start(TextRequest request) {
  asked_.top_logprobs = request.top_logprobs;
  asked_.trace_routing = request.trace_routing;
  return generator_.start(std::move(request));
}

void Service::Stream::park() {
  connection_ = nullptr;
  if (!idle_since_) idle_since_ = Clock::now();
}

void Service::Stream::on_connection_closed(const Connection& connection) {
  {
    const std::lock_guard lock(mutex_);
    if (connection_ != nullptr && connection_.get() != &connection) return;  // it has gone elsewhere before
    park();
  }
  if (!resumable_) cancel();
}

moe::Status Service::Stream::attach(const ConnectionPtr& to, uint64_t request, uint64_t after,
                                    std::optional<uint64_t> credit) {
  const std::lock_guard lock(mutex_);
  if (request != request_) {
    return moe::invalid(fmt::format("resume: expected the stream's own number {}, got {}", request_, request));
  }
  if (!replay_->has_all_after(after)) {
    return moe::data_loss(fmt::format("resume: expected an event from {} to {}, got {}",
                                      replay_->last() - replay_->events().size(), replay_->last(), after));
  }
  if (connection_ != nullptr) connection_->dismiss(request_);
  park();
  MOE_TRY(service_.admit(to, request_, shared_from_this(), credit));
  connection_ = to;
  if (!ended_) idle_since_.reset();
  replay_->acknowledge(after);
  for (const Replay::Event& event : replay_->events()) {
    if (connection_->send(request_, event.bytes, event.n_tokens, event.last) == Connection::Sent::kYes) continue;
    park();  // gone again, or it does not read: it may come once more
    break;
  }
  return {};
}

bool Service::Stream::acknowledge(uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  if (!replay_) return false;
  replay_->acknowledge(sequence);
  return ended_ && replay_->events().empty();
}

bool Service::Stream::is_expired(std::chrono::milliseconds grace) {
  const std::lock_guard lock(mutex_);
  return idle_since_ && Clock::now() - *idle_since_ >= grace;
}

void Service::Stream::on_text(const TextEvent& event) {
  ConnectionPtr gone;
  {
    const std::lock_guard lock(mutex_);
    if (cut_) return;
    if (connection_ == nullptr) {
      if (!resumable_) return;  // cancelled, and on its way to its end
      if (replay_->is_full()) return cut("reader: expected it back before events were lost, got nobody");
    }
    message_.Clear();
    wire::write_tokens(event, asked_, service_.model_.tokenizer(), message_.mutable_tokens());
    switch (send(event.tokens.size(), false)) {
      case Connection::Sent::kYes:
        return;
      case Connection::Sent::kTooFar:
        return cut(
            fmt::format("reader: expected at most {} events held for it, got more", service_.options_.hold.events));
      case Connection::Sent::kGone:
        gone = connection_;
        park();
    }
  }
  if (gone != nullptr) service_.abandon(*gone);
}

// The rest of the text is not delivered; what is held may go, with the end behind it.
void Service::Stream::cut(std::string why) {
  cut_ = moe::exhausted(std::move(why));
  cancel();
  if (connection_ != nullptr) connection_->add_credit(request_, std::nullopt);
}

void Service::Stream::on_end(const TextEnd& end) {
  const auto self = service_.remove_running(this);  // to the end of this call
  ConnectionPtr gone;
  {
    const std::lock_guard lock(mutex_);
    message_.Clear();
    wire::write_end(end, message_.mutable_end());
    if (cut_) {
      message_.mutable_end()->set_reason(v1::FINISH_REASON_FAILED);
      wire::write_status(*cut_, message_.mutable_end()->mutable_error());
    }
    count(message_.end(), end.usage);
    ended_ = true;
    idle_since_ = Clock::now();
    if (send(0, true) == Connection::Sent::kGone) {
      gone = connection_;
      connection_ = nullptr;
    }
  }
  if (gone != nullptr) service_.abandon(*gone);
}

// Into the replay, if there is one, and to the connection, if there is one.
Connection::Sent Service::Stream::send(uint64_t n_tokens, bool last) {
  message_.set_request(request_);
  message_.set_sequence(sequence_ + 1);
  bytes_.clear();
  message_.AppendToString(&bytes_);
  const Connection::Sent sent =
      connection_ == nullptr ? Connection::Sent::kYes : connection_->send(request_, bytes_, n_tokens, last);
  if (sent == Connection::Sent::kTooFar) return sent;
  ++sequence_;
  if (replay_) replay_->add(bytes_, n_tokens, last);
  return sent;
}

void Service::Stream::count(const v1::End& end, const RequestUsage& usage) {
  Metrics& metrics = service_.metrics_;
  const bool failed = end.reason() == v1::FINISH_REASON_FAILED;
  const bool cancelled = end.reason() == v1::FINISH_REASON_CANCELLED;
  metrics.add(failed      ? "patchbay_requests_failed_total"
              : cancelled ? "patchbay_requests_cancelled_total"
                          : "patchbay_requests_done_total",
              1);
  if (usage.n_generated == 0) return;
  metrics.observe("patchbay_queue_seconds", usage.queue_s);
  metrics.observe("patchbay_first_token_seconds", usage.queue_s + usage.prefill_s);
  if (usage.n_generated > 1) {
    metrics.observe("patchbay_token_seconds", usage.decode_s / static_cast<double>(usage.n_generated - 1));
  }
}

}  // namespace patchbay
