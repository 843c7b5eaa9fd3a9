// The plan of an experiment: models, a matrix over any keys of the configuration, and what is measured in each cell.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/config/toml_file.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// [models.NAME]
struct ExperimentModel {
  std::string name;
  std::filesystem::path path;  // from the file's folder
  std::string router;          // the plugin that it was trained with; empty: it has none, or nobody said
  std::string group;           // models that differ in their seed only; empty: the model is alone
  bool optional = false;
  std::string where;
};

// [measure.accuracy]: problems answered through the chat format.
struct AccuracyMeasure {
  std::filesystem::path problems;
  int64_t limit = 0;       // 0: all
  int64_t max_tokens = 0;  // of an answer; 0: the context
  int64_t samples = 3;     // answers that are kept for the report, of the first problems
  bool greedy = true;      // false: as the cell's samplers pick, each problem with its own seed
};

// [measure.text]: perplexity, divergence from a baseline, and each token's routing.
struct TextMeasure {
  std::filesystem::path file;
  std::string separator;  // between texts that do not see each other; empty: the file is one text
  std::string
      after;  // only what follows the first of these in a text is predicted, the rest is given; empty: all is predicted
  int64_t window = 512;   // tokens of a text that are read together
  int64_t tokens = 4096;  // of the file, at most
  std::string baseline;   // a cell's id; empty: the same cell with the model's own router
};

// [measure.speed]: as `patchbay bench` at batch 1.
struct SpeedMeasure {
  int64_t prompt_tokens = 128;
  int64_t decode_tokens = 128;
  int64_t rounds = 5;
};

// One configuration of one model.
struct Cell {
  std::string id;                                           // "softmax", "softmax router=grouped"
  std::string model;                                        // a name of Experiment::models
  std::vector<std::pair<std::string, std::string>> values;  // axis and value, for those that change something
  TomlNode config;                                          // as a configuration file would say it, model.path included
  bool own_router = true;                                   // whether it routes as the model was trained
  std::optional<size_t> reference;  // the cell that differs in routing only and routes as the model was trained
  bool accuracy = false, text = false, speed = false;  // what is measured
};

struct Experiment {
  std::string name;
  std::vector<ExperimentModel> models;    // that are there
  std::vector<ExperimentModel> left_out;  // optional, and not there
  std::vector<Cell> cells;                // in order of the matrices, models, axes
  std::optional<AccuracyMeasure> accuracy;
  std::optional<TextMeasure> text;
  std::optional<SpeedMeasure> speed;
};

// Errors: file, line, column, what was expected, what came, the nearest right name; also where a cell's configuration
// is wrong, a model is missing that is not optional, or two cells have one id.
moe::Result<Experiment> load_experiment(const std::filesystem::path& file);
moe::Result<Experiment> experiment_from_text(std::string_view text, const std::string& source);

// The node's values, without their places; keys in order.
nlohmann::json json_of(const TomlNode& node);

}  // namespace patchbay
