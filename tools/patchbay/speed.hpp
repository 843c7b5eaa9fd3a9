// How fast a model prefills and decodes, as `bench` and `experiment` measure it.
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tools/patchbay/session.hpp"

namespace patchbay {

// Counts tokens and remembers nothing else.
class Counter final : public RequestSink {
 public:
  void on_token(uint64_t id, const TokenOut&) override {
    ++n_tokens;
    begun.insert(id);
  }
  void on_end(uint64_t, FinishReason, const moe::Error* error, const RequestUsage& usage) override {
    ++n_ended;
    prefill_s = std::max(prefill_s, usage.prefill_s);
    if (error != nullptr) problem = error->message;
  }
  int64_t n_tokens = 0;
  int64_t n_ended = 0;
  std::set<uint64_t> begun;  // requests that have a token
  double prefill_s = 0;
  std::string problem;
};

struct SpeedOptions {
  int64_t n_prompt = 128;  // length of each prompt
  int64_t n_decode = 128;  // tokens that each request generates
  int64_t rounds = 5;      // medians are over so many
};

struct SpeedMeasurement {
  int64_t batch = 0;
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;
  double step_us = 0;  // of a decode step, median
  double p99_step_us = 0;
  double step_bytes = 0;  // that a decode step reads: weights, each chosen expert's once, and the cache; 0 where they are a device's
};

// Some ids that differ, within the vocabulary; others for another salt.
std::vector<int32_t> some_ids(int64_t n, int64_t n_vocab, int64_t salt);

double median(std::vector<double> v);
inline double seconds_of(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

// `batch` requests side by side.
moe::Result<SpeedMeasurement> measure_speed(Session& session, const SpeedOptions& options, int64_t batch);

}  // namespace patchbay
