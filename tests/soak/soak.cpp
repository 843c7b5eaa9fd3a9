// A server under clients that behave well and badly: no token lost, doubled or of somebody else; no slot leaked; memory
// flat.
//   server_soak integrity --seconds 60 --clients 16            (a server of its own on the quickstart model)
//   server_soak integrity --seconds 1800 --clients 64 --model DIR
//   server_soak overload --seconds 300
//   server_soak sigterm --rounds 100
//   server_soak speed --rounds 5 --clients 32 --model DIR
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <map>
#include <mutex>

#include "moe/sdk/client.hpp"
#include "tests/soak/clients.hpp"
#include "tests/soak/soak.hpp"
#include "tests/support/fault_proxy.hpp"

namespace patchbay::soak {
namespace {

using Clock = std::chrono::steady_clock;

double metric(moe::Client& client, const std::string& name) {
  v1::ClientMessage question;
  question.mutable_metrics();
  const auto answer = client.ask(question);
  if (!answer.ok()) return -1;
  for (const auto& m : answer->metrics().metrics()) {
    if (m.name() == name && m.labels().empty()) return m.value();
  }
  return -1;
}

// Each question once, alone.
bool ask_undisturbed(moe::Client& client, std::vector<Question>& all) {
  for (Question& q : all) {
    const auto end = client.generate(q.request, [&](const v1::Tokens& t) { q.text += t.text(); });
    if (!end.ok() || end->reason() == v1::FINISH_REASON_FAILED) {
      fmt::print(stderr, "soak: the undisturbed run failed: {}\n",
                 end.ok() ? end->error().message() : end.error().message);
      return false;
    }
  }
  return true;
}

class Soak {
 public:
  Soak(const Flags& flags, std::vector<Question> questions, Addresses addresses)
      : flags_(flags), questions_(std::move(questions)), addresses_(std::move(addresses)) {}

