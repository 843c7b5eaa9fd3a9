#include "core/service/reasoning.hpp"

#include <algorithm>
#include <utility>

namespace patchbay {

namespace {

constexpr std::string_view kBlank = " \t\r\n";

std::string_view without_blanks_before(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  return text;
}

// Length of the longest end of `text` that is a beginning of `marker`, but not all of it.
size_t open_end(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n) {
    if (text.ends_with(marker.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

bool ReasoningSplitter::opens(std::string_view prompt_end) {
  const size_t last = prompt_end.find_last_not_of(kBlank);
  return last != std::string_view::npos && prompt_end.substr(0, last + 1).ends_with(kOpen);
}

ReasoningSplitter::Parts ReasoningSplitter::push(std::string_view text) {
  held_ += text;
  Parts parts;
  while (step(parts)) {
  }
  return parts;
}

// Whether the state has changed, so that what is held may go on from there.
bool ReasoningSplitter::step(Parts& parts) {
  switch (state_) {
    case State::kStart:
      return start();
    case State::kThinking:
      return think(parts);
    case State::kAnswer:
      answer(parts);
      break;
  }
  return false;
}

bool ReasoningSplitter::start() {
  const std::string_view rest = without_blanks_before(held_);
  if (rest.starts_with(kOpen)) {
    held_ = rest.substr(kOpen.size());
    state_ = State::kThinking;
    return true;
  }
  if (kOpen.starts_with(rest)) return false;  // also where nothing but blanks has come
  state_ = State::kAnswer;
  at_edge_ = false;  // a text without thinking stays as it is
  return true;
}

bool ReasoningSplitter::think(Parts& parts) {
  if (at_edge_) held_ = without_blanks_before(held_);
  if (const size_t close = held_.find(kClose); close != std::string::npos) {
    const size_t last = std::string_view(held_).substr(0, close).find_last_not_of(kBlank);
    if (last != std::string::npos) parts.reasoning.append(held_, 0, last + 1);
    held_.erase(0, close + kClose.size());
    state_ = State::kAnswer;
    at_edge_ = true;
    return true;
  }
  size_t n = held_.size() - open_end(held_, kClose);
  n = n == 0 ? 0 : held_.find_last_not_of(kBlank, n - 1) + 1;  // blanks may stand before the marker
  parts.reasoning.append(held_, 0, n);
  held_.erase(0, n);
  at_edge_ = at_edge_ && n == 0;
  return false;
}

void ReasoningSplitter::answer(Parts& parts) {
  if (at_edge_) held_ = without_blanks_before(held_);
  at_edge_ = at_edge_ && held_.empty();
  parts.text += std::exchange(held_, {});
}

ReasoningSplitter::Parts ReasoningSplitter::flush() {
  Parts parts;
  (state_ == State::kThinking ? parts.reasoning : parts.text) = std::exchange(held_, {});
  return parts;
}

}  // namespace patchbay
