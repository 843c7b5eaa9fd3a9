// A reader at the other end of a connection, as a transport would be: keeps what comes, and can have no room or be
// gone.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/service/service.hpp"
#include "moe/sdk/tensor.hpp"

namespace patchbay::testing {

class Reader {
 public:
  explicit Reader(Service& service) : service_(service) {
    moe_sink sink = moe::make<moe_sink>();
    sink.context = this;
    sink.deliver = [](void* self, const void* bytes, uint64_t n) { return static_cast<Reader*>(self)->take(bytes, n); };
    auto opened = service.open(sink);
    EXPECT_TRUE(opened.ok());
    if (opened.ok()) id = *opened;
  }
  ~Reader() { service_.close(id); }

  void room(size_t n) {  // messages that may still come
    {
      const std::lock_guard lock(mutex_);
      room_ = n;
    }
    service_.resume(id);
  }
  void vanish() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
  }

  moe::Status send(const v1::ClientMessage& message) { return service_.submit(id, message.SerializeAsString()); }
  moe::Status generate(uint64_t request, std::string_view prompt, const std::function<void(v1::Generate*)>& more = {}) {
    v1::ClientMessage m;
    m.set_request(request);
    for (const char c : prompt) m.mutable_generate()->mutable_ids()->add_ids(static_cast<unsigned char>(c));
    if (more) more(m.mutable_generate());
    return send(m);
  }
  moe::Status cancel(uint64_t request) {
    v1::ClientMessage m;
    m.set_request(request);
    m.mutable_cancel();
    return send(m);
  }
  moe::Status credit(uint64_t request, uint64_t tokens, uint64_t acknowledged = 0) {
    v1::ClientMessage m;
    m.set_request(request);
    m.mutable_credit()->set_tokens(tokens);
    m.mutable_credit()->set_acknowledged(acknowledged);
    return send(m);
  }
  moe::Status resume(uint64_t request, std::string_view key, uint64_t after,
                     std::optional<uint64_t> with_credit = std::nullopt) {
    v1::ClientMessage m;
    m.set_request(request);
    m.mutable_resume()->set_key(std::string(key));
    m.mutable_resume()->set_after(after);
    if (with_credit) m.mutable_resume()->set_credit(*with_credit);
    return send(m);
  }

  [[nodiscard]] std::vector<v1::ServerMessage> messages() const {
    const std::lock_guard lock(mutex_);
    return messages_;
  }
  [[nodiscard]] v1::ServerMessage last() const {
    const std::lock_guard lock(mutex_);
    return messages_.empty() ? v1::ServerMessage() : messages_.back();
  }
  [[nodiscard]] size_t size() const {
    const std::lock_guard lock(mutex_);
    return messages_.size();
  }
  // Waits for the end of a stream; false after ten seconds.
  bool wait_for_end(uint64_t request) {
    std::unique_lock lock(mutex_);
    return came_.wait_for(lock, std::chrono::seconds(10), [&] { return ends_[request] > 0; });
  }

  // A stream as it came, checked: sequence without a gap, tokens in order, one end and nothing after it.
  struct Stream {
    std::string text;
    std::vector<int32_t> ids;
    v1::End end;
    bool ended = false;
  };
  [[nodiscard]] Stream stream(uint64_t request) const { return stream_of(request, messages()); }
  // The same of messages that came to several readers, one after the other.
  static Stream stream_of(uint64_t request, const std::vector<v1::ServerMessage>& all) {
    Stream s;
    uint64_t sequence = 0;
    for (const auto& m : all) {
      if (m.request() != request || m.sequence() == 0) continue;
      EXPECT_FALSE(s.ended) << "an event after the end";
      EXPECT_EQ(m.sequence(), ++sequence);
      if (m.has_tokens()) {
        EXPECT_EQ(m.tokens().index(), static_cast<int64_t>(s.ids.size()));
        s.text += m.tokens().text();
        s.ids.insert(s.ids.end(), m.tokens().ids().begin(), m.tokens().ids().end());
      } else {
        EXPECT_TRUE(m.has_end());
        s.end = m.end();
        s.ended = true;
      }
    }
    return s;
  }

  uint64_t id = 0;

 private:
  moe_status take(const void* bytes, uint64_t n) {
    const std::lock_guard lock(mutex_);
    if (gone_) return MOE_UNAVAILABLE;
    if (room_ == 0) return MOE_RESOURCE_EXHAUSTED;
    --room_;
    v1::ServerMessage m;
    EXPECT_TRUE(m.ParseFromArray(bytes, static_cast<int>(n)));
    if (m.has_end()) ++ends_[m.request()];
    messages_.push_back(std::move(m));
    came_.notify_all();
    return MOE_OK;
  }

  Service& service_;
  mutable std::mutex mutex_;
  std::condition_variable came_;
  std::map<uint64_t, int> ends_;
  std::vector<v1::ServerMessage> messages_;
  size_t room_ = std::numeric_limits<size_t>::max();
  bool gone_ = false;
};

}  // namespace patchbay::testing
