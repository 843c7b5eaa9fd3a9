// What the wire costs: tokens/s over ZeroMQ beside those of the engine alone, and the first token while others decode.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "moe/sdk/client.hpp"
#include "tests/soak/soak.hpp"

namespace patchbay::soak {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kPrompt = 128;  // of the stream whose first token is timed
constexpr int kShort = 16;    // of the others
constexpr int kTokens = 64;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// A prompt that nobody has asked before: nothing of it is in the cache.
v1::Generate fresh(int64_t max_tokens, int32_t n_prompt) {
  static int32_t number = 0;
  ++number;
  v1::Generate g;
  for (int32_t i = 0; i < n_prompt; ++i) g.mutable_ids()->add_ids(1 + (number * 131 + i * 7) % 250);
  g.set_max_tokens(max_tokens);
  g.set_ignore_end(true);
  return g;
}

// Takes messages until `enough` says so, which sees each; false: something failed.
bool read(moe::Client& client, const std::function<bool(const v1::ServerMessage&)>& enough) {
  const auto deadline = Clock::now() + std::chrono::minutes(2);
  while (Clock::now() < deadline) {
    const auto message = client.next(std::chrono::milliseconds(1000));
    if (!message.ok() || (message->has_value() && (*message)->end().has_error())) {
      fmt::print(stderr, "soak: {}\n", message.ok() ? (*message)->end().error().message() : message.error().message);
      return false;
    }
    if (message->has_value() && enough(**message)) return true;
  }
  return false;
}

// Tokens a second of `n` streams, over whole steps in which all of them run: from one event of the stream that began
// last to a later one of it, before the first stream ends. 0: it failed.
double over_zeromq(moe::Client& client, int n) {
  for (int i = 0; i < n; ++i) {
    if (!client.start(fresh(kTokens, kShort)).ok()) return 0;
  }
  std::map<uint64_t, int> begun;
  uint64_t last = 0;  // the stream that began last: the engine emits in the order in which streams began
  std::optional<Clock::time_point> since;
  int n_tokens = 0;
  double rate = 0;
  int n_ended = 0;
  const bool right = read(client, [&](const v1::ServerMessage& m) {
    const int n_new = m.tokens().ids_size();
    if (since && n_ended == 0) {
      n_tokens += n_new;
      if (m.request() == last && n_new > 0) rate = n_tokens / Seconds(Clock::now() - *since).count();
    }
    if (n_new > 0) begun[m.request()] = 1;
    if (!since && static_cast<int>(begun.size()) == n) {
      since = Clock::now();
      last = m.request();
    }
    n_ended += m.has_end() ? 1 : 0;
    return n_ended == n;
  });
  return right ? rate : 0;
}

// Tokens a second of `n` requests of the engine alone.
double in_process(const Flags& flags, int n) {
  std::vector<std::string> arguments = {"bench",
                                        "--model",
                                        flags.model,
                                        "--json",
                                        "--quiet",
                                        "--rounds",
                                        "1",
                                        "--batch",
                                        std::to_string(n),
                                        "--prompt-tokens",
                                        std::to_string(kShort),
                                        "--decode-tokens",
                                        std::to_string(kTokens)};
  arguments.insert(arguments.end(), flags.serve.begin(), flags.serve.end());
  const auto result = e2e::run_program(arguments);
  const auto parsed = nlohmann::json::parse(result.out, nullptr, false);
  return parsed.contains("rows") ? parsed["rows"][0].value("decode_tokens_per_second", 0.0) : 0.0;
}

// Seconds to the first token of one more stream; 0: it failed.
double first_token_s(moe::Client& client) {
  const auto began = Clock::now();
  const auto number = client.start(fresh(2, kPrompt));
  double first = 0;
  const bool right = number.ok() && read(client, [&](const v1::ServerMessage& m) {
                       if (m.request() != *number) return false;
                       if (first == 0 && m.tokens().ids_size() > 0) first = Seconds(Clock::now() - began).count();
                       return m.has_end();
                     });
  return right ? first : 0;
}

// Seconds to the first token of one more stream, several times one after the other; nothing: one failed.
std::vector<double> first_tokens_s(moe::Client& client) {
  constexpr int kTimes = 5;
  std::vector<double> seconds;
  for (int i = 0; i < kTimes; ++i) {
    const double s = first_token_s(client);
    if (s <= 0) return {};
    seconds.push_back(s);
  }
  return seconds;
}

}  // namespace

int run_speed(const Flags& flags) {
  std::vector<double> wire, alone, shares, idle, busy;
  for (int round = 0; round < flags.rounds; ++round) {
    alone.push_back(in_process(flags, flags.clients));
    e2e::Server server(flags.serve, flags.model);
    const auto client = moe::Client::connect({.address = server.address, .patience = std::chrono::seconds(60)});
    if (!client.ok()) return 1;
    wire.push_back(over_zeromq(**client, flags.clients));
    idle.push_back(median(first_tokens_s(**client)));
    for (int i = 0; i + 1 < flags.clients; ++i) {
      if (!(*client)->start(fresh(400, kShort)).ok()) return 1;
    }
    std::map<uint64_t, int> begun;
    read(**client, [&](const v1::ServerMessage& m) {
      if (m.tokens().ids_size() > 0) begun[m.request()] = 1;
      return static_cast<int>(begun.size()) + 1 == flags.clients;
    });
    busy.push_back(median(first_tokens_s(**client)));
    if (alone.back() <= 0 || wire.back() <= 0 || idle.back() <= 0 || busy.back() <= 0) return 1;
    shares.push_back(wire.back() / alone.back());
    fmt::print(
        stderr,
        "{} streams: {:.0f} tokens/s in process, {:.0f} over ZeroMQ; first token {:.0f} ms idle, {:.0f} ms busy\n",
        flags.clients, alone.back(), wire.back(), idle.back() * 1e3, busy.back() * 1e3);
  }
  fmt::print("medians: ZeroMQ {:.0f} % of in process; first token of {} tokens while {} decode {:.2f} x idle\n",
             median(shares) * 100, kPrompt, flags.clients - 1, median(busy) / median(idle));
  return 0;
}

}  // namespace patchbay::soak
