// ReasoningSplitter: takes a model's thinking apart from its answer in a text that comes in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace patchbay {

// Models that think first write <think>...</think> before the answer; their chat templates may open it already. Only
// the first such block counts, and only at the beginning of the text. The markers and the blank lines around them are
// in neither part; otherwise both parts, joined, are the text. No more is held back than may still become a marker or a
// blank line to drop. One thread at a time.
class ReasoningSplitter {
 public:
  static constexpr std::string_view kOpen = "<think>";
  static constexpr std::string_view kClose = "</think>";

  struct Parts {
    std::string reasoning;
    std::string text;
  };

  // Whether a prompt ends inside of thinking, so that what the model writes begins there.
  static bool opens(std::string_view prompt_end);

  explicit ReasoningSplitter(bool opened) : state_(opened ? State::kThinking : State::kStart) {}
  // The parts that have become certain.
  Parts push(std::string_view text);
  // What was held back, where no more text will come.
  Parts flush();
  // Whether what comes next may still be thinking.
  [[nodiscard]] bool is_thinking() const { return state_ == State::kThinking; }

 private:
  enum class State { kStart, kThinking, kAnswer };
  bool step(Parts& parts);
  bool start();
  bool think(Parts& parts);
  void answer(Parts& parts);

  State state_;
  std::string held_;
  bool at_edge_ = true;  // nothing of this part was given yet: blank lines are dropped
};

}  // namespace patchbay
