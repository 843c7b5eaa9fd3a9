// The tiny checkpoints of tests/golden and tests/data/models, and what the reference implementation made of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/model/json/json.hpp"
#include "tests/e2e/program.hpp"

namespace patchbay::e2e {

inline std::filesystem::path fixture_dir(const std::string& name) {
  const std::filesystem::path golden = std::filesystem::path(PATCHBAY_SOURCE_DIR) / "tests/golden" / name;
  if (std::filesystem::exists(golden)) return golden;
  return std::filesystem::path(PATCHBAY_SOURCE_DIR) / "tests/data/models" / name;
}

inline nlohmann::json json_file(const std::filesystem::path& path) {
  auto doc = parse_json_file(path);
  if (doc.ok()) return *doc;
  ADD_FAILURE() << doc.error().message;
  return {};
}

// Why a backend cannot run on this machine, or has not been built; empty if it can. Only "cuda" may be like that.
inline std::string why_unusable(const std::string& backend) {
  if (backend != "cuda") return "";
  static const std::string reason = []() -> std::string {
    const auto result = run_program({"run", "--quiet", "--backend", "cuda", "--model", fixture_dir("olmoe").string(),
                                     "--max-tokens", "1", "--prompt-ids=[1]"});
    const bool absent =
        result.err.find("no CUDA device") != std::string::npos || result.err.find("\"cuda\"") != std::string::npos;
    return result.exit_code != 0 && absent ? result.err : "";
  }();
  return reason;
}

// An f32 .npy file of version 1 as one flat vector; empty (and a failure) if it is anything else.
inline std::vector<float> read_npy(const std::filesystem::path& path) {
  const std::string bytes = read_text(path);
  constexpr size_t kPrefix = 10;  // magic, version, length of the header
  if (bytes.size() < kPrefix || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0) {
    ADD_FAILURE() << path << ": not a .npy file of version 1";
    return {};
  }
  const size_t header = static_cast<unsigned char>(bytes[8]) + 256U * static_cast<unsigned char>(bytes[9]);
  if (bytes.size() < kPrefix + header || bytes.find("'<f4'") > header || (bytes.size() - kPrefix - header) % 4 != 0) {
    ADD_FAILURE() << path << ": not f32, or cut off";
    return {};
  }
  std::vector<float> values((bytes.size() - kPrefix - header) / 4);
  std::memcpy(values.data(), bytes.data() + kPrefix + header, values.size() * 4);
  return values;
}

// max |got - want| <= 1e-4 * max |want|: the promise of fp32. NaN and another size fail.
inline ::testing::AssertionResult logits_agree(const std::vector<float>& got, const std::vector<float>& want) {
  if (want.empty() || got.size() != want.size()) {
    return ::testing::AssertionFailure() << got.size() << " logits, expected " << want.size();
  }
  float largest = 0;
  for (const float w : want) largest = std::max(largest, std::abs(w));
  const float tolerance = 1e-4F * largest;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!(std::abs(got[i] - want[i]) <= tolerance)) {
      return ::testing::AssertionFailure()
             << "logit " << i << ": " << got[i] << ", expected " << want[i] << " +- " << tolerance;
    }
  }
  return ::testing::AssertionSuccess();
}

struct LogitsRun {
  std::vector<float> logits;
  nlohmann::json routes;  // {"layers": [{"ids": [[..]], "weights": [[..]]}]}
};

// `patchbay logits` of the fixture's prompt on `model`, with more flags.
inline LogitsRun run_logits(const std::filesystem::path& model, const nlohmann::json& input_ids,
                            std::vector<std::string> flags) {
  const ScratchDir dir;
  write_text(dir / "ids.json", input_ids.dump());
  std::vector<std::string> arguments = {"logits",         "--quiet", "--model",     model.string(), "--tokens",
                                        dir / "ids.json", "--out",   dir / "o.npy", "--routes",     dir / "r.json"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out + result.err, "") << "--quiet";
  if (result.exit_code != 0) return {};
  return {read_npy(dir / "o.npy"), json_file(dir / "r.json")};
}

using Route = std::map<int64_t, double>;  // expert to weight

// Without what a dynamic router left out, which weighs 0.
inline Route route_of(const nlohmann::json& ids, const nlohmann::json& weights) {
  Route route;
  for (size_t j = 0; j < ids.size(); ++j) {
    if (weights[j].get<double>() != 0) route[static_cast<int64_t>(ids[j].get<double>())] = weights[j].get<double>();
  }
  return route;
}

// The same experts for every token of every layer, with the same weights; the order among them is free.
inline void expect_routes(const nlohmann::json& got, const nlohmann::json& expected) {
  ASSERT_EQ(got.at("layers").size(), expected.size());
  size_t layer = 0;
  for (const auto& [name, entry] : expected.items()) {  // sorted by name, which is the layers' order below ten of them
    const nlohmann::json& mine = got.at("layers")[layer++];
    const nlohmann::json& weights = entry.at(1);
    const nlohmann::json& ids = entry.at(2);
    ASSERT_FALSE(ids.empty()) << name;
    ASSERT_EQ(mine.at("ids").size(), ids.size()) << name;
    for (size_t t = 0; t < ids.size(); ++t) {
      const Route want = route_of(ids[t], weights[t]);
      const Route have = route_of(mine["ids"][t], mine["weights"][t]);
      ASSERT_EQ(have.size(), want.size()) << name << " token " << t;
      for (const auto& [expert, weight] : want) {
        ASSERT_TRUE(have.contains(expert)) << name << " token " << t << " expert " << expert;
        ASSERT_TRUE(std::abs(have.at(expert) - weight) <= 1e-4)
            << name << " token " << t << " expert " << expert << ": " << have.at(expert) << ", expected " << weight;
      }
    }
  }
}

}  // namespace patchbay::e2e
