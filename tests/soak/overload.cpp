// Ten times more requests than the server can do: those that it takes are answered as soon as at four fifths of its
// capacity, the others are told at once that it is busy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "moe/sdk/client.hpp"
#include "tests/soak/soak.hpp"

namespace patchbay::soak {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kConnections = 8;  // each may have 256 streams

v1::Generate request(uint64_t number) {
  v1::Generate g;
  g.set_text("Compute " + std::to_string(number % 977) + " + " + std::to_string(number) + ".");
  g.set_max_tokens(32);
  g.set_ignore_end(true);
  g.set_seed(number);
  return g;
}

struct Result {
  std::vector<double> first_token_s;  // of those that were taken
  std::vector<double> refused_s;      // how long the no took
  int64_t n_done = 0;
  int64_t n_failed = 0;
  double seconds = 0;
};

double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(p * static_cast<double>(values.size())))];
}

// One connection's share of the load.
class Load {
 public:
  explicit Load(moe::Client& client, uint64_t first_number) : client_(client), number_(first_number) {}

  // Sends `rate` requests a second at random moments until `end`, then waits for those that run.
  Result open_loop(double rate, Clock::time_point end, uint32_t seed) {
    std::mt19937 random(seed);
    std::exponential_distribution<double> gap(rate);
    auto next = Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(gap(random)));
    while (next < end) {
      while (Clock::now() < next) take(std::min(next - Clock::now(), Clock::duration(std::chrono::milliseconds(2))));
      send();
      next += std::chrono::duration_cast<Clock::duration>(Seconds(gap(random)));
    }
    finish();
    return std::move(result_);
  }
  // Keeps `n` running until `end`.
  Result closed_loop(size_t n, Clock::time_point end) {
    while (Clock::now() < end) {
      while (sent_.size() < n) send();
      take(std::chrono::milliseconds(2));
    }
    finish();
    return std::move(result_);
  }

 private:
  struct Sent {
    Clock::time_point at;
    bool has_token = false;
  };
  void send() {
    const auto number = client_.start(request(number_++));
    if (number.ok()) sent_[*number] = {Clock::now(), false};
  }
  void take(Clock::duration wait) {
    const auto message = client_.next(std::chrono::ceil<std::chrono::milliseconds>(wait));
    if (!message.ok() || !message->has_value()) return;
    const auto found = sent_.find((*message)->request());
    if (found == sent_.end()) return;
    const double after = Seconds(Clock::now() - found->second.at).count();
    if ((*message)->tokens().ids_size() > 0 && !std::exchange(found->second.has_token, true)) {
      result_.first_token_s.push_back(after);
    }
    if (!(*message)->has_end()) return;
    const v1::End& end = (*message)->end();
    if (end.error().code() == v1::CODE_RESOURCE_EXHAUSTED && !found->second.has_token) {
      result_.refused_s.push_back(after);
    } else if (end.reason() == v1::FINISH_REASON_LENGTH) {
      ++result_.n_done;
    } else {
      ++result_.n_failed;
    }
    sent_.erase(found);
  }
  void finish() {
    const auto patience = Clock::now() + std::chrono::seconds(60);
    while (!sent_.empty() && Clock::now() < patience) take(std::chrono::milliseconds(50));
    result_.n_failed += static_cast<int64_t>(sent_.size());
  }

  moe::Client& client_;
  uint64_t number_;
  std::map<uint64_t, Sent> sent_;
  Result result_;
};

Result together(const std::string& address, const std::function<Result(Load&, int)>& part) {
  std::vector<Result> parts(kConnections);
  std::vector<std::thread> threads;
  const auto began = Clock::now();
  for (int c = 0; c < kConnections; ++c) {
    threads.emplace_back([&, c] {
      auto client = moe::Client::connect(
          {.address = address, .patience = std::chrono::seconds(30), .reconnect_for = std::chrono::milliseconds(0)});
      if (!client.ok()) {
        parts[static_cast<size_t>(c)].n_failed = 1;
        return;
      }
      Load load(**client, static_cast<uint64_t>(c) * 1000000);
      parts[static_cast<size_t>(c)] = part(load, c);
    });
  }
  for (auto& t : threads) t.join();
  Result all;
  for (Result& p : parts) {
    all.first_token_s.insert(all.first_token_s.end(), p.first_token_s.begin(), p.first_token_s.end());
    all.refused_s.insert(all.refused_s.end(), p.refused_s.begin(), p.refused_s.end());
    all.n_done += p.n_done;
    all.n_failed += p.n_failed;
  }
  all.seconds = Seconds(Clock::now() - began).count();
  return all;
}

void print(const char* what, const Result& r) {
  fmt::print(
      "{}: {} done, {} refused, {} failed in {:.1f} s; first token p50 {:.1f} ms, p99 {:.1f} ms; no after p99 {:.1f} "
      "ms\n",
      what, r.n_done, r.refused_s.size(), r.n_failed, r.seconds, percentile(r.first_token_s, 0.5) * 1e3,
      percentile(r.first_token_s, 0.99) * 1e3, percentile(r.refused_s, 0.99) * 1e3);
}

}  // namespace

