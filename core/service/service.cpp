#include "core/service/service.hpp"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/service/wire.hpp"
#include "moe/sdk/plugin.hpp"

namespace patchbay {

// One `generate`: the generator, and its events on their way to the connection. Events come from one thread, the
// engine's.
class Service::Stream final : public EventStream, public TextListener {
 public:
  Stream(Service& service, ConnectionPtr connection, uint64_t request)
      : service_(service),
        connection_(std::move(connection)),
        request_(request),
        generator_(service.engine_, service.model_, *this) {}

  moe::Status start(TextRequest request) {
    asked_.top_logprobs = request.top_logprobs;
    asked_.trace_routing = request.trace_routing;
    return generator_.start(std::move(request));
  }
  void cancel() { generator_.cancel(); }

  void on_text(const TextEvent& event) override {
    if (cut_) return;
    message_.Clear();
    wire::write_tokens(event, asked_, service_.model_.tokenizer(), message_.mutable_tokens());
    switch (send(event.tokens.size(), false)) {
      case Connection::Sent::kYes:
        ++sequence_;
        return;
      case Connection::Sent::kGone:
        service_.abandon(*connection_);
        return;
      case Connection::Sent::kTooFar:
        break;
    }
    cut_ = moe::exhausted(
        fmt::format("reader: expected at most {} events held for it, got more", service_.options_.hold.events));
    cancel();
    connection_->add_credit(request_, std::nullopt);  // what is held may go, with the end behind it
  }

  void on_end(const TextEnd& end) override {
    const auto self = service_.remove_running(this);  // to the end of this call
    message_.Clear();
    wire::write_end(end, message_.mutable_end());
    if (cut_) {
      message_.mutable_end()->set_reason(v1::FINISH_REASON_FAILED);
      wire::write_status(*cut_, message_.mutable_end()->mutable_error());
    }
    count(message_.end().reason());
    if (send(0, true) == Connection::Sent::kGone) service_.abandon(*connection_);
  }

 private:
  Connection::Sent send(uint64_t n_tokens, bool last) {
    message_.set_request(request_);
    message_.set_sequence(sequence_ + 1);
    bytes_.clear();
    message_.AppendToString(&bytes_);
    return connection_->send(*this, bytes_, n_tokens, last);
  }
  void count(v1::FinishReason reason) {
    const bool failed = reason == v1::FINISH_REASON_FAILED;
    const bool cancelled = reason == v1::FINISH_REASON_CANCELLED;
    service_.metrics_.add(failed      ? "patchbay_requests_failed_total"
                          : cancelled ? "patchbay_requests_cancelled_total"
                                      : "patchbay_requests_done_total",
                          1);
  }

