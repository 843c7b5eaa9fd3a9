// patchbay experiment: a matrix of configurations and models, measured cell by cell.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/experiment/html.hpp"
#include "core/experiment/identity.hpp"
#include "core/experiment/plan.hpp"
#include "core/experiment/results.hpp"
#include "core/experiment/summary.hpp"
#include "core/experiment/table.hpp"
#include "core/plugin/registry.hpp"
#include "tools/patchbay/cell_run.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"
#include "tools/patchbay/version.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct ExperimentFlags {
  std::string file;
  std::string out;
  bool quiet = false;
  bool report_only = false;
};

moe::Status write_whole(const fs::path& file, const std::string& text) {
  const fs::path temporary = file.string() + fmt::format(".{}", getpid());
  std::ofstream out(temporary, std::ios::binary);
  out << text;
  out.close();
  std::error_code ec;
  if (out) fs::rename(temporary, file, ec);
  if (!out || ec) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: could not be written", file.string())};
  return {};
}

// One line a cell on standard error, and where that is a terminal, what is going on in it.
class Progress {
 public:
  Progress(size_t n_cells, bool on) : n_cells_(n_cells), on_(on) {}
  void cell(size_t i, const std::string& id) { head_ = fmt::format("[{}/{}] {}", i + 1, n_cells_, id); }
  void says(const std::string& what) const {
    if (!on_ || isatty(2) != 1) return;
    fmt::print(stderr, "\r{}: {}\033[K", head_, what);
    std::fflush(stderr);
  }
  void ends(const std::string& how) const {
    if (on_) fmt::print(stderr, "{}{}: {}\n", isatty(2) == 1 ? "\r\033[K" : "", head_, how);
  }

 private:
  size_t n_cells_;
  bool on_;
  std::string head_;
};

std::string brief(const json& result) {
  std::vector<std::string> parts;
  if (const json a = figure(result, "/accuracy/right"); a.is_number())
    parts.push_back(fmt::format("{} of {} right", a.get<int64_t>(), result["accuracy"]["total"].get<int64_t>()));
  if (const json p = figure(result, "/text/perplexity"); p.is_number())
    parts.push_back(fmt::format("perplexity {:.4f}", p.get<double>()));
  if (const json s = figure(result, "/speed/decode_tokens_per_second"); s.is_number())
    parts.push_back(fmt::format("{:.0f} tokens/s", s.get<double>()));
  return fmt::format("{}", fmt::join(parts, ", "));
}

class Run {
 public:
  Run(const Experiment& experiment, const ExperimentFlags& flags, ResultsFile& results)
      : experiment_(experiment),
        flags_(flags),
        results_(results),
        progress_(experiment.cells.size(), !flags.quiet),
        found_(experiment.cells.size()) {}

  moe::Status go() {
    MOE_TRY(identify());
    for (size_t i = 0; i < keys_.size(); ++i) {
      if (const json* known = results_.find(keys_[i])) found_[i] = *known;
    }
    tell_of_other_programs();
    if (!flags_.report_only) MOE_TRY(measure());
    return report();
  }
  [[nodiscard]] bool complete() const {
    return std::all_of(found_.begin(), found_.end(),
                       [](const json& r) { return r.is_object() && !r.contains("error"); });
  }

 private:
  moe::Status identify() {
    json files = json::object();
    if (experiment_.accuracy) MOE_TRY(identify("problems", experiment_.accuracy->problems, files));
    if (experiment_.text) MOE_TRY(identify("text", experiment_.text->file, files));
    for (const auto& model : experiment_.models) MOE_TRY(identify(model.name, model.path, models_));
    for (const Cell& cell : experiment_.cells) {
      json own = {{"model", models_[cell.model]}};
      if (cell.accuracy) own["problems"] = files["problems"];
      if (cell.text) own["text"] = files["text"];
      keys_.push_back(key_of(experiment_, cell, own));
    }
    return {};
  }
  static moe::Status identify(const std::string& name, const fs::path& path, json& into) {
    MOE_ASSIGN(into[name], identity_of(path));
    return {};
  }

