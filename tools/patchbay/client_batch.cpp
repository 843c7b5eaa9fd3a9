// patchbay client --batch: a file of requests, many at a time.
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <map>

#include "core/model/json/json.hpp"
#include "tools/patchbay/client_flags.hpp"

namespace patchbay {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kWindow = 256;  // tokens of a stream that may be on their way
constexpr std::chrono::milliseconds kTick{100};
constexpr std::chrono::milliseconds kBusy{200};  // after the server said that it is

struct Job {
  nlohmann::json id;
  v1::Generate request;
  std::string text;
};

moe::Status set_prompt(const nlohmann::json& line, v1::Generate* out) {
  if (line.contains("prompt") && line["prompt"].is_string()) {
    out->set_text(line["prompt"].get<std::string>());
    return {};
  }
  const nlohmann::json messages = line.value("messages", nlohmann::json());
  if (!messages.is_array() || messages.empty()) return moe::invalid("expected \"prompt\" or \"messages\", got neither");
  for (const auto& m : messages) {
    const bool right = m.is_object() && m.value("role", nlohmann::json()).is_string() &&
                       m.value("content", nlohmann::json()).is_string();
    if (!right) return moe::invalid("messages: expected a role and a content of text in each, got something else");
    add_message(out->mutable_chat(), m["role"].get<std::string>(), m["content"].get<std::string>());
  }
  return {};
}

moe::Status set_options(const nlohmann::json& line, v1::Generate* out) {
  const auto number = [&](const char* key, auto set) -> moe::Status {
    if (!line.contains(key)) return {};
    if (!line[key].is_number_integer()) return moe::invalid(fmt::format("{}: expected a whole number", key));
    set(line[key].get<int64_t>());
    return {};
  };
  MOE_TRY(number("max_tokens", [&](int64_t n) { out->set_max_tokens(n); }));
  MOE_TRY(number("seed", [&](int64_t n) { out->set_seed(static_cast<uint64_t>(n)); }));
  const nlohmann::json stop = line.value("stop", nlohmann::json::array());
  const nlohmann::json sampling = line.value("sampling", nlohmann::json::object());
  for (const auto& s : stop) {
    if (!s.is_string()) return moe::invalid("stop: expected a list of texts");
    out->add_stop(s.get<std::string>());
  }
  for (const auto& [name, value] : sampling.items()) {
    v1::Value& to = (*out->mutable_sampling())[name];
    if (value.is_boolean()) {
      to.set_boolean(value.get<bool>());
    } else if (value.is_number_integer()) {
      to.set_integer(value.get<int64_t>());
    } else if (value.is_number()) {
      to.set_number(value.get<double>());
    } else if (value.is_string()) {
      to.set_text(value.get<std::string>());
    } else {
      return moe::invalid(fmt::format("sampling.{}: expected a number, a text, true or false", name));
    }
  }
  return {};
}

moe::Result<Job> read_job(const std::string& line, size_t number, const v1::Generate& common) {
  Job job;
  job.id = number;
  job.request = common;
  if (line.front() != '{') {
    job.request.set_text(line);
    return job;
  }
  MOE_ASSIGN(const nlohmann::json parsed, parse_json(line));
  if (parsed.contains("id")) job.id = parsed["id"];
  MOE_TRY(set_prompt(parsed, &job.request));
  MOE_TRY(set_options(parsed, &job.request));
  return job;
}

// Blank lines do not count.
moe::Result<std::vector<Job>> read_jobs(const ClientFlags& flags) {
  std::ifstream in(flags.batch);
  if (!in) return moe::not_found(fmt::format("{}: expected a file that can be read, got none", flags.batch));
  MOE_ASSIGN(const v1::Generate common, request_of(flags));
  std::vector<Job> jobs;
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto job = read_job(line, number, common);
    if (!job.ok()) return job.error().in(fmt::format("{}: line {}", flags.batch, number));
    jobs.push_back(std::move(job).value());
  }
  return jobs;
}

class BatchRun {
 public:
  BatchRun(const ClientFlags& flags, moe::Client& client, std::vector<Job> jobs, std::ostream& out)
      : flags_(flags), client_(client), jobs_(std::move(jobs)), out_(out), bar_(!flags.quiet && isatty(2) == 1) {}

