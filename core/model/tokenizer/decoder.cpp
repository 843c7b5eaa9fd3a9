#include "core/model/tokenizer/decoder.hpp"

#include <algorithm>
#include <optional>

#include "core/model/tokenizer/byte_level.hpp"
#include "core/model/tokenizer/unicode.hpp"

namespace patchbay {
namespace {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(pattern); hit != std::string_view::npos; hit = text.find(pattern, at)) {
    out += text.substr(at, hit - at);
    out += content;
    at = hit + pattern.size();
  }
  out += text.substr(at);
  return out;
}

// <0x00> to <0xFF>.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned byte = 0;
  for (const char c : token.substr(3, 2)) {
    const size_t digit =
        std::string_view("0123456789ABCDEF").find(static_cast<char>(c >= 'a' && c <= 'f' ? c - 32 : c));
    if (digit == std::string_view::npos) return std::nullopt;
    byte = byte * 16 + static_cast<unsigned>(digit);
  }
  return static_cast<char>(byte);
}

class OutStage final : public DecodeStage {
 public:
  explicit OutStage(std::string& out) : out_(out) {}
  void push(std::string_view token) override { out_ += token; }
  void flush() override {}

 private:
  std::string& out_;
};

class Stage : public DecodeStage {
 public:
  explicit Stage(DecodeStage& next) : next_(next) {}

 protected:
  DecodeStage& next_;  // NOLINT: the one thing that all stages share
};

class ByteLevelStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view token) override {
    held_ += byte_level::bytes_or_self(token);
    std::string whole;
    size_t at = 0;
    while (at < held_.size()) {
      const std::string_view rest = std::string_view(held_).substr(at);
      const unicode::Sequence s = unicode::first_sequence(rest);
      if (s.form == unicode::Form::kIncomplete) break;
      whole += s.form == unicode::Form::kWhole ? rest.substr(0, s.n_bytes) : unicode::kReplacement;
      at += s.n_bytes;
    }
    held_.erase(0, at);
    if (!whole.empty()) next_.push(whole);
  }
  void flush() override {
    if (!held_.empty()) next_.push(unicode::kReplacement);
    held_.clear();
    next_.flush();
  }

 private:
  std::string held_;  // the start of a character
};

class ByteFallbackStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view token) override {
    if (const std::optional<char> byte = byte_of(token)) {
      run_ += *byte;
      return;
    }
    end_run();
    next_.push(token);
  }
  void flush() override {
    end_run();
    next_.flush();
  }

 private:
  // All or nothing, as Hugging Face decides: so no byte is certain before the run ends.
  void end_run() {
    if (unicode::is_valid(run_)) {
      if (!run_.empty()) next_.push(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) next_.push(unicode::kReplacement);
    }
    run_.clear();
  }
  std::string run_;
};

class FuseStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view token) override { next_.push(token); }
  void flush() override { next_.flush(); }
};

class MetaspaceStage final : public Stage {
 public:
  MetaspaceStage(DecodeStage& next, MetaspaceDecoder step, bool fused)
      : Stage(next), step_(std::move(step)), fused_(fused) {}
  void push(std::string_view token) override {
    next_.push(replace_all(token, step_.replacement, first_ && step_.drop_first ? "" : " "));
    first_ = fused_;
  }
  void flush() override {
    first_ = true;
    next_.flush();
  }

 private:
  MetaspaceDecoder step_;
  bool fused_;
  bool first_ = true;
};

class StripStage final : public Stage {
 public:
  StripStage(DecodeStage& next, StripDecoder step) : Stage(next), step_(std::move(step)) {}
  void push(std::string_view token) override {
    const std::string_view c = step_.content;
    for (size_t i = 0; i < step_.n_start && token.starts_with(c); ++i) token.remove_prefix(c.size());
    for (size_t i = 0; i < step_.n_stop && token.ends_with(c); ++i) token.remove_suffix(c.size());
    next_.push(token);
  }
  void flush() override { next_.flush(); }

 private:
  StripDecoder step_;
};

// Strip on the one text that comes in parts: holds back what may turn out to be its end.
class FusedStripStage final : public Stage {
 public:
  FusedStripStage(DecodeStage& next, StripDecoder step) : Stage(next), step_(std::move(step)) {}
  void push(std::string_view part) override {
    const std::string_view c = step_.content;
    while (at_start_ && n_stripped_ < step_.n_start && part.starts_with(c)) {
      part.remove_prefix(c.size());
      ++n_stripped_;
    }
    if (part.empty()) return;
    at_start_ = false;
    std::string text = held_;
    text += part;
    size_t n_keep = text.size();
    for (size_t i = 0; i < step_.n_stop && std::string_view(text).substr(0, n_keep).ends_with(c); ++i)
      n_keep -= c.size();
    held_ = text.substr(n_keep);
    if (n_keep > 0) next_.push(std::string_view(text).substr(0, n_keep));
  }
  void flush() override {
    held_.clear();
    at_start_ = true;
    n_stripped_ = 0;
    next_.flush();
  }

 private:
  StripDecoder step_;
  std::string held_;
  bool at_start_ = true;
  size_t n_stripped_ = 0;
};

