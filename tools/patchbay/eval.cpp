// patchbay eval: how many problems a model answers right.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/evaluation.hpp"
#include "tools/patchbay/report.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct EvalFlags {
  CommonFlags common;
  std::string problems;
  int64_t limit = 0;
  int64_t max_tokens = 0;
  bool show_wrong = false;
};

EvaluationOptions options_of(const EvalFlags& flags, const std::vector<Problem>& problems) {
  EvaluationOptions options;
  options.max_tokens = flags.max_tokens;
  options.on_answer = [&flags, &problems](const Answer& answer, const Score& score) {
    if (!answer.right && flags.show_wrong) {
      const Problem& problem = problems[answer.index];
      fmt::print(stderr, "wrong: {}\n  expected {}\n  got {}\n", problem.question, problem.answer, answer.text);
    }
    if (!flags.common.json && !flags.common.quiet && isatty(2) == 1) {
      fmt::print(stderr, "\r{} of {}, {} right\033[K", score.total, problems.size(), score.right);
      std::fflush(stderr);
    }
  };
  return options;
}

void eval(const EvalFlags& flags) {
  watch_signals();
  const auto problems = value_or_fail(read_problems(flags.problems, flags.limit));
  Session session = value_or_fail(open_session(flags.common, {}));
  const auto start = std::chrono::steady_clock::now();
  const Score score = value_or_fail(evaluate(session, problems, options_of(flags, problems)));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (isatty(2) == 1 && !flags.common.json) fmt::print(stderr, "\r\033[K");
  const double accuracy = score.total == 0 ? 0 : static_cast<double>(score.right) / static_cast<double>(score.total);
  if (flags.common.json) {
    const nlohmann::json doc = {{"accuracy", accuracy},
                                {"right", score.right},
                                {"total", score.total},
                                {"generated_tokens", score.n_generated},
                                {"prompt_tokens", score.n_prompt},
                                {"seconds", seconds},
                                {"tokens_per_second", static_cast<double>(score.n_generated) / seconds},
                                {"expert_tokens", session.engine->stats().expert_tokens}};
    fmt::print("{}\n", doc.dump());
    return;
  }
  fmt::print("{} of {} right: {:.1f} %; {} tokens generated in {:.1f} s, {:.0f} tokens/s\n", score.right, score.total, accuracy * 100, score.n_generated,
             seconds, static_cast<double>(score.n_generated) / seconds);
  if (!flags.common.quiet) fmt::print("{}", heat_map(heat_rows(*session.model, session.engine->stats().expert_tokens), isatty(1) == 1));
}

}  // namespace

void add_eval(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "Count the problems that a model answers right (greedy, through its chat format)");
  add_common_flags(*command, flags->common);
  command->add_option("--problems", flags->problems, "JSON lines {\"question\", \"answer\"}")->required()->type_name("FILE");
  command->add_option("--limit", flags->limit, "only the first N")->type_name("N");
  command->add_option("--max-tokens", flags->max_tokens, "of an answer")->type_name("N");
  command->add_flag("--show-wrong", flags->show_wrong, "print what was answered wrong");
  command->callback([flags] { eval(*flags); });
}

}  // namespace patchbay
