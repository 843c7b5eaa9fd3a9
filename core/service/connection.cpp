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
  delivered_.erase(request);
  Delivery& delivery = streams_[request];
  delivery.stream = std::move(stream);
  delivery.credit = credit;
  return Admission::kYes;
}

void Connection::dismiss(uint64_t request) {
  const std::lock_guard lock(mutex_);
  delivered_.erase(request);
  if (streams_.erase(request) == 0) return;
  std::erase_if(outbox_, [&](const Item& item) { return item.request == request; });
}

std::shared_ptr<EventStream> Connection::find(uint64_t request) const {
  const std::lock_guard lock(mutex_);
  if (const auto found = streams_.find(request); found != streams_.end()) return found->second.stream;
  const auto found = delivered_.find(request);
  return found == delivered_.end() ? nullptr : found->second;
}

// Everything below the public calls runs under the lock.

// With its last event.
void Connection::leave(uint64_t request) {
  const auto found = streams_.find(request);
  const auto& stream = found->second.stream;
  if (stream->resumable_) delivered_.insert_or_assign(request, stream);
  streams_.erase(found);
}

bool Connection::post(std::string_view bytes, std::optional<uint64_t> request, bool last) {
  if (outbox_.empty()) {
    const moe_status status = sink_.deliver(sink_.context, bytes.data(), bytes.size());
    if (status == MOE_OK) {
      if (last) leave(*request);
      return true;
    }
    if (status != MOE_RESOURCE_EXHAUSTED) {
      drop_all();
      return false;
    }
  }
  outbox_.push_back({{std::string(bytes), 0, last}, request});
  if (request) {
    Delivery& delivery = streams_.at(*request);
    ++delivery.n_held;
    delivery.n_held_bytes += bytes.size();
  } else {
    ++n_answers_;
  }
  return true;
}

Connection::Sent Connection::send(uint64_t request, std::string_view bytes, uint64_t n_tokens, bool last) {
  const std::lock_guard lock(mutex_);
  if (closed_) return Sent::kGone;
  Delivery& delivery = streams_.at(request);
  const bool waits_for_credit = !delivery.waiting.empty() || (delivery.credit && *delivery.credit < n_tokens);
  const bool full = delivery.n_held >= limits_.events || delivery.n_held_bytes + bytes.size() > limits_.bytes;
  if (full && !last && (waits_for_credit || !outbox_.empty())) return Sent::kTooFar;
  if (waits_for_credit) {
    delivery.waiting.push_back({std::string(bytes), n_tokens, last});
    ++delivery.n_held;
    delivery.n_held_bytes += bytes.size();
    return Sent::kYes;
  }
  if (delivery.credit) *delivery.credit -= n_tokens;
  return post(bytes, request, last) ? Sent::kYes : Sent::kGone;
}

Connection::Sent Connection::answer(std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  if (closed_) return Sent::kGone;
  if (n_answers_ >= limits_.answers) return Sent::kTooFar;
  return post(bytes, std::nullopt, false) ? Sent::kYes : Sent::kGone;
}

bool Connection::can_answer() const {
  const std::lock_guard lock(mutex_);
  return n_answers_ < limits_.answers;
}

bool Connection::add_credit(uint64_t request, std::optional<uint64_t> tokens) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(request);
  if (found == streams_.end()) return !closed_;
  std::optional<uint64_t>& credit = found->second.credit;
  if (!tokens) {
    credit.reset();
  } else if (credit) {
    const uint64_t room = std::numeric_limits<uint64_t>::max() - *credit;
    *credit += std::min(room, *tokens);
  }
  return post_waiting(request);
}

bool Connection::post_waiting(uint64_t request) {
  Delivery& delivery = streams_.at(request);
  while (!delivery.waiting.empty()) {
    Event& next = delivery.waiting.front();
    if (delivery.credit && *delivery.credit < next.n_tokens) return true;
    if (delivery.credit) *delivery.credit -= next.n_tokens;
    const Event event = std::move(next);
    delivery.waiting.pop_front();
    --delivery.n_held;
    delivery.n_held_bytes -= event.bytes.size();
    if (!post(event.bytes, request, event.last)) return false;
    if (event.last) break;  // it may have left
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
  if (!item.request) {
    --n_answers_;
    return;
  }
  Delivery& delivery = streams_.at(*item.request);
  --delivery.n_held;
  delivery.n_held_bytes -= item.event.bytes.size();
  if (item.event.last) leave(*item.request);
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
  for (auto& [request, delivery] : streams_) streams.push_back(std::move(delivery.stream));
  for (auto& [request, stream] : delivered_) streams.push_back(std::move(stream));
  streams_.clear();
  delivered_.clear();
  return streams;
}

}  // namespace patchbay
