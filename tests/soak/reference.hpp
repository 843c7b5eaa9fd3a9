// What the server must say, whatever happens around it: texts of undisturbed runs.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "patchbay.pb.h"

namespace patchbay::soak {

// A request with one answer: seeded, or greedy.
struct Question {
  v1::Generate request;
  std::string text;  // of the undisturbed run

  [[nodiscard]] nlohmann::json as_openai() const {
    return {{"prompt", request.text()}, {"max_tokens", request.max_tokens()},
            {"seed", request.seed()},   {"temperature", request.sampling().at("temperature").number()},
            {"ignore_eos", true},       {"stream", true}};
  }
};

// Questions that differ in length, seed and beginning; every third begins like the one before.
inline std::vector<Question> questions(size_t n) {
  std::vector<Question> all(n);
  for (size_t i = 0; i < n; ++i) {
    v1::Generate& g = all[i].request;
    std::string prompt = "Compute " + std::to_string(17 + i / 3 * 13) + " * " + std::to_string(3 + i) + ".";
    for (size_t k = 0; k < i % 5; ++k) prompt += " Then add " + std::to_string(i * 7 + k) + " to it.";
    g.set_text(prompt);
    g.set_max_tokens(static_cast<int64_t>(8 + i * 37 % 120));
    g.set_seed(1000 + i);
    g.set_ignore_end(true);
    (*g.mutable_sampling())["temperature"].set_number(i % 2 == 0 ? 0.0 : 1.2);
  }
  return all;
}

}  // namespace patchbay::soak