  void run(const std::function<void()>& every_second) {
    const auto end = Clock::now() + std::chrono::seconds(flags_.seconds);
    std::vector<std::thread> clients;
    for (int c = 0; c < flags_.clients; ++c) {
      clients.emplace_back([this, c, end] { be_clients(flags_.seed * 1000 + static_cast<uint32_t>(c), end); });
    }
    while (Clock::now() < end && !is_enough()) {
      every_second();
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    for (auto& c : clients) c.join();
  }
  [[nodiscard]] int64_t n_started() const { return n_started_; }
  [[nodiscard]] bool print() const {
    std::map<Outcome, int64_t> all;
    for (const auto& [key, n] : counts_) {
      all[key.second] += n;
    }
    fmt::print("{} streams: {} whole, {} left or cut off, {} refused as busy, {} wrong\n", n_started_.load(),
               all[Outcome::kWhole], all[Outcome::kPart], all[Outcome::kRefused], all[Outcome::kWrong]);
    for (const auto& [key, n] : counts_) {
      constexpr const char* kNames[] = {"whole", "part", "refused", "WRONG"};
      fmt::print("  {:<26} {:<8} {}\n", key.first, kNames[static_cast<size_t>(key.second)], n);
    }
    return all[Outcome::kWrong] == 0 && all[Outcome::kWhole] > 0;
  }

 private:
  bool is_enough() const { return flags_.streams > 0 && n_started_ >= flags_.streams; }
  void be_clients(uint32_t seed, Clock::time_point end) {
    std::mt19937 random(seed);
    while (Clock::now() < end && !is_enough()) {
      ++n_started_;
      const Report report = run_one(questions_[random() % questions_.size()], addresses_, random);
      const std::lock_guard lock(mutex_);
      ++counts_[{report.behaviour, report.outcome}];
      if (report.outcome == Outcome::kWrong && ++n_told_ <= 20)
        fmt::print(stderr, "soak: {}: {}\n", report.behaviour, report.what);
    }
  }

  const Flags& flags_;
  const std::vector<Question> questions_;
  const Addresses addresses_;
  std::atomic<int64_t> n_started_ = 0;
  std::mutex mutex_;
  std::map<std::pair<std::string, Outcome>, int64_t> counts_;
  int n_told_ = 0;  // what is wrong, in words: the first ones
};

testing::Fault some_fault(std::mt19937& random) {
  testing::Fault fault;
  if (random() % 2 == 0) fault.cut_after = 500 + random() % 8000;
  if (random() % 4 == 0) fault.delay = std::chrono::milliseconds(random() % 5);
  if (random() % 8 == 0) fault.half_close_after = 500 + random() % 8000;
  return fault;
}

}  // namespace

int run_integrity(const Flags& flags) {
  std::vector<std::string> more = {"--listen", "http=127.0.0.1:0"};
  more.insert(more.end(), flags.serve.begin(), flags.serve.end());
  e2e::Server server(more, flags.model);
  if (server.address.empty()) return 1;
  std::mt19937 random(flags.seed);
  testing::FaultProxy proxy(server.address, [&] { return some_fault(random); });
  auto watcher = moe::Client::connect({.address = server.address, .patience = std::chrono::seconds(20)});
  if (!watcher.ok()) return 1;
  std::vector<Question> all = questions(24);
  if (!ask_undisturbed(**watcher, all)) return 1;

  Soak soak(flags, std::move(all), {server.address, server.address_of("http"), proxy.address});
  const auto began = Clock::now();
  int64_t settled_kib = 0;  // after the first minute, or a third of the time
  int64_t last_kib = 0;
  const auto settle = std::chrono::seconds(std::min(60, flags.seconds / 3));
  soak.run([&] {
    last_kib = resident_kib(server.program.pid());
    if (settled_kib == 0 && Clock::now() - began > settle) settled_kib = last_kib;
  });
  bool right = soak.print();
  const bool free = e2e::eventually([&] { return metric(**watcher, "patchbay_engine_running") == 0; }) &&
                    e2e::eventually([&] { return metric(**watcher, "patchbay_streams") == 0; }) &&
                    e2e::eventually([&] { return metric(**watcher, "patchbay_engine_cache_pages_used") == 0; });
  const int64_t end_kib = resident_kib(server.program.pid());
  fmt::print("{} connections broken on purpose; slots and pages all free: {}\n", proxy.n_faults(), free ? "yes" : "NO");
  fmt::print("memory: {} KiB settled, {} KiB at the end of the load, {} KiB after it\n", settled_kib, last_kib,
             end_kib);
  server.program.signal(SIGTERM);
  const auto ended = server.program.wait();
  fmt::print("SIGTERM: exit code {}\n", ended.exit_code);
  right = right && free && ended.exit_code == 0;
  fmt::print("{}\n", right ? "all is right" : "SOMETHING IS WRONG");
  return right ? 0 : 1;
}

}  // namespace patchbay::soak

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  patchbay::soak::Flags flags;
  int exit_code = 0;
  CLI::App app{"A server under clients that behave well and badly"};
  app.require_subcommand(1);
  const auto add = [&](const char* name, const char* doc, int (*run)(const patchbay::soak::Flags&)) {
    CLI::App* command = app.add_subcommand(name, doc);
    command->add_option("--seed", flags.seed, "of what they do")->capture_default_str();
    command->add_option("--clients", flags.clients, "at one time")->capture_default_str();
    command->add_option("--model", flags.model, "what is served");
    command->add_option("--serve", flags.serve, "a further flag of the server")->allow_extra_args(false);
    command->callback([&exit_code, &flags, run] { exit_code = run(flags); });
    return command;
  };
  CLI::App* integrity =
      add("integrity", "every token once and in order, whatever clients do", patchbay::soak::run_integrity);
  integrity->add_option("--seconds", flags.seconds, "how long")->capture_default_str();
  integrity->add_option("--streams", flags.streams, "end after so many");
  CLI::App* overload = add("overload", "ten times more than the server can do", patchbay::soak::run_overload);
  overload->add_option("--seconds", flags.seconds, "of each part")->capture_default_str();
  CLI::App* sigterm = add("sigterm", "the end under load, again and again", patchbay::soak::run_sigterm);
  sigterm->add_option("--rounds", flags.rounds, "how often")->capture_default_str();
  CLI::App* speed = add("speed", "what the wire costs; no test", patchbay::soak::run_speed);
  speed->add_option("--rounds", flags.rounds, "medians are over so many")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return exit_code;
}
