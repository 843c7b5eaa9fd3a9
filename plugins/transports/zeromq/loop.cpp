#include "loop.hpp"

#include <algorithm>
#include <thread>

#include "moe/sdk/transport_support.hpp"
#include "patchbay.pb.h"

namespace zeromq {

namespace {

constexpr int kReceiveBatch = 64;  // messages handled before events go out again
// When to try again to send to a peer whose connection takes nothing, for libzmq does not say when it does again. Soon
// while it helps: a reader that catches up gets as much per try as its connection buffers.
constexpr std::chrono::milliseconds kSoon{1};
// Events that libzmq buffers for a connection, beside our queue: as many go per try, so this bounds the rate to a
// reader that was behind. 4 gave 4,000 a second, and a reader that kept up with everything else was cut.
constexpr int kSocketEvents = 128;
// Bytes that the kernel buffers for a connection; left to itself it takes megabytes for each client that does not read.
constexpr int kSendBufferBytes = 256 * 1024;
constexpr std::chrono::milliseconds kLate{20};
constexpr std::chrono::milliseconds kIdle{1000};
// How often connections are looked at for what they send without an end: what one can fill in between counts.
constexpr std::chrono::milliseconds kLook{20};
// Beside the largest message: what libzmq has read of the next one.
constexpr uint64_t kReadAhead = 256 * 1024;
constexpr uint64_t kHeartbeatBytes = 16;  // a second: its own pings and the answers to ours
constexpr size_t kFrameOverhead = 64;     // header, and with CURVE nonce and tag: 9 + 8 + 8 + 16 + 1
constexpr size_t kSpareConnections = 16;  // beyond the limit, to be told so

}  // namespace

Loop::Loop(const LoopOptions& options, const moe_service& service)
    : options_(options),
      service_(service),
      context_(1),
      socket_(context_, zmq::socket_type::router),
      monitor_(context_, socket_) {
  configure();
  if (!options_.publish.empty()) publisher_ = std::make_unique<Publisher>(context_, options_.publish, service);
  socket_.bind(options_.bind);
  address_ = socket_.get(zmq::sockopt::last_endpoint);
}

void Loop::configure() {
  if (!options_.secret_key.empty()) {
    zap_.emplace(context_, options_.allowed);
    socket_.set(zmq::sockopt::curve_server, true);
    socket_.set(zmq::sockopt::curve_secretkey, options_.secret_key);
    socket_.set(zmq::sockopt::zap_domain, "patchbay");
  }
  socket_.set(zmq::sockopt::router_mandatory,
              true);  // without it, events for a full or vanished peer disappear silently
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::maxmsgsize, options_.max_message_bytes);
  socket_.set(zmq::sockopt::sndhwm, kSocketEvents);
  socket_.set(zmq::sockopt::sndbuf, kSendBufferBytes);
  socket_.set(zmq::sockopt::rcvhwm, kReceiveBatch);
  socket_.set(zmq::sockopt::handshake_ivl, options_.handshake_ms);
  if (options_.heartbeat_ms > 0) {  // finds hosts that vanished without a word; a hung process it does not
    socket_.set(zmq::sockopt::heartbeat_ivl, options_.heartbeat_ms);
    socket_.set(zmq::sockopt::heartbeat_timeout, 3 * options_.heartbeat_ms);
  }
  if (options_.bind.find('[') != std::string::npos) socket_.set(zmq::sockopt::ipv6, true);
}

void Loop::run() noexcept {
  while (!is_done()) {
    try {
      step();
    } catch (const std::exception& e) {  // out of memory or file handles: the next step may have them again
      moe::log(MOE_LOG_ERROR, "zeromq", std::string("I/O: ") + e.what());
      std::this_thread::sleep_for(kLate);
    }
  }
  peers_.clear();  // closes their connections
}

void Loop::stop(std::chrono::milliseconds grace) {
  deadline_ = Clock::now() + grace;
  stopping_ = true;
  wakeup_.wake();
}

bool Loop::is_done() const {
  if (!stopping_) return false;
  const bool sent = std::all_of(peers_.begin(), peers_.end(), [](const auto& p) { return p.second->is_empty(); });
  return sent || Clock::now() >= deadline_.load();
}

