#include "core/service/service.hpp"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/service/stream.hpp"
#include "core/service/wire.hpp"
#include "moe/sdk/plugin.hpp"

namespace patchbay {

namespace {

constexpr size_t kShortestKey = 16;
constexpr size_t kLongestKey = 64;

}  // namespace

Service::Service(Engine& engine, const TextModel& model, Metrics& metrics, v1::Info info, const ServiceOptions& options)
    : engine_(engine),
      model_(model),
      metrics_(metrics),
      info_(std::move(info)),
      options_(options),
      max_tokens_(options.max_tokens) {
  google::protobuf::SetLogHandler(nullptr);  // it would print a line for each malformed message of a client
  info_.set_context(engine.context());
  info_.set_n_vocab(engine.n_vocab());
  info_.set_has_text(model.tokenizer() != nullptr);
  info_.set_has_chat(model.tokenizer() != nullptr && model.chat() != nullptr);
  for (const v1::Layer& layer : info_.layers()) {
    if (layer.n_experts() > 0) moe_layers_.push_back(layer.index());
  }

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
      return credit(connection, message);
    case v1::ClientMessage::kResume:
      return resume_stream(connection, message);
    case v1::ClientMessage::kHealth:
      *reply.mutable_health() = health();
      break;
    case v1::ClientMessage::kInfo:
      *reply.mutable_info() = info_;
      break;
    case v1::ClientMessage::kMetrics:
      *reply.mutable_metrics() = metrics();
      break;
    case v1::ClientMessage::kTelemetry:
      *reply.mutable_telemetry() = telemetry();
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
  auto stream = std::make_shared<Stream>(*this, connection, id, message.generate().resume_key());
  if (const moe::Status admitted = admit(connection, id, stream, credit); !admitted.ok()) {
    if (admitted.error().code == MOE_CANCELLED) return;
    if (admitted.error().code == MOE_RESOURCE_EXHAUSTED) return refuse(connection, id, admitted.error());
    wire::write_status(admitted.error(), error.mutable_error());
    return answer(connection, error);
  }
  metrics_.add("patchbay_requests_total", 1);
  moe::Status started = draining_
                            ? moe::Error{MOE_UNAVAILABLE, "server: expected to serve, got a request while draining"}
                        : request.ok() ? keep(stream)
                                       : request.error();
  if (started.ok()) {
    int64_t& n = request->max_tokens;
    const int64_t most = max_tokens_;
    if (most > 0) n = n == 0 ? most : std::min(n, most);
    add_running(stream);
    started = stream->start(std::move(request).value());
    if (!started.ok()) {
      remove_running(stream.get());
      forget(stream->resume_key());
    }
  }
  if (!started.ok()) {
    connection->dismiss(id);
    refuse(connection, id, started.error());
  }
}

// MOE_CANCELLED: the connection is closed, there is nobody to answer.
moe::Status Service::admit(const ConnectionPtr& connection, uint64_t request,
                           const std::shared_ptr<EventStream>& stream, std::optional<uint64_t> credit) {
  switch (connection->admit(request, stream, credit)) {
    case Connection::Admission::kYes:
      break;
    case Connection::Admission::kClosed:
      return moe::Error{MOE_CANCELLED, "connection: expected an open one, got a closed one"};
    case Connection::Admission::kTooMany:
      return moe::exhausted("connection: expected fewer streams at one time, got one more");
    case Connection::Admission::kRunning:
      return moe::Error{MOE_ALREADY_EXISTS,
                        fmt::format("request {}: expected a new number, got that of a running stream", request)};
  }
  return {};
}

// A stream with a key can be found by it from now on.
moe::Status Service::keep(const std::shared_ptr<Stream>& stream) {
  const std::string& key = stream->resume_key();
  if (key.empty()) return {};
  if (key.size() < kShortestKey || key.size() > kLongestKey) {
    return moe::invalid(
        fmt::format("generate.resume_key: expected {} to {} bytes, got {}", kShortestKey, kLongestKey, key.size()));
  }
  forget_expired();
  const std::lock_guard lock(mutex_);
  if (resumable_.size() >= options_.resumable) {
    return moe::exhausted(fmt::format("resume: expected at most {} streams, got one more", options_.resumable));
  }
  if (!resumable_.emplace(key, stream).second) {
    return moe::Error{MOE_ALREADY_EXISTS, "generate.resume_key: expected a new key, got that of another stream"};
  }
  return {};
}

void Service::forget(const std::string& resume_key) {
  std::shared_ptr<Stream> last;  // destroyed without the lock
  const std::lock_guard lock(mutex_);
  const auto found = resumable_.find(resume_key);
  if (found == resumable_.end()) return;
  last = std::move(found->second);
  resumable_.erase(found);
}

void Service::forget_expired() {
  std::vector<std::shared_ptr<Stream>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, stream] : resumable_) all.push_back(stream);
  }
  for (const auto& stream : all) {
    if (!stream->is_expired(options_.resume_grace)) continue;
    forget(stream->resume_key());
    stream->cancel();
  }
}

void Service::credit(const ConnectionPtr& connection, const v1::ClientMessage& message) {
  if (message.credit().acknowledged() > 0) {
    if (const auto stream = connection->find(message.request())) {
      auto& ours = static_cast<Stream&>(*stream);
      if (ours.acknowledge(message.credit().acknowledged())) {
        forget(ours.resume_key());
        connection->dismiss(message.request());
      }
    }
  }
  if (!connection->add_credit(message.request(), message.credit().tokens())) abandon(*connection);
}

void Service::resume_stream(const ConnectionPtr& connection, const v1::ClientMessage& message) {
  forget_expired();
  std::shared_ptr<Stream> stream;
  {
    const std::lock_guard lock(mutex_);
    const auto found = resumable_.find(message.resume().key());
    if (found != resumable_.end()) stream = found->second;
  }
  const auto credit = message.resume().has_credit() ? std::optional(message.resume().credit()) : std::nullopt;
  const moe::Status resumed =
      stream == nullptr ? moe::not_found("resume: expected the key of a stream, got another or one that is over")
                        : stream->attach(connection, message.request(), message.resume().after(), credit);
  metrics_.add(resumed.ok() ? "patchbay_streams_resumed_total" : "patchbay_resumes_refused_total", 1);
  if (resumed.ok() || resumed.error().code == MOE_CANCELLED) return;
  v1::ServerMessage reply;
  reply.set_request(message.request());
  wire::write_status(resumed.error(), reply.mutable_error());
  answer(connection, reply);
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

// The reader is gone: what runs for it is cancelled, or waits to be resumed. The transport still has to close the
// connection.
void Service::abandon(Connection& connection) {
  for (const auto& stream : connection.close()) static_cast<Stream&>(*stream).on_connection_closed(connection);
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
