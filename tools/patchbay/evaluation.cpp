#include "tools/patchbay/evaluation.hpp"

#include <fmt/format.h>

#include <deque>
#include <sstream>

#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

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
  Attempt(Engine& engine, const TextModel& model, const Problem& problem, size_t index)
      : problem_(problem), index_(index), generator_(engine, model, *this) {}
  moe::Status start(const EvaluationOptions& options) {
    TextRequest request;
    request.prompt =
        ChatPrompt{nlohmann::ordered_json::array({{{"role", "user"}, {"content", problem_.question}}}), {}};
    request.max_tokens = options.max_tokens;
    request.seed = index_;
    if (options.greedy) request.sampling.push_back({"temperature", 0.0});
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
  [[nodiscard]] size_t index() const { return index_; }
  [[nodiscard]] bool right() const {
    return end_.reason != FinishReason::kFailed && final_answer(text_) == problem_.answer;
  }

 private:
  const Problem& problem_;
  size_t index_;
  std::string text_;
  TextEnd end_;
  bool done_ = false;
  TextGenerator generator_;
};

class Evaluation {
 public:
  Evaluation(Session& session, const EvaluationOptions& options) : session_(session), options_(options) {}

  moe::Result<Score> run(const std::vector<Problem>& problems) {
    size_t next = 0;
    while ((next < problems.size() || !attempts_.empty()) && !interrupted()) {
      while (next < problems.size() && std::ssize(attempts_) < session_.settings.engine.batch_size) {
        attempts_.push_back(std::make_unique<Attempt>(*session_.engine, *session_.text, problems[next], next));
        ++next;
        MOE_TRY(attempts_.back()->start(options_));
      }
      session_.engine->step();
      if (options_.on_step) options_.on_step();
      MOE_TRY(collect());
    }
    return score_;
  }

 private:
  moe::Status collect() {
    for (auto it = attempts_.begin(); it != attempts_.end();) {
      const Attempt& a = **it;
      if (!a.done()) {
        ++it;
        continue;
      }
      if (a.end().reason == FinishReason::kFailed) {
        return a.end()
            .error.value_or(moe::internal("a request failed"))
            .in(fmt::format("\"{}\"", a.problem().question));
      }
      ++score_.total;
      score_.right += a.right() ? 1 : 0;
      score_.n_generated += a.end().usage.n_generated;
      score_.n_prompt += a.end().usage.n_prompt;
      if (options_.on_answer) options_.on_answer({a.index(), a.text(), a.right()}, score_);
      it = attempts_.erase(it);
    }
    return {};
  }

  Session& session_;
  const EvaluationOptions& options_;
  std::deque<std::unique_ptr<Attempt>> attempts_;
  Score score_;
};

}  // namespace

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
        return moe::invalid(fmt::format(
            "{}: line {}: expected {{\"question\": \"...\", \"answer\": \"...\"}}, got no {}", file, n_line, key));
      }
    }
    problems.push_back({(*doc)["question"].get<std::string>(), (*doc)["answer"].get<std::string>()});
  }
  if (problems.empty()) return moe::invalid(fmt::format("{}: expected at least one problem, got none", file));
  return problems;
}

moe::Result<Score> evaluate(Session& session, const std::vector<Problem>& problems, const EvaluationOptions& options) {
  return Evaluation(session, options).run(problems);
}

}  // namespace patchbay