  void tell_of_other_programs() const {
    size_t n = 0;
    for (const json& r : found_) n += r.is_object() && r["program"] != program_version() ? 1 : 0;
    if (n > 0 && !flags_.quiet)
      fmt::print(stderr,
                 "note: {} cells were measured by another version of the program; another --out measures them anew\n",
                 n);
  }

  moe::Status measure() {
    std::optional<CellRunner> runner;
    for (size_t i = 0; i < found_.size() && !interrupted(); ++i) {
      const Cell& cell = experiment_.cells[i];
      progress_.cell(i, cell.id);
      if (found_[i].is_object()) {
        progress_.ends("known: " + brief(found_[i]));
        continue;
      }
      if (!runner) {
        MOE_ASSIGN(runner, CellRunner::create(experiment_, [this](const std::string& what) { progress_.says(what); }));
      }
      auto measured = runner->run(cell);
      if (interrupted()) break;
      json result = measured.ok() ? std::move(measured).value() : json{{"error", measured.error().message}};
      describe(i, result);
      MOE_TRY(results_.add(result));
      progress_.ends(result.contains("error") ? "failed: " + result["error"].get<std::string>() : brief(result));
      found_[i] = std::move(result);
    }
    return {};
  }

  void describe(size_t i, json& result) const {
    const Cell& cell = experiment_.cells[i];
    const auto model = std::find_if(experiment_.models.begin(), experiment_.models.end(),
                                    [&](const auto& m) { return m.name == cell.model; });
    json values = json::object();
    for (const auto& [axis, value] : cell.values) values[axis] = value;
    result.update({{"cell", cell.id},
                   {"key", keys_[i]},
                   {"model", cell.model},
                   {"values", values},
                   {"own_router", cell.own_router},
                   {"trained_router", model->router},
                   {"config", json_of(cell.config)},
                   {"model_sha256", models_[cell.model]},
                   {"program", program_version()}});
  }

  // Written also when not all cells are there: what there is can be looked at.
  moe::Status report() const {
    const json summary = summary_of(experiment_, found_);
    const std::string table = table_of(summary);
    const fs::path out = flags_.out;
    MOE_TRY(write_whole(out / "table.md", table));
    MOE_ASSIGN(const std::string page, report_of(summary, share_dir() / "report"));
    MOE_TRY(write_whole(out / "report.html", page));
    fmt::print("{}", table);
    if (!flags_.quiet) fmt::print(stderr, "{}\n", (out / "report.html").string());
    return {};
  }

  const Experiment& experiment_;
  const ExperimentFlags& flags_;
  ResultsFile& results_;
  Progress progress_;
  json models_ = json::object();
  std::vector<std::string> keys_;
  std::vector<json> found_;
};

void experiment(const ExperimentFlags& flags) {
  watch_signals();
  const Experiment plan = value_or_fail(load_experiment(flags.file));
  for (const auto& model : plan.left_out) {
    if (!flags.quiet) fmt::print(stderr, "note: {} is left out: nothing is at {}\n", model.name, model.path.string());
  }
  std::error_code ec;
  fs::create_directories(flags.out, ec);
  ResultsFile results = value_or_fail(ResultsFile::open(fs::path(flags.out) / "results.jsonl"));
  Run run(plan, flags, results);
  ok_or_fail(run.go());
  if (interrupted()) {
    fmt::print(stderr, "patchbay: interrupted; the same command goes on where this one was\n");
    throw CLI::RuntimeError(130);
  }
  if (!run.complete() && !flags.report_only) throw CLI::RuntimeError(1);
}

}  // namespace

void add_experiment(CLI::App& app) {
  auto flags = std::make_shared<ExperimentFlags>();
  CLI::App* command = app.add_subcommand(
      "experiment", "Measure a matrix of models and configurations: results, a table, a report (configs/experiments)");
  command->add_option("file", flags->file, "what is compared, as TOML")->required()->type_name("FILE");
  command
      ->add_option("--out", flags->out,
                   "folder for results.jsonl, table.md and report.html; what is in there already is not measured again")
      ->required()
      ->type_name("DIR");
  command->add_flag("--report", flags->report_only, "measure nothing: table and report of what is there");
  command->add_flag("--quiet", flags->quiet, "no progress, no notes");
  command->callback([flags] { experiment(*flags); });
}

}  // namespace patchbay