class ReplaceStage final : public Stage {
 public:
  ReplaceStage(DecodeStage& next, ReplaceDecoder step) : Stage(next), step_(std::move(step)) {}
  void push(std::string_view token) override { next_.push(replace_all(token, step_.pattern, step_.content)); }
  void flush() override { next_.flush(); }

 private:
  ReplaceDecoder step_;
};

// Replace on the one text that comes in parts: holds back an end that may be the start of the pattern.
class FusedReplaceStage final : public Stage {
 public:
  FusedReplaceStage(DecodeStage& next, ReplaceDecoder step) : Stage(next), step_(std::move(step)) {}
  void push(std::string_view part) override {
    held_ += part;
    const std::string_view pattern = step_.pattern;
    std::string done;
    size_t at = 0;
    for (size_t hit = held_.find(pattern); hit != std::string::npos; hit = held_.find(pattern, at)) {
      done.append(held_, at, hit - at);
      done += step_.content;
      at = hit + pattern.size();
    }
    size_t n_hold = std::min(pattern.size() - 1, held_.size() - at);
    while (n_hold > 0 && !pattern.starts_with(std::string_view(held_).substr(held_.size() - n_hold))) --n_hold;
    done.append(held_, at, held_.size() - n_hold - at);
    held_.erase(0, held_.size() - n_hold);
    if (!done.empty()) next_.push(done);
  }
  void flush() override {
    if (!held_.empty()) next_.push(held_);
    held_.clear();
    next_.flush();
  }

 private:
  ReplaceDecoder step_;
  std::string held_;
};

class JoinStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string_view token) override {
    if (!first_) next_.push(" ");
    first_ = false;
    next_.push(token);
  }
  void flush() override {
    first_ = true;
    next_.flush();
  }

 private:
  bool first_ = true;
};

// Holds the one text back until it is whole, for a stage that has to see it so.
class WholeStage final : public Stage {
 public:
  explicit WholeStage(std::unique_ptr<DecodeStage> inner) : Stage(*inner), inner_(std::move(inner)) {}
  void push(std::string_view part) override { held_ += part; }
  void flush() override {
    next_.push(held_);
    held_.clear();
    next_.flush();
  }

 private:
  std::unique_ptr<DecodeStage> inner_;
  std::string held_;
};

struct MakeStage {
  DecodeStage& next;
  bool fused;  // a stage before ends the tokens

  using Made = std::unique_ptr<DecodeStage>;
  [[nodiscard]] Made whole(Made stage) const {
    return fused ? std::make_unique<WholeStage>(std::move(stage)) : std::move(stage);
  }

  Made operator()(const ByteLevelDecoder&) const { return whole(std::make_unique<ByteLevelStage>(next)); }
  Made operator()(const ByteFallbackDecoder&) const { return whole(std::make_unique<ByteFallbackStage>(next)); }
  Made operator()(const FuseDecoder&) const { return std::make_unique<FuseStage>(next); }
  Made operator()(const MetaspaceDecoder& s) const { return std::make_unique<MetaspaceStage>(next, s, fused); }
  Made operator()(const StripDecoder& s) const {
    if (fused) return std::make_unique<FusedStripStage>(next, s);
    return std::make_unique<StripStage>(next, s);
  }
  Made operator()(const ReplaceDecoder& s) const {
    if (fused) return std::make_unique<FusedReplaceStage>(next, s);
    return std::make_unique<ReplaceStage>(next, s);
  }
  Made operator()(const JoinDecoder&) const { return std::make_unique<JoinStage>(next); }
};

bool ends_tokens(const DecoderStep& step) {
  return std::holds_alternative<ByteLevelDecoder>(step) || std::holds_alternative<FuseDecoder>(step) ||
         std::holds_alternative<JoinDecoder>(step);
}

struct BytesOf {
  std::string& token;
  void operator()(const ByteLevelDecoder&) const { token = byte_level::bytes_or_self(token); }
  void operator()(const ByteFallbackDecoder&) const {
    if (const std::optional<char> byte = byte_of(token)) token = *byte;
  }
  void operator()(const MetaspaceDecoder& s) const { token = replace_all(token, s.replacement, " "); }
  void operator()(const ReplaceDecoder& s) const { token = replace_all(token, s.pattern, s.content); }
  void operator()(const FuseDecoder&) const {}
  void operator()(const StripDecoder&) const {}  // depends on where in the text the token stands
  void operator()(const JoinDecoder&) const {}
};

}  // namespace

std::string decoded_bytes(const std::vector<DecoderStep>& steps, std::string_view token) {
  std::string bytes(token);
  for (const DecoderStep& step : steps) {
    if (ends_tokens(step) && !std::holds_alternative<ByteLevelDecoder>(step)) break;
    std::visit(BytesOf{bytes}, step);
    if (ends_tokens(step)) break;
  }
  return bytes;
}

DecoderChain::DecoderChain(const std::vector<DecoderStep>& steps, std::string& out) {
  size_t first_end = 0;  // the step from which on there is one text
  while (first_end < steps.size() && !ends_tokens(steps[first_end])) ++first_end;
  stages_.push_back(std::make_unique<OutStage>(out));
  for (size_t i = steps.size(); i-- > 0;) {
    stages_.push_back(std::visit(MakeStage{*stages_.back(), i > first_end}, steps[i]));
  }
}

}  // namespace patchbay
