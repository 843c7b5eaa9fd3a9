// A raw ZeroMQ client: frames out, messages in, with patience.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "patchbay.pb.h"

namespace patchbay::testing {

class ZmqClient {
 public:
  explicit ZmqClient(const std::string& address, int rcvhwm = 1000, int rcvbuf = -1)
      : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvhwm, rcvhwm);
    if (rcvbuf > 0) socket_.set(zmq::sockopt::rcvbuf, rcvbuf);
    socket_.connect(address);
  }
  void send_frames(const std::vector<std::string>& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      socket_.send(zmq::buffer(frames[i]), i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  void send(const v1::ClientMessage& message) { send_frames({message.SerializeAsString()}); }
  // With `logprobs` the events are as large as the test likes.
  void generate(uint64_t request, std::string_view text, int64_t max_tokens = 0, int logprobs = -1) {
    v1::ClientMessage m;
    m.set_request(request);
    m.mutable_generate()->set_text(std::string(text));
    m.mutable_generate()->set_max_tokens(max_tokens);
    if (logprobs >= 0) m.mutable_generate()->set_logprobs(logprobs);
    send(m);
  }
  void cancel(uint64_t request) {
    v1::ClientMessage m;
    m.set_request(request);
    m.mutable_cancel();
    send(m);
  }
  std::optional<v1::ServerMessage> receive(std::chrono::milliseconds patience = std::chrono::seconds(5)) {
    socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(patience.count()));
    zmq::message_t frame;
    if (!socket_.recv(frame)) return std::nullopt;
    EXPECT_FALSE(frame.more());
    v1::ServerMessage m;
    EXPECT_TRUE(m.ParseFromArray(frame.data(), static_cast<int>(frame.size())));
    return m;
  }
  // The text of a stream to its end; every event of it must be the next one.
  struct Stream {
    std::string text;
    size_t n_tokens = 0;
    v1::End end;
    bool ended = false;
  };
  Stream stream(uint64_t request) {
    Stream s;
    uint64_t sequence = 0;
    while (const auto m = receive()) {
      if (m->request() != request || m->sequence() == 0) continue;
      EXPECT_EQ(m->sequence(), ++sequence);
      if (m->has_end()) {
        s.end = m->end();
        s.ended = true;
        break;
      }
      EXPECT_EQ(m->tokens().index(), static_cast<int64_t>(s.n_tokens));
      s.n_tokens += static_cast<size_t>(m->tokens().ids_size());
      s.text += m->tokens().text();
    }
    EXPECT_TRUE(s.ended);
    return s;
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

}  // namespace patchbay::testing
