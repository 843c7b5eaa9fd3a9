#include "core/service/connection.hpp"

#include <algorithm>
#include <limits>

namespace patchbay {

Connection::Admission Connection::admit(uint64_t request, std::shared_ptr<EventStream> stream,
                                        std::optional<uint64_t> credit) {
  const std::lock_guard lock(mutex_);
  if (closed_) return Admission::kClosed;
  if (streams_.contains(request)) return Admission::kRunning;
  if (streams_.size() >= limits_.streams) return Admission::kTooMany;
  stream->request_ = request;
  stream->credit_ = credit;
  stream->reset();
  delivered_.erase(request);
  streams_.emplace(request, std::move(stream));
  return Admission::kYes;
}

void Connection::dismiss(uint64_t request) {
  const std::lock_guard lock(mutex_);
  delivered_.erase(request);
  const auto found = streams_.find(request);
  if (found == streams_.end()) return;
  std::erase_if(outbox_, [&](const Item& item) { return item.stream == found->second; });
  found->second->reset();
  streams_.erase(found);
}

std::shared_ptr<EventStream> Connection::find(uint64_t request) const {
  const std::lock_guard lock(mutex_);
  for (const Streams* streams : {&streams_, &delivered_}) {
    if (const auto found = streams->find(request); found != streams->end()) return found->second;
  }
  return nullptr;
}

// Everything below the public calls runs under the lock.

// With its last event.
void Connection::leave(uint64_t request) {
  const auto found = streams_.find(request);
  if (found->second->resumable_) delivered_.insert_or_assign(request, found->second);
  streams_.erase(found);
}

bool Connection::post(std::string_view bytes, EventStream* stream, bool last) {
  if (outbox_.empty()) {
    const moe_status status = sink_.deliver(sink_.context, bytes.data(), bytes.size());
    if (status == MOE_OK) {
      if (last) leave(stream->request_);
      return true;
    }
    if (status != MOE_RESOURCE_EXHAUSTED) {
      drop_all();
      return false;
    }
  }
  Item item;
  item.event = {std::string(bytes), 0, last};
  if (stream != nullptr) {
    item.stream = streams_.at(stream->request_);
    ++stream->n_held_;
    stream->n_held_bytes_ += bytes.size();
  } else {
    ++n_answers_;
  }
  outbox_.push_back(std::move(item));
  return true;
}

Connection::Sent Connection::send(EventStream& stream, std::string_view bytes, uint64_t n_tokens, bool last) {
  const std::lock_guard lock(mutex_);
  if (closed_) return Sent::kGone;
  const bool waits_for_credit = !stream.waiting_.empty() || (stream.credit_ && *stream.credit_ < n_tokens);
  const bool full = stream.n_held_ >= limits_.events || stream.n_held_bytes_ + bytes.size() > limits_.bytes;
  if (full && !last && (waits_for_credit || !outbox_.empty())) return Sent::kTooFar;
  if (waits_for_credit) {
    stream.waiting_.push_back({std::string(bytes), n_tokens, last});
    ++stream.n_held_;
    stream.n_held_bytes_ += bytes.size();
    return Sent::kYes;
  }
  if (stream.credit_) *stream.credit_ -= n_tokens;
  return post(bytes, &stream, last) ? Sent::kYes : Sent::kGone;
}

Connection::Sent Connection::answer(std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  if (closed_) return Sent::kGone;
  if (n_answers_ >= limits_.answers) return Sent::kTooFar;
  return post(bytes, nullptr, false) ? Sent::kYes : Sent::kGone;
}

bool Connection::can_answer() const {
  const std::lock_guard lock(mutex_);
  return n_answers_ < limits_.answers;
}

bool Connection::add_credit(uint64_t request, std::optional<uint64_t> tokens) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(request);
  if (found == streams_.end()) return !closed_;
  const std::shared_ptr<EventStream> stream = found->second;  // its last event may go now
  if (!tokens) {
    stream->credit_.reset();
  } else if (stream->credit_) {
    const uint64_t room = std::numeric_limits<uint64_t>::max() - *stream->credit_;
    *stream->credit_ += std::min(room, *tokens);
  }
  return post_waiting(*stream);
}

bool Connection::post_waiting(EventStream& stream) {
  while (!stream.waiting_.empty()) {
    EventStream::Event& next = stream.waiting_.front();
    if (stream.credit_ && *stream.credit_ < next.n_tokens) return true;
    if (stream.credit_) *stream.credit_ -= next.n_tokens;
    const EventStream::Event event = std::move(next);
    stream.waiting_.pop_front();
    --stream.n_held_;
    stream.n_held_bytes_ -= event.bytes.size();
    if (!post(event.bytes, &stream, event.last)) return false;
  }
  return true;
}

bool Connection::resume() {
  const std::lock_guard lock(mutex_);
  return !closed_ && flush();
}

bool Connection::flush() {
  while (!outbox_.empty()) {
    const Item& item = outbox_.front();
    const moe_status status = sink_.deliver(sink_.context, item.event.bytes.data(), item.event.bytes.size());
    if (status == MOE_RESOURCE_EXHAUSTED) return true;
    if (status != MOE_OK) {
      drop_all();
      return false;
    }
    release(item);
    outbox_.pop_front();
  }
  return true;
}

void Connection::release(const Item& item) {
  if (item.stream == nullptr) {
    --n_answers_;
    return;
  }
  --item.stream->n_held_;
  item.stream->n_held_bytes_ -= item.event.bytes.size();
  if (item.event.last) leave(item.stream->request_);
}

void Connection::drop_all() {
  closed_ = true;
  outbox_.clear();
  n_answers_ = 0;
}

std::vector<std::shared_ptr<EventStream>> Connection::close() {
  const std::lock_guard lock(mutex_);
  drop_all();
  std::vector<std::shared_ptr<EventStream>> streams;
  for (Streams* leaving : {&streams_, &delivered_}) {
    for (auto& [request, stream] : *leaving) {
      stream->reset();
      streams.push_back(std::move(stream));
    }
    leaving->clear();
  }
  return streams;
}

}  // namespace patchbay
