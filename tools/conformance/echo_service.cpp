#include "tools/conformance/echo_service.hpp"

#include <chrono>

#include "moe/sdk/tensor.hpp"
#include "patchbay.pb.h"
#include "tools/conformance/hook_control.hpp"

namespace patchbay::conformance {

EchoService::EchoService() : abi_(moe::make<moe_service>()) {
  abi_.self = this;
  abi_.open = [](void* self, const moe_sink* sink, uint64_t* connection, moe_message*) -> moe_status {
    return static_cast<EchoService*>(self)->open(sink, connection);
  };
  abi_.submit = [](void* self, uint64_t connection, const void* message, uint64_t n_bytes,
                   moe_message* text) -> moe_status {
    return static_cast<EchoService*>(self)->submit(connection, message, n_bytes, text);
  };
  abi_.resume = [](void* self, uint64_t connection) { static_cast<EchoService*>(self)->resume(connection); };
  abi_.close = [](void* self, uint64_t connection) { static_cast<EchoService*>(self)->close(connection); };
  abi_.get_extension = [](void*, const char*) -> const void* { return nullptr; };
  thread_ = std::thread([this] { run(); });
}

EchoService::~EchoService() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

int64_t EchoService::n_open() {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(connections_.size());
}
int64_t EchoService::n_opened() {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(last_id_);
}
int64_t EchoService::n_refused() {
  const std::lock_guard lock(mutex_);
  return n_refused_;
}
int64_t EchoService::delivered_bytes() {
  const std::lock_guard lock(mutex_);
  return delivered_bytes_;
}
double EchoService::slowest_deliver_s() {
  const std::lock_guard lock(mutex_);
  return slowest_s_;
}
int64_t EchoService::n_streams() {
  const std::lock_guard lock(mutex_);
  int64_t n = 0;
  for (const auto& [id, c] : connections_) n += static_cast<int64_t>(c->streams.size());
  return n;
}

moe_status EchoService::open(const moe_sink* sink, uint64_t* connection) {
  const std::lock_guard lock(mutex_);
  auto c = std::make_shared<Connection>();
  c->sink = *sink;
  *connection = ++last_id_;
  connections_[last_id_] = std::move(c);
  return MOE_OK;
}

EchoService::Stream EchoService::stream_of(const v1::ClientMessage& m) {
  Stream s;
  s.request = m.request();
  const auto& g = m.generate();
  const int n = g.has_chat() ? g.chat().messages_size() : 0;
  s.text = n > 0 ? g.chat().messages(n - 1).content() : g.text();
  s.max_tokens = g.max_tokens();
  s.endless = s.text.rfind(kEndless, 0) == 0;
  return s;
}

void EchoService::describe(v1::Info& info) {
  info.set_server("conformance kit");
  info.set_model("echo");
  info.set_context(1 << 20);
  info.set_n_vocab(256);
  info.set_has_text(true);
  info.set_has_chat(true);
}

moe_status EchoService::submit(uint64_t connection, const void* message, uint64_t n_bytes, moe_message* text) {
  v1::ClientMessage m;
  if (!m.ParseFromArray(message, static_cast<int>(n_bytes)) || m.body_case() == v1::ClientMessage::BODY_NOT_SET) {
    moe::write_message(text, "message: expected a ClientMessage, got other bytes");
    return MOE_INVALID_ARGUMENT;
  }
  std::shared_ptr<Connection> c;
  v1::ServerMessage answer;
  answer.set_request(m.request());
  {
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(connection);
    if (found == connections_.end()) return MOE_NOT_FOUND;
    c = found->second;
    if (m.has_generate()) c->streams.push_back(stream_of(m));
    if (m.has_cancel()) {
      for (auto& s : c->streams) s.cancelled = s.cancelled || s.request == m.request();
    }
    wake_.notify_all();
  }
  if (m.has_health()) answer.mutable_health()->set_state(v1::Health::STATE_SERVING);
  if (m.has_info()) describe(*answer.mutable_info());
  if (m.has_metrics()) answer.mutable_metrics();
  if (answer.event_case() == v1::ServerMessage::EVENT_NOT_SET) return MOE_OK;
  // Answers beside streams come from within the call.
  const std::string bytes = answer.SerializeAsString();
  if (deliver(*c, bytes) == MOE_RESOURCE_EXHAUSTED) {
    const std::lock_guard lock(mutex_);
    c->full = true;
    c->answers.push_back(bytes);
  }
  return MOE_OK;
}

void EchoService::resume(uint64_t connection) {
  const std::lock_guard lock(mutex_);
  if (const auto found = connections_.find(connection); found != connections_.end()) found->second->full = false;
  wake_.notify_all();
}

// No deliver call runs after it returns.
void EchoService::close(uint64_t connection) {
  std::shared_ptr<Connection> c;
  {
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(connection);
    if (found == connections_.end()) return;
    c = found->second;
    c->gone = true;
    connections_.erase(found);
  }
  const std::lock_guard wait(c->delivering);
}

moe_status EchoService::deliver(Connection& c, const std::string& message) {
  const auto start = std::chrono::steady_clock::now();
  moe_status status = MOE_UNAVAILABLE;
  {
    const std::lock_guard one_at_a_time(c.delivering);
    if (!c.gone) status = c.sink.deliver(c.sink.context, message.data(), message.size());
  }
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::lock_guard lock(mutex_);
  slowest_s_ = std::max(slowest_s_, took);
  if (status == MOE_RESOURCE_EXHAUSTED) ++n_refused_;
  if (status == MOE_OK) delivered_bytes_ += static_cast<int64_t>(message.size());
  return status;
}

std::string EchoService::next_event(Stream& s, bool& ended) {
  v1::ServerMessage m;
  m.set_request(s.request);
  m.set_sequence(s.sequence + 1);
  const auto length = static_cast<int64_t>(s.text.size());
  const bool all = !s.endless && s.n >= length;
  const bool enough = s.max_tokens > 0 && s.n >= s.max_tokens;
  ended = s.cancelled || all || enough;
  if (ended) {
    m.mutable_end()->set_reason(s.cancelled ? v1::FINISH_REASON_CANCELLED
                                : all       ? v1::FINISH_REASON_STOP
                                            : v1::FINISH_REASON_LENGTH);
    m.mutable_end()->mutable_usage()->set_n_generated(s.n);
  } else {
    const char c = s.text[static_cast<size_t>(s.n % length)];
    m.mutable_tokens()->set_index(s.n);
    m.mutable_tokens()->add_ids(static_cast<unsigned char>(c));
    m.mutable_tokens()->set_text(std::string(s.endless ? 4096 : 1, c));
  }
  return m.SerializeAsString();
}

// One event of each stream. False: there was nothing to do.
bool EchoService::serve(Connection& c) {
  bool did = false;
  while (true) {
    std::string answer;
    {
      const std::lock_guard lock(mutex_);
      if (c.full || c.gone || c.answers.empty()) break;
      answer = c.answers.front();
    }
    const moe_status status = deliver(c, answer);
    const std::lock_guard lock(mutex_);
    did = true;
    c.full = status == MOE_RESOURCE_EXHAUSTED;
    if (status != MOE_RESOURCE_EXHAUSTED) c.answers.pop_front();
  }
  size_t n = 0;
  {
    const std::lock_guard lock(mutex_);
    n = c.streams.size();
  }
  for (size_t i = 0; i < n; ++i) {
    Stream s;
    {
      const std::lock_guard lock(mutex_);
      if (c.full || c.gone || c.streams.empty()) return did;
      s = c.streams.front();
      c.streams.pop_front();
      c.streams.push_back(s);  // the next one's turn
    }
    bool ended = false;
    const moe_status status = deliver(c, next_event(s, ended));
    const std::lock_guard lock(mutex_);
    did = true;
    c.full = status == MOE_RESOURCE_EXHAUSTED;
    if (status == MOE_RESOURCE_EXHAUSTED) continue;
    for (auto it = c.streams.begin(); it != c.streams.end(); ++it) {
      if (it->request != s.request) continue;
      ++it->n;
      ++it->sequence;
      if (ended || status != MOE_OK) c.streams.erase(it);
      break;
    }
  }
  return did;
}

void EchoService::run() {
  const HostCode mine;
  while (true) {
    std::vector<std::shared_ptr<Connection>> all;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
      for (const auto& [id, c] : connections_) all.push_back(c);
    }
    bool did = false;
    for (const auto& c : all) did = serve(*c) || did;
    if (did) continue;
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, std::chrono::milliseconds(20), [this] { return stopping_; });
  }
}

}  // namespace patchbay::conformance