  // True: no request failed.
  moe::Result<bool> run() {
    bool cancelled = false;
    while (n_done_ < jobs_.size()) {
      if (interrupted() && !std::exchange(cancelled, true)) cancel_all();
      if (cancelled && running_.empty()) break;
      MOE_TRY(fill(cancelled));
      MOE_ASSIGN(const auto message, client_.next(kTick));
      if (message) take(*message);
      show();
    }
    finish();
    return n_failed_ == 0 && !cancelled;
  }

 private:
  moe::Status fill(bool cancelled) {
    while (!cancelled && running_.size() < static_cast<size_t>(flags_.parallel) && Clock::now() >= not_before_) {
      size_t index = next_;
      if (!again_.empty()) {
        index = again_.back();
        again_.pop_back();
      } else if (next_ < jobs_.size()) {
        ++next_;
      } else {
        break;
      }
      MOE_ASSIGN(const uint64_t number, client_.start(jobs_[index].request));
      running_[number] = index;
    }
    return {};
  }

  void take(const v1::ServerMessage& message) {
    const auto found = running_.find(message.request());
    if (found == running_.end()) return;
    Job& job = jobs_[found->second];
    job.text += message.tokens().text();
    n_tokens_ += static_cast<uint64_t>(message.tokens().ids_size());
    if (!message.has_end()) return;
    const v1::End& end = message.end();
    if (end.error().code() == v1::CODE_RESOURCE_EXHAUSTED && job.text.empty()) {  // busy: later
      again_.push_back(found->second);
      not_before_ = Clock::now() + kBusy;
    } else {
      write(job, end);
    }
    running_.erase(found);
  }

  void write(Job& job, const v1::End& end) {
    nlohmann::json line = {{"id", job.id},
                           {"text", job.text},
                           {"finish_reason", reason_name(end.reason())},
                           {"prompt_tokens", end.usage().n_prompt()},
                           {"generated_tokens", end.usage().n_generated()}};
    if (end.has_error()) line["error"] = end.error().message();
    n_failed_ += end.reason() == v1::FINISH_REASON_FAILED ? 1 : 0;
    out_ << dump(line) << "\n";
    job.text = {};
    ++n_done_;
  }

  void cancel_all() {
    for (const auto& [number, index] : running_) client_.cancel(number);
  }

  void show() {
    const auto now = Clock::now();
    if (!bar_ || now - last_shown_ < kTick) return;
    last_shown_ = now;
    const size_t share = n_done_ * 20 / jobs_.size();
    fmt::print(stderr, "\r[{:#<{}}{:.<{}}] {} of {}, {:.0f} tokens/s ", "", share, "", 20 - share, n_done_,
               jobs_.size(), speed());
    std::fflush(stderr);
  }

  [[nodiscard]] double speed() const {
    return static_cast<double>(n_tokens_) /
           std::max(1e-3, std::chrono::duration<double>(Clock::now() - began_).count());
  }

  void finish() {
    out_.flush();
    if (bar_) fmt::print(stderr, "\r\033[K");
    if (flags_.quiet) return;
    fmt::print(stderr, "{} of {} requests, {} failed; {} tokens, {:.0f} tokens/s\n", n_done_, jobs_.size(), n_failed_,
               n_tokens_, speed());
  }

  const ClientFlags& flags_;
  moe::Client& client_;
  std::vector<Job> jobs_;
  std::ostream& out_;
  const bool bar_;
  std::map<uint64_t, size_t> running_;  // stream to job
  std::vector<size_t> again_;           // refused as busy
  Clock::time_point not_before_;
  size_t next_ = 0;
  size_t n_done_ = 0;
  size_t n_failed_ = 0;
  uint64_t n_tokens_ = 0;
  const Clock::time_point began_ = Clock::now();
  Clock::time_point last_shown_;
};

}  // namespace

void run_batch(const ClientFlags& flags) {
  watch_signals();
  std::vector<Job> jobs = value_or_fail(read_jobs(flags));
  if (jobs.empty()) fail(moe::invalid(fmt::format("{}: expected a request a line, got none", flags.batch)));
  const auto client = value_or_fail(connect(flags.server, kWindow));
  std::ofstream file;
  if (!flags.output.empty()) {
    file.open(flags.output, std::ios::trunc);
    if (!file) fail(moe::invalid(fmt::format("{}: expected a file that can be written, got none", flags.output)));
  }
  std::ostream& out = flags.output.empty() ? std::cout : file;
  const bool all_done = value_or_fail(BatchRun(flags, *client, std::move(jobs), out).run());
  if (!out) fail(moe::data_loss("output: expected room for all answers, got an error"));
  if (!all_done) throw CLI::RuntimeError(1);
}

}  // namespace patchbay
