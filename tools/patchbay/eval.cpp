// patchbay eval: how many problems a model answers right.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/model/json/json.hpp"
#include "core/service/text_generator.hpp"
#include "tools/patchbay/commands.hpp"
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

struct Problem {
  std::string question;
  std::string answer;
};

moe::Result<std::vector<Problem>> read_problems(const std::string& file, int64_t limit) {
  constexpr size_t kMaxBytes = size_t{256} << 20;
  MOE_ASSIGN(const std::string text, read_file(file, kMaxBytes));
  std::vector<Problem> problems;
  std::istringstream in(text);
  std::string line;
  int64_t n_line = 0;
  while (std::getline(in, line) && (limit == 0 || std::ssize(problems) < limit)) {
    ++n_line;
    if (line.empty()) continue;
    auto doc = parse_json(line);
    if (!doc.ok()) return doc.error().in(fmt::format("{}: line {}", file, n_line));
    for (const char* key : {"question", "answer"}) {
      if (!doc->is_object() || !doc->contains(key) || !(*doc)[key].is_string()) {
        return moe::invalid(fmt::format("{}: line {}: expected {{\"question\": \"...\", \"answer\": \"...\"}}, got no {}", file, n_line, key));
      }
    }
    problems.push_back({(*doc)["question"].get<std::string>(), (*doc)["answer"].get<std::string>()});
  }
  if (problems.empty()) return moe::invalid(fmt::format("{}: expected at least one problem, got none", file));
  return problems;
}

// What comes after the thinking, without the space around it.
std::string_view final_answer(std::string_view text) {
  constexpr std::string_view kEnd = "</think>";
  if (const size_t at = text.rfind(kEnd); at != std::string_view::npos) text.remove_prefix(at + kEnd.size());
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return "";
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

// One problem on its way.
class Attempt final : public TextListener {
 public:
  Attempt(Engine& engine, const TextModel& model, const Problem& problem) : problem_(problem), generator_(engine, model, *this) {}
  moe::Status start(int64_t max_tokens) {
    TextRequest request;
    request.prompt = ChatPrompt{nlohmann::ordered_json::array({{{"role", "user"}, {"content", problem_.question}}}), {}};
    request.max_tokens = max_tokens;
    request.sampling.push_back({"temperature", 0.0});
    return generator_.start(std::move(request));
  }
  void on_text(const TextEvent& event) override { text_ += event.text; }
  void on_end(const TextEnd& end) override {
    end_ = end;
    done_ = true;
  }
  [[nodiscard]] bool done() const { return done_; }
  [[nodiscard]] const TextEnd& end() const { return end_; }
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] const Problem& problem() const { return problem_; }
  [[nodiscard]] bool right() const { return end_.reason != FinishReason::kFailed && final_answer(text_) == problem_.answer; }

 private:
  const Problem& problem_;
  std::string text_;
  TextEnd end_;
  bool done_ = false;
  TextGenerator generator_;
};

struct Score {
  int64_t right = 0;
  int64_t total = 0;
  int64_t n_generated = 0;
  int64_t n_prompt = 0;
};

class Evaluation {
 public:
  Evaluation(Session& session, const EvalFlags& flags) : session_(session), flags_(flags) {}

  moe::Result<Score> run(const std::vector<Problem>& problems) {
    size_t next = 0;
    while ((next < problems.size() || !attempts_.empty()) && !interrupted()) {
      while (next < problems.size() && std::ssize(attempts_) < session_.settings.engine.batch_size) {
        attempts_.push_back(std::make_unique<Attempt>(*session_.engine, *session_.text, problems[next++]));
        MOE_TRY(attempts_.back()->start(flags_.max_tokens));
      }
      session_.engine->step();
      MOE_TRY(collect(problems.size()));
    }
    return score_;
  }

 private:
  moe::Status collect(size_t n_problems) {
    for (auto it = attempts_.begin(); it != attempts_.end();) {
      const Attempt& a = **it;
      if (!a.done()) {
        ++it;
        continue;
      }
      if (a.end().reason == FinishReason::kFailed) return a.end().error.value_or(moe::internal("a request failed")).in(fmt::format("\"{}\"", a.problem().question));
      ++score_.total;
      score_.right += a.right() ? 1 : 0;
      score_.n_generated += a.end().usage.n_generated;
      score_.n_prompt += a.end().usage.n_prompt;
      if (!a.right() && flags_.show_wrong) {
        fmt::print(stderr, "wrong: {}\n  expected {}\n  got {}\n", a.problem().question, a.problem().answer, a.text());
      }
      it = attempts_.erase(it);
      if (!flags_.common.json && !flags_.common.quiet && isatty(2) == 1) {
        fmt::print(stderr, "\r{} of {}, {} right\033[K", score_.total, n_problems, score_.right);
        std::fflush(stderr);
      }
    }
    return {};
  }

  Session& session_;
  const EvalFlags& flags_;
  std::deque<std::unique_ptr<Attempt>> attempts_;
  Score score_;
};

void eval(const EvalFlags& flags) {
  watch_signals();
  const auto problems = value_or_fail(read_problems(flags.problems, flags.limit));
  Session session = value_or_fail(open_session(flags.common, {}));
  const auto start = std::chrono::steady_clock::now();
  const Score score = value_or_fail(Evaluation(session, flags).run(problems));
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