  Service& service_;
  const ConnectionPtr connection_;
  const uint64_t request_;
  TextGenerator generator_;
  TextRequest asked_;  // which fields its events have
  uint64_t sequence_ = 0;
  std::optional<moe::Error> cut_;
  v1::ServerMessage message_;  // reused from event to event
  std::string bytes_;
};

Service::Service(Engine& engine, const TextModel& model, Metrics& metrics, v1::Info info, const ServiceOptions& options)
    : engine_(engine), model_(model), metrics_(metrics), info_(std::move(info)), options_(options) {
  google::protobuf::SetLogHandler(nullptr);  // it would print a line for each malformed message of a client
  info_.set_context(engine.context());
  info_.set_n_vocab(engine.n_vocab());
  info_.set_has_text(model.tokenizer() != nullptr);
  info_.set_has_chat(model.tokenizer() != nullptr && model.chat() != nullptr);

  abi_ = moe::make<moe_service>();
  abi_.self = this;
  abi_.open = [](void* self, const moe_sink* sink, uint64_t* connection, moe_message* text) -> moe_status {
    return moe::guard(text, [&]() -> moe::Status {
      MOE_ASSIGN(*connection, static_cast<Service*>(self)->open(*sink));
      return {};
    });
  };
  abi_.submit = [](void* self, uint64_t connection, const void* message, uint64_t n_bytes,
                   moe_message* text) -> moe_status {
    return moe::guard(text, [&] {
      return static_cast<Service*>(self)->submit(connection, {static_cast<const char*>(message), n_bytes});
    });
  };
  abi_.resume = [](void* self, uint64_t connection) { static_cast<Service*>(self)->resume(connection); };
  abi_.close = [](void* self, uint64_t connection) { static_cast<Service*>(self)->close(connection); };
  abi_.get_extension = [](void*, const char*) -> const void* { return nullptr; };
}

Service::~Service() {
  for (const auto& [id, connection] : connections_) abandon(*connection);
}

moe::Result<uint64_t> Service::open(const moe_sink& sink) {
  if (sink.struct_size < sizeof(moe_sink) || sink.must_understand != 0 || sink.deliver == nullptr) {
    return moe::invalid("sink: expected moe.transport/1, got another version");
  }
  auto connection = std::make_shared<Connection>(sink, options_.hold);
  const std::lock_guard lock(mutex_);
  if (connections_.size() >= options_.connections) {
    return moe::exhausted(fmt::format("connections: expected at most {}, got one more", options_.connections));
  }
  connections_.emplace(++last_connection_, std::move(connection));
  return last_connection_;
}

Service::ConnectionPtr Service::find(uint64_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second;
}

moe::Status Service::submit(uint64_t connection_id, std::string_view bytes) {
  const ConnectionPtr connection = find(connection_id);
  if (connection == nullptr)
    return moe::not_found(fmt::format("connection {}: expected an open one, got none", connection_id));
  if (!connection->can_answer()) {
    return moe::exhausted(
        fmt::format("connection: expected at most {} unread answers, got more", options_.hold.answers));
  }
  v1::ClientMessage message;
  const bool parsed = bytes.size() <= static_cast<size_t>(std::numeric_limits<int>::max()) &&
                      message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  if (!parsed) {
    metrics_.add("patchbay_messages_malformed_total", 1);
    return moe::invalid(fmt::format("message: expected a ClientMessage, got {} bytes that are none", bytes.size()));
  }
  dispatch(connection, message);
  return {};
}

void Service::dispatch(const ConnectionPtr& connection, const v1::ClientMessage& message) {
  v1::ServerMessage reply;
  reply.set_request(message.request());
  switch (message.body_case()) {
    case v1::ClientMessage::kGenerate:
      return generate(connection, message);
    case v1::ClientMessage::kControl:
      return control(connection, message);
    case v1::ClientMessage::kCancel:
      if (const auto stream = connection->find(message.request())) {
        static_cast<Stream&>(*stream).cancel();
        if (!connection->add_credit(message.request(), std::nullopt)) abandon(*connection);
      }
      return;
    case v1::ClientMessage::kCredit:
      if (!connection->add_credit(message.request(), message.credit().tokens())) abandon(*connection);
      return;
    case v1::ClientMessage::kHealth:
      *reply.mutable_health() = health();
      break;
    case v1::ClientMessage::kInfo:
      *reply.mutable_info() = info_;
      break;
    case v1::ClientMessage::kMetrics:
      *reply.mutable_metrics() = metrics();
      break;
    case v1::ClientMessage::BODY_NOT_SET:
      wire::write_status(moe::unimplemented("message: expected a body that this server knows, got another or none"),
                         reply.mutable_error());
      break;
  }
  answer(connection, reply);
}

void Service::answer(const ConnectionPtr& connection, const v1::ServerMessage& message) {
  if (connection->answer(message.SerializeAsString()) == Connection::Sent::kGone) abandon(*connection);
}

// The whole stream of a request that is not begun: its end.
void Service::refuse(const ConnectionPtr& connection, uint64_t request, const moe::Error& error) {
  metrics_.add("patchbay_requests_refused_total", 1);
  v1::ServerMessage message;
  message.set_request(request);
  message.set_sequence(1);
  message.mutable_end()->set_reason(v1::FINISH_REASON_FAILED);
  wire::write_status(error, message.mutable_end()->mutable_error());
  answer(connection, message);
}

void Service::generate(const ConnectionPtr& connection, const v1::ClientMessage& message) {
  const uint64_t id = message.request();
  v1::ServerMessage error;
  error.set_request(id);
  if (id == 0) {
    wire::write_status(moe::invalid("request: expected a number other than 0, got 0"), error.mutable_error());
    return answer(connection, error);
  }
  auto request = wire::read_generate(message.generate(), std::chrono::steady_clock::now());
  const auto credit = message.generate().has_credit() ? std::optional(message.generate().credit()) : std::nullopt;
  auto stream = std::make_shared<Stream>(*this, connection, id);
  switch (connection->admit(id, stream, credit)) {
    case Connection::Admission::kYes:
      break;
    case Connection::Admission::kClosed:
      return;
    case Connection::Admission::kTooMany:
      return refuse(
          connection, id,
          moe::exhausted(fmt::format("connection: expected at most {} streams, got one more", options_.hold.streams)));
    case Connection::Admission::kRunning:
      wire::write_status(
          {MOE_ALREADY_EXISTS, fmt::format("request {}: expected a new number, got that of a running stream", id)},
          error.mutable_error());
      return answer(connection, error);
  }
  metrics_.add("patchbay_requests_total", 1);
  moe::Status started = draining_
                            ? moe::Error{MOE_UNAVAILABLE, "server: expected to serve, got a request while draining"}
                        : request.ok() ? moe::Status()
                                       : request.error();
  if (started.ok()) {
    int64_t& n = request->max_tokens;
    if (options_.max_tokens > 0) n = n == 0 ? options_.max_tokens : std::min(n, options_.max_tokens);
    add_running(stream);
    started = stream->start(std::move(request).value());
    if (!started.ok()) remove_running(stream.get());
  }
  if (!started.ok()) {
    connection->dismiss(id);
    refuse(connection, id, started.error());
  }
}

void Service::control(const ConnectionPtr& connection, const v1::ClientMessage& message) {
  v1::ServerMessage reply;
  reply.set_request(message.request());
  if (!options_.allow_control) {
    wire::write_status({MOE_PERMISSION_DENIED, "control: expected a server that allows it, got one that does not"},
                       reply.mutable_error());
  } else if (message.control().has_drain()) {
    drain();
    reply.mutable_control_done();
  } else {
    wire::write_status(moe::unimplemented("control: expected an action that this server knows, got another or none"),
                       reply.mutable_error());
  }
  answer(connection, reply);
}

void Service::resume(uint64_t connection_id) {
  const ConnectionPtr connection = find(connection_id);
  if (connection != nullptr && !connection->resume()) abandon(*connection);
}

void Service::close(uint64_t connection_id) {
  ConnectionPtr connection;
  {
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(connection_id);
    if (found == connections_.end()) return;
    connection = std::move(found->second);
    connections_.erase(found);
  }
  abandon(*connection);
}

// The reader is gone: what runs for it is cancelled. The transport still has to close the connection.
void Service::abandon(Connection& connection) {
  for (const auto& stream : connection.close()) static_cast<Stream&>(*stream).cancel();
}

void Service::drain() {
  draining_ = true;
  engine_.drain();
}

void Service::add_running(const std::shared_ptr<Stream>& stream) {
  const std::lock_guard lock(mutex_);
  if (running_.empty()) busy_since_ = std::chrono::steady_clock::now();
  running_.emplace(stream.get(), stream);
}

std::shared_ptr<Service::Stream> Service::remove_running(const Stream* stream) {
  const std::lock_guard lock(mutex_);
  const auto found = running_.find(stream);
  if (found == running_.end()) return nullptr;
  auto kept = std::move(found->second);
  running_.erase(found);
  return kept;
}

size_t Service::n_running() const {
  const std::lock_guard lock(mutex_);
  return running_.size();
}

}  // namespace patchbay