void Loop::step() {
  const bool stuck =
      std::any_of(peers_.begin(), peers_.end(), [](const auto& p) { return p.second->stuck_since().has_value(); });
  std::vector<zmq::pollitem_t> items = {{nullptr, wakeup_.fd(), ZMQ_POLLIN, 0}, {monitor_.handle(), 0, ZMQ_POLLIN, 0}};
  if (!stopping_) items.push_back({socket_.handle(), 0, ZMQ_POLLIN, 0});
  if (zap_) items.push_back({zap_->handle(), 0, ZMQ_POLLIN, 0});
  auto wait = stuck ? retry_ : stopping_ || monitor_.size() > 0 ? kLook : kIdle;
  if (publisher_) wait = std::min(wait, publisher_->until_next());
  zmq::poll(items.data(), items.size(), wait);
  take_new_options();
  if (zap_) zap_->answer();
  drop_disconnected();
  limit_connections();
  if (!stopping_) receive();
  limit_unread();
  flush_marked();
  if (publisher_) publisher_->publish_if_due(options_.publish_every);
}

void Loop::reconfigure(const LoopOptions& options) {
  {
    const std::lock_guard lock(mutex_);
    new_options_ = options;
  }
  wakeup_.wake();
}

void Loop::take_new_options() {
  const std::lock_guard lock(mutex_);
  if (!new_options_) return;
  const std::string bind = options_.bind;
  options_ = *std::exchange(new_options_, std::nullopt);
  options_.bind = bind;
  if (zap_) zap_->allow(options_.allowed);
}

// Those that have said nothing go first, so that strangers who only connect keep nobody out.
void Loop::limit_connections() {
  for (size_t n = monitor_.size(); n > options_.max_connections + kSpareConnections; --n) {
    const auto silent = monitor_.oldest([this](int fd) { return !by_fd_.contains(fd); });
    if (!silent) return;
    moe::count("zeromq_connections_evicted_total");
    monitor_.shut(*silent);
    monitor_.forget(*silent);
  }
}

void Loop::limit_unread() {
  if (Clock::now() < next_look_) return;
  next_look_ = Clock::now() + kLook;
  if (Clock::now() >= next_forgiveness_) {
    next_forgiveness_ = Clock::now() + std::chrono::seconds(1);
    monitor_.forgive(kHeartbeatBytes);
  }
  const uint64_t most = static_cast<uint64_t>(options_.max_message_bytes) + kReadAhead;
  for (const int fd : monitor_.overfull(most, options_.max_unread_bytes)) {
    moe::count("zeromq_connections_cut_total");
    moe::log(MOE_LOG_WARNING, "zeromq", "a client is cut off: it sends a message without an end");
    monitor_.shut(fd);
    monitor_.forget(fd);
    drop_all_of(fd);
  }
}

void Loop::drop_disconnected() {
  for (const int fd : monitor_.drain()) drop_all_of(fd);
}

void Loop::drop_all_of(int fd) {
  for (auto found = by_fd_.find(fd); found != by_fd_.end(); found = by_fd_.find(fd)) drop(found->second);
}

void Loop::drop(Peer* peer) {
  const auto [begin, end] = by_fd_.equal_range(peer->fd());
  const auto own = std::find_if(begin, end, [peer](const auto& entry) { return entry.second == peer; });
  if (own != end) by_fd_.erase(own);
  peers_.erase(std::string(peer->identity()));
}

void Loop::receive() {
  Incoming in;
  for (int i = 0; i < kReceiveBatch && receive_one(in); ++i) {
    drop_disconnected();  // see PeerMonitor
    handle(in);
  }
}

bool Loop::receive_one(Incoming& in) {
  zmq::message_t identity;
  if (!socket_.recv(identity, zmq::recv_flags::dontwait)) return false;
  in = {};
  in.identity = identity.to_string();
  in.n_bytes = kFrameOverhead;
  bool more = identity.more();
  while (more) {  // a message's frames come together or not at all
    zmq::message_t frame;
    if (!socket_.recv(frame, zmq::recv_flags::none)) break;
    more = frame.more();
    in.n_bytes += frame.size() + kFrameOverhead;
    if (in.fd < 0) in.fd = zmq_msg_get(frame.handle(), ZMQ_SRCFD);
    if (++in.n_frames > 1) continue;
    in.payload = std::move(frame);
  }
  monitor_.add_received(in.fd, in.n_bytes);
  return true;
}

