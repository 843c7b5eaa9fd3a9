// A client of a Patchbay server over ZeroMQ: many streams over one connection, which it gets back when it is lost.
// Links moe::client (libzmq, cppzmq and moe::schema).
//
//   auto client = moe::Client::connect({.address = "tcp://127.0.0.1:5757"});
//   patchbay::v1::Generate request;
//   request.set_text("2 + 2 =");
//   auto end = (*client)->generate(request, [](const patchbay::v1::Tokens& t) { std::cout << t.text(); });
#pragma once

#include <sys/random.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "moe/sdk/result.hpp"
#include "patchbay.pb.h"

namespace moe {

struct ClientOptions {
  std::string address = "tcp://127.0.0.1:5757";
  // Silence after which the server is asked whether it lives; as long again, and the connection counts as lost.
  std::chrono::milliseconds patience{5000};
  // How long a lost connection is tried again while streams run; they go on where they were. 0: not at all.
  std::chrono::milliseconds reconnect_for{10000};
  // Tokens of a stream that the server may be ahead of next(); 0: no limit. Slow readers want one.
  uint64_t window = 0;
  // CURVE keys in Z85, 40 characters each: the server's public one, and our own two. Empty: no encryption.
  std::string server_key{};
  std::string public_key{};
  std::string secret_key{};
};

// One thread at a time.
class Client {
 public:
  using Message = patchbay::v1::ServerMessage;

  // MOE_INVALID_ARGUMENT: no such address, or keys that are none; MOE_UNAVAILABLE: nobody answers there in time.
  static Result<std::unique_ptr<Client>> connect(ClientOptions options) {
    std::unique_ptr<Client> client(new Client(std::move(options)));
    MOE_TRY(client->open());
    MOE_ASSIGN(const Message health, client->ask_health());
    (void)health;
    return client;
  }

  // Begins a stream: its number. Its events come from next(). A resume_key is made up if the request has none.
  Result<uint64_t> start(patchbay::v1::Generate request) {
    const uint64_t number = next_number_++;
    if (request.resume_key().empty() && options_.reconnect_for.count() > 0) request.set_resume_key(random_key());
    if (options_.window > 0 && !request.has_credit()) request.set_credit(options_.window);
    streams_[number] = {request.resume_key(), 0, 0, 0};
    patchbay::v1::ClientMessage message;
    message.set_request(number);
    *message.mutable_generate() = std::move(request);
    send(message);
    return number;
  }

  // Its end comes as an event, with CANCELLED if it was not there already.
  void cancel(uint64_t number) {
    patchbay::v1::ClientMessage message;
    message.set_request(number);
    message.mutable_cancel();
    send(message);
  }

  // The next event of a stream, each exactly once and in its stream's order; nothing: none came in time, or a signal
  // did. A stream that could not be had back ends with an event like any other, FAILED. MOE_UNAVAILABLE: the server is
  // lost, and all streams with it.
  Result<std::optional<Message>> next(std::chrono::milliseconds wait) {
    if (!made_up_.empty()) return std::optional(take_made_up());
    MOE_ASSIGN(std::optional<Message> message, receive(wait));
    if (!message) {
      MOE_TRY(look_after_connection());
      return std::optional<Message>();
    }
    MOE_ASSIGN(const bool is_news, take(*message));
    if (is_news) return message;
    if (!made_up_.empty()) return std::optional(take_made_up());
    return std::optional<Message>();
  }

  // One stream from its request to its end. `on_tokens` gets every event; `interrupted` is asked many times a second,
  // true cancels. Events of other streams are dropped: start() them after it.
  Result<patchbay::v1::End> generate(patchbay::v1::Generate request,
                                     const std::function<void(const patchbay::v1::Tokens&)>& on_tokens = {},
                                     const std::function<bool()>& interrupted = {}) {
    MOE_ASSIGN(const uint64_t number, start(std::move(request)));
    bool cancelled = false;
    while (true) {
      if (!cancelled && interrupted && interrupted()) {
        cancelled = true;
        cancel(number);
      }
      MOE_ASSIGN(const std::optional<Message> message, next(kTick));
      if (!message || message->request() != number) continue;
      if (message->has_end()) return message->end();
      if (message->has_tokens() && on_tokens) on_tokens(message->tokens());
    }
  }

  // A question that the server answers at once: health, info, metrics, telemetry, control. Events of streams that come
  // before the answer wait for next(). The server's refusal is an error with its code.
  Result<Message> ask(patchbay::v1::ClientMessage question) {
    question.set_request(0);
    send(question);
    const auto deadline = Clock::now() + options_.patience;
    std::vector<Message> early;
    while (Clock::now() < deadline) {
      MOE_ASSIGN(std::optional<Message> message, receive(kTick));
      if (!message) continue;
      if (message->request() == 0 && message->sequence() == 0) {
        pending_.insert(pending_.end(), early.begin(), early.end());
        if (message->has_error()) return Error{message->error().code(), message->error().message()};
        return std::move(*message);
      }
      early.push_back(std::move(*message));
    }
    pending_.insert(pending_.end(), early.begin(), early.end());
    return Error{MOE_UNAVAILABLE, "server: expected an answer from " + options_.address + ", got none"};
  }

