// Measuring one cell of an experiment.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/experiment/plan.hpp"
#include "tools/patchbay/evaluation.hpp"
#include "tools/patchbay/text_score.hpp"

namespace patchbay {

// What the cells share: the problems and the text, read once, and the predictions of the last baseline.
class CellRunner {
 public:
  // `says`: what is being done, for a line of progress.
  using Says = std::function<void(const std::string&)>;
  static moe::Result<CellRunner> create(const Experiment& experiment, Says says);

  // {"model_facts", "accuracy", "text", "speed"}, as far as the cell asks for them. Nothing of it but seconds and
  // speeds changes from run to run. Errors: whatever keeps the cell from running; MOE_CANCELLED: the program was
  // interrupted.
  moe::Result<nlohmann::json> run(const Cell& cell);

 private:
  CellRunner(const Experiment& experiment, Says says) : experiment_(&experiment), says_(std::move(says)) {}
  moe::Result<nlohmann::json> measure_text(Session& session, const Cell& cell);
  moe::Result<nlohmann::json> measure_accuracy(Session& session);
  moe::Result<nlohmann::json> measure_speed_of(Session& session);
  moe::Result<const Predictions*> baseline_of(const Cell& cell);

  const Experiment* experiment_;
  Says says_;
  std::vector<Problem> problems_;
  std::string text_;
  std::string baseline_id_;  // of the cell whose predictions these are
  Predictions baseline_;
};

}  // namespace patchbay
