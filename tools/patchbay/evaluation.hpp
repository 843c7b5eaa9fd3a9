// Problems answered by a model, as `eval` and `experiment` count them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/service/text_generator.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {

struct Problem {
  std::string question;
  std::string answer;
};

// JSON lines {"question", "answer"}; the first `limit` of them, 0: all.
moe::Result<std::vector<Problem>> read_problems(const std::string& file, int64_t limit);

struct Score {
  int64_t right = 0;
  int64_t total = 0;
  int64_t n_generated = 0;
  int64_t n_prompt = 0;
};

struct Answer {
  size_t index = 0;  // of the problem
  const std::string& text;
  bool right = false;
};

struct EvaluationOptions {
  int64_t max_tokens = 0;  // of an answer; 0: the context
  bool greedy = true;      // false: as the session's chain picks, with the problem's index as seed
  std::function<void(const Answer&, const Score&)> on_answer;  // as they end
  std::function<void()> on_step;                               // after each step of the engine
};

// Answers the problems, as many side by side as the session's batch holds. What was answered by then if the program was
// interrupted.
moe::Result<Score> evaluate(Session& session, const std::vector<Problem>& problems, const EvaluationOptions& options);

}  // namespace patchbay