  // Streams that have not ended.
  [[nodiscard]] size_t n_streams() const { return streams_.size(); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kTick{100};
  static constexpr std::chrono::milliseconds kRetry{100};
  static constexpr uint64_t kConfirmEvery = 64;  // events

  struct Stream {
    std::string key;
    uint64_t sequence = 0;     // of its last event
    uint64_t n_confirmed = 0;  // its sequence when the server was told last
    uint64_t n_taken = 0;      // tokens since credit was given last
  };
  struct Line {  // one connection
    zmq::context_t context;
    zmq::socket_t socket{context, zmq::socket_type::dealer};
    zmq::socket_t monitor{context, zmq::socket_type::pair};
  };

  explicit Client(ClientOptions options) : options_(std::move(options)) {}

  static std::string random_key() {
    std::string key(32, '\0');
    for (size_t n = 0; n < key.size();) {
      const ssize_t got = getrandom(key.data() + n, key.size() - n, 0);
      if (got > 0) n += static_cast<size_t>(got);
    }
    return key;
  }

  Status open() {
    constexpr const char* kMonitor = "inproc://client-monitor";
    try {
      line_ = std::make_unique<Line>();
      line_->socket.set(zmq::sockopt::linger, 200);  // a cancel on its way out still goes
      line_->socket.set(zmq::sockopt::reconnect_ivl,
                        -1);  // we do that, for the server does not know a new line's streams
      line_->socket.set(zmq::sockopt::ipv6, true);
      line_->monitor.set(zmq::sockopt::linger, 0);
      if (!options_.server_key.empty()) {
        line_->socket.set(zmq::sockopt::curve_serverkey, options_.server_key);
        line_->socket.set(zmq::sockopt::curve_publickey, options_.public_key);
        line_->socket.set(zmq::sockopt::curve_secretkey, options_.secret_key);
      }
      constexpr int kLost = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                            ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
      if (zmq_socket_monitor(line_->socket.handle(), kMonitor, kLost) != 0) throw zmq::error_t();
      line_->monitor.connect(kMonitor);
      line_->socket.connect(options_.address);
    } catch (const zmq::error_t& e) {
      return invalid("server: expected an address such as tcp://127.0.0.1:5757 and keys of 40 characters, got \"" +
                     options_.address + "\" (" + e.what() + ")");
    }
    last_heard_ = Clock::now();
    probed_ = false;
    return {};
  }

  Result<Message> ask_health() {
    patchbay::v1::ClientMessage question;
    question.mutable_health();
    return ask(question);
  }

  void send(const patchbay::v1::ClientMessage& message) {
    // Does not wait: what finds no room is found missing by its answer that does not come.
    (void)line_->socket.send(zmq::buffer(message.SerializeAsString()), zmq::send_flags::dontwait);
  }

  // From the line, or what a question has put aside. MOE_UNAVAILABLE: the line is gone and cannot be had back.
  Result<std::optional<Message>> receive(std::chrono::milliseconds wait) {
    if (!pending_.empty()) {
      Message first = std::move(pending_.front());
      pending_.erase(pending_.begin());
      return std::optional(std::move(first));
    }
    zmq::message_t frame;
    try {
      if (!line_->socket.recv(frame, zmq::recv_flags::dontwait)) {
        zmq::pollitem_t items[] = {{line_->socket.handle(), 0, ZMQ_POLLIN, 0},
                                   {line_->monitor.handle(), 0, ZMQ_POLLIN, 0}};
        zmq::poll(items, 2, wait);
        if (!line_->socket.recv(frame,
                                zmq::recv_flags::dontwait)) {  // what was sent before the end of a line comes first
          if ((items[1].revents & ZMQ_POLLIN) != 0) MOE_TRY(reconnect(why_lost()));
          return std::optional<Message>();
        }
      }
    } catch (const zmq::error_t& e) {
      if (e.num() == EINTR) return std::optional<Message>();
      return Error{MOE_UNAVAILABLE, options_.address + ": " + e.what()};
    }
    last_heard_ = Clock::now();
    probed_ = false;
    Message message;
    if (!message.ParseFromArray(frame.data(), static_cast<int>(frame.size()))) {
      return data_loss(options_.address + ": expected a ServerMessage, got bytes that are none");
    }
    return std::optional(std::move(message));
  }

  std::string why_lost() {
    zmq::message_t event;
    uint16_t what = 0;
    if (line_->monitor.recv(event, zmq::recv_flags::dontwait) && event.size() >= sizeof what) {
      std::memcpy(&what, event.data(), sizeof what);
    }
    if (what == ZMQ_EVENT_CLOSED) return "nobody who listens there";
    if (what == ZMQ_EVENT_DISCONNECTED) return "a connection that was lost";
    return "one that does not take our keys";
  }

  // A silent server is asked whether it lives.
  Status look_after_connection() {
    if (Clock::now() - last_heard_ < options_.patience) return {};
    if (probed_) return reconnect("no sign of life");
    probed_ = true;
    last_heard_ = Clock::now();
    patchbay::v1::ClientMessage question;
    question.mutable_health();
    send(question);
    return {};
  }

  // A new line, over which the streams that run go on.
  Status reconnect(const std::string& why) {
    const Error lost{MOE_UNAVAILABLE, "server: expected one at " + options_.address + ", got " + why};
    if (streams_.empty() || options_.reconnect_for.count() == 0) return lost;
    const auto deadline = Clock::now() + options_.reconnect_for;
    while (Clock::now() < deadline) {
      MOE_TRY(open());
      if (is_answered()) {
        for (const auto& [number, stream] : streams_) resume(number, stream);
        return {};
      }
      zmq_poll(nullptr, 0, static_cast<long>(kRetry.count()));
    }
    return lost;
  }

  // Whether somebody answers on a new line.
  bool is_answered() {
    patchbay::v1::ClientMessage question;
    question.mutable_health();
    send(question);
    zmq::pollitem_t items[] = {{line_->socket.handle(), 0, ZMQ_POLLIN, 0}, {line_->monitor.handle(), 0, ZMQ_POLLIN, 0}};
    try {
      zmq::poll(items, 2, options_.patience);
    } catch (const zmq::error_t&) {  // a signal
    }
    zmq::message_t frame;
    return line_->socket.recv(frame, zmq::recv_flags::dontwait).has_value();
  }

  void resume(uint64_t number, const Stream& stream) {
    patchbay::v1::ClientMessage message;
    message.set_request(number);
    message.mutable_resume()->set_key(stream.key);
    message.mutable_resume()->set_after(stream.sequence);
    if (options_.window > 0) message.mutable_resume()->set_credit(options_.window - stream.n_taken % options_.window);
    send(message);
  }

  // Whether it is an event that the caller has not had.
  Result<bool> take(const Message& message) {
    const auto found = streams_.find(message.request());
    if (message.has_error()) {
      if (found == streams_.end()) return Error{message.error().code(), message.error().message()};
      give_up(found->first, message.error());
      return false;
    }
    if (message.sequence() == 0 || found == streams_.end()) return false;  // a late answer, or of a stream that is over
    Stream& stream = found->second;
    if (message.sequence() <= stream.sequence) return false;  // sent again
    if (message.sequence() != stream.sequence + 1) {
      return data_loss("stream: expected event " + std::to_string(stream.sequence + 1) + ", got " +
                       std::to_string(message.sequence()));
    }
    stream.sequence = message.sequence();
    stream.n_taken += static_cast<uint64_t>(message.tokens().ids_size());
    const bool half = options_.window > 0 && 2 * stream.n_taken >= options_.window;
    if (message.has_end() || half || stream.sequence - stream.n_confirmed >= kConfirmEvery)
      confirm(found->first, stream);
    if (message.has_end()) streams_.erase(found);
    return true;
  }

  // Tells the server what may be forgotten, and how much more may come.
  void confirm(uint64_t number, Stream& stream) {
    patchbay::v1::ClientMessage message;
    message.set_request(number);
    message.mutable_credit()->set_tokens(options_.window > 0 ? stream.n_taken : 0);
    message.mutable_credit()->set_acknowledged(stream.sequence);
    stream.n_taken = 0;
    stream.n_confirmed = stream.sequence;
    send(message);
  }

  // The end of a stream that the server does not have any more.
  void give_up(uint64_t number, const patchbay::v1::Status& error) {
    Message end;
    end.set_request(number);
    end.set_sequence(streams_[number].sequence + 1);
    end.mutable_end()->set_reason(patchbay::v1::FINISH_REASON_FAILED);
    *end.mutable_end()->mutable_error() = error;
    streams_.erase(number);
    made_up_.push_back(std::move(end));
  }
  Message take_made_up() {
    Message first = std::move(made_up_.front());
    made_up_.erase(made_up_.begin());
    return first;
  }

  const ClientOptions options_;
  std::unique_ptr<Line> line_;
  std::map<uint64_t, Stream> streams_;
  std::vector<Message> pending_;  // came while a question was asked
  std::vector<Message> made_up_;
  uint64_t next_number_ = 1;
  Clock::time_point last_heard_;
  bool probed_ = false;
};

}  // namespace moe