int run_overload(const Flags& flags) {
  // The clients are on the same machine: half of it is theirs, or the server would be slower for that alone.
  const unsigned n_threads = std::max(1U, std::thread::hardware_concurrency() / 2);
  std::vector<std::string> more = {"--batch-size", "16", "--threads", std::to_string(n_threads)};
  more.insert(more.end(), flags.serve.begin(), flags.serve.end());
  const auto length = std::chrono::seconds(flags.seconds);
  // What one may wait in the queue is what half of the first tokens take at four fifths of the capacity, where few
  // wait: a longer wait makes full use of the server, a shorter one keeps first tokens early.
  double capacity = 0;
  double wait_ms = 0;
  const auto at = [&](const e2e::Server& server, double times, std::chrono::seconds time) {
    return together(server.address, [&, times](Load& load, int c) {
      return load.open_loop(capacity * times / kConnections, Clock::now() + time,
                            flags.seed + static_cast<uint32_t>(c));
    });
  };
  {
    e2e::Server server(more, flags.model);
    if (server.address.empty()) return 1;
    const auto full = together(server.address, [&](Load& load, int) {
      return load.closed_loop(2, Clock::now() + std::min(length, std::chrono::seconds(10)));
    });
    print("capacity", full);
    capacity = static_cast<double>(full.n_done) / full.seconds;
    const auto unbounded = at(server, 0.8, std::min(length, std::chrono::seconds(30)));
    print("at 80 %, no bound", unbounded);
    wait_ms = std::ceil(percentile(unbounded.first_token_s, 0.5) * 1e3);
    server.program.signal(SIGTERM);
    if (server.program.wait().exit_code != 0) return 1;
  }
  fmt::print("{:.1f} requests/s; from now on with --queue-ms {}\n", capacity, wait_ms);
  more.insert(more.end(), {"--queue-ms", fmt::format("{}", wait_ms)});
  e2e::Server server(more, flags.model);
  if (server.address.empty()) return 1;
  const Result normal = at(server, 0.8, std::min(length, std::chrono::seconds(60)));
  print("at 80 %", normal);
  const int64_t before_kib = resident_kib(server.program.pid());
  const Result over = at(server, 10, length);
  print("at 10 x", over);
  const int64_t after_kib = resident_kib(server.program.pid());
  const double ratio = percentile(over.first_token_s, 0.99) / std::max(1e-6, percentile(normal.first_token_s, 0.99));
  fmt::print("p99 of the first token at 10 x: {:.2f} of that at 80 %; memory {} KiB, then {} KiB\n", ratio, before_kib,
             after_kib);
  server.program.signal(SIGTERM);
  const bool right = over.n_failed == 0 && normal.n_failed == 0 && !over.refused_s.empty() && over.n_done > 0 &&
                     server.program.wait().exit_code == 0;
  fmt::print("{}\n", right ? "nothing failed that was taken" : "SOMETHING IS WRONG");
  return right ? 0 : 1;
}

// SIGTERM at any moment under load: what was taken is finished, and the rest told so.
int run_sigterm(const Flags& flags) {
  std::mt19937 random(flags.seed);
  int64_t n_whole = 0;
  int64_t n_refused = 0;
  int64_t n_wrong = 0;
  for (int round = 0; round < flags.rounds; ++round) {
    e2e::Server server(flags.serve, flags.model);
    if (server.address.empty()) return 1;
    std::atomic<int64_t> whole = 0;
    std::atomic<int64_t> refused = 0;
    std::atomic<int64_t> wrong = 0;
    std::vector<std::thread> clients;
    for (int c = 0; c < flags.clients; ++c) {
      clients.emplace_back([&, c] {
        auto client = moe::Client::connect({.address = server.address, .reconnect_for = std::chrono::milliseconds(0)});
        for (uint64_t n = 0; client.ok(); ++n) {
          bool begun = false;
          const auto end = (*client)->generate(request(static_cast<uint64_t>(c) * 1000 + n),
                                               [&](const v1::Tokens&) { begun = true; });
          if (end.ok() && end->reason() == v1::FINISH_REASON_LENGTH) {
            ++whole;
          } else if (end.ok() && end->error().code() == v1::CODE_UNAVAILABLE && !begun) {
            ++refused;
            return;
          } else {
            // A request that crossed the server's end on its way was never taken.
            if (begun || end.ok()) ++wrong;
            return;
          }
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100 + random() % 700));
    server.program.signal(SIGTERM);
    const int code = server.program.wait().exit_code;
    for (auto& c : clients) c.join();
    if (code != 0) ++wrong;
    n_whole += whole;
    n_refused += refused;
    n_wrong += wrong;
  }
  fmt::print("{} x SIGTERM under load of {} clients: {} streams whole, {} told that it ends, {} wrong\n", flags.rounds,
             flags.clients, n_whole, n_refused, n_wrong);
  return n_wrong == 0 && n_whole > 0 ? 0 : 1;
}

}  // namespace patchbay::soak
