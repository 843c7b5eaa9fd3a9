#include "core/model/tokenizer/added_tokens.hpp"

#include <algorithm>

#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

// Whether the token at [begin, end) stands alone, as `single_word` asks.
bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && unicode::is_word(unicode::last(text.substr(0, begin)))) return false;
  return end == text.size() || !unicode::is_word(unicode::next(text, end));
}

size_t before_spaces(std::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    size_t at = begin - 1;
    while (at > limit && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    size_t end = at;
    if (!unicode::is_space(unicode::next(text, end))) break;
    begin = at;
  }
  return begin;
}

size_t behind_spaces(std::string_view text, size_t end) {
  while (end < text.size()) {
    size_t at = end;
    if (!unicode::is_space(unicode::next(text, at))) break;
    end = at;
  }
  return end;
}

}  // namespace

void AddedTokens::add(AddedToken token) {
  if (token.content.empty()) return;
  begins_[static_cast<uint8_t>(token.content[0])] = true;
  uint64_t node = 0;
  for (const char c : token.content) {
    const uint64_t key = (node << 8) | static_cast<uint8_t>(c);
    if (const uint64_t* next = edges_.find(key)) {
      node = *next;
      continue;
    }
    node = ends_.size();
    edges_.set(key, node);
    ends_.push_back(-1);
  }
  if (ends_[node] >= 0) return;  // two tokens that normalize to one text: the first wins
  ends_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
}

AddedTokens::Hit AddedTokens::longest_at(std::string_view text, size_t at) const {
  Hit hit{0, nullptr};
  uint64_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const uint64_t* next = edges_.find((node << 8) | static_cast<uint8_t>(text[i]));
    if (next == nullptr) break;
    node = *next;
    if (ends_[node] >= 0) hit = {i + 1 - at, &tokens_[static_cast<size_t>(ends_[node])]};
  }
  return hit;
}

void AddedTokens::split(std::string_view text, bool parse_special, std::vector<Segment>& out) const {
  size_t tiled = 0;
  size_t at = 0;
  while (!tokens_.empty() && at < text.size()) {
    if (!begins_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Hit hit = longest_at(text, at);
    if (hit.token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + hit.n_bytes;
    at = end;  // a hit that is turned down below is passed over whole, as Hugging Face does
    if (hit.token->special && !parse_special) continue;
    if (hit.token->single_word && !stands_alone(text, begin, end)) continue;
    if (hit.token->lstrip) begin = before_spaces(text, begin, tiled);
    if (hit.token->rstrip) end = behind_spaces(text, end);
    begin = std::max(begin, tiled);
    if (begin > tiled) out.push_back({Segment::kText, tiled, begin});
    out.push_back({hit.token->id, begin, end});
    tiled = end;
    at = std::max(at, tiled);
  }
  if (tiled < text.size()) out.push_back({Segment::kText, tiled, text.size()});
}

}  // namespace patchbay