// The peer that sent it; null if it may not talk to us.
Peer* Loop::peer_of(const Incoming& in) {
  if (in.fd >= 0 && !monitor_.is_connected(in.fd)) return nullptr;  // it has gone since
  const auto found = peers_.find(in.identity);
  if (found != peers_.end()) {
    if (found->second->fd() == in.fd) return found->second.get();
    drop(found->second.get());  // another connection of that name
  }
  if (peers_.size() >= options_.max_connections) {
    moe::count("zeromq_connections_refused_total");
    send_error(in.identity, moe::exhausted("connections: expected at most " + std::to_string(options_.max_connections) +
                                           ", got one more"));
    return nullptr;
  }
  auto peer = std::make_unique<Peer>(in.identity, in.fd, options_.send, wakeup_);
  if (const moe::Status opened = peer->open(service_); !opened.ok()) {
    moe::count("zeromq_connections_refused_total");
    send_error(in.identity, opened.error());
    return nullptr;
  }
  if (in.fd >= 0) by_fd_.emplace(in.fd, peer.get());
  return peers_.emplace(in.identity, std::move(peer)).first->second.get();
}

void Loop::handle(const Incoming& in) {
  Peer* peer = peer_of(in);
  if (peer == nullptr || peer->is_cut()) return;
  if (in.n_frames != 1) {
    return cut(*peer, moe::invalid("message: expected 1 frame, got " + std::to_string(in.n_frames)));
  }
  const moe::Status submitted = peer->submit(in.payload.to_string_view());
  if (!submitted.ok()) cut(*peer, submitted.error());
}

void Loop::cut(Peer& peer, const moe::Error& error) {
  moe::count("zeromq_connections_cut_total");
  moe::log(MOE_LOG_WARNING, "zeromq", "a client is cut off: " + error.message);
  peer.cut();
  send_error(peer.identity(), error);
}

void Loop::flush_marked() {
  for (Peer* peer : wakeup_.take()) {
    if (!peer->stuck_since()) flush(peer);
  }
  std::vector<Peer*> stuck;
  for (const auto& [identity, peer] : peers_) {
    if (peer->stuck_since()) stuck.push_back(peer.get());
  }
  bool helped = false;
  for (Peer* peer : stuck) {
    helped = flush(peer) || helped;
  }
  retry_ = helped ? kSoon : std::min(2 * retry_, kLate);
}

bool Loop::flush(Peer* peer) {
  const auto before = peer->stuck_since();
  if (!peer->flush([this](const std::string& identity, std::string_view bytes) { return send(identity, bytes); })) {
    drop(peer);
    return true;
  }
  const auto since = peer->stuck_since();
  if (since && Clock::now() - *since > options_.stalled) {
    cut(*peer, moe::exhausted("reader: expected to read, got nothing from it for " +
                              std::to_string(options_.stalled.count()) + " ms"));
  }
  return since != before;
}

moe_status Loop::send(const std::string& identity, std::string_view bytes) {
  try {
    const auto flags = zmq::send_flags::dontwait;
    if (!socket_.send(zmq::buffer(identity), flags | zmq::send_flags::sndmore)) return MOE_RESOURCE_EXHAUSTED;
    // Room was checked with the first frame; here a peer can only have vanished, which the monitor tells.
    socket_.send(zmq::buffer(bytes), flags);
    return MOE_OK;
  } catch (const zmq::error_t& e) {
    return e.num() == EHOSTUNREACH ? MOE_UNAVAILABLE : MOE_INTERNAL;
  }
}

void Loop::send_error(const std::string& identity, const moe::Error& error) {
  patchbay::v1::ServerMessage message;
  message.mutable_error()->set_code(static_cast<patchbay::v1::Code>(error.code));
  message.mutable_error()->set_message(error.message);
  send(identity, message.SerializeAsString());  // where it does not arrive, there is nobody to tell
}

}  // namespace zeromq
