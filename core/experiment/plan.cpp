#include "core/experiment/plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/config/settings.hpp"
#include "core/config/table_reader.hpp"
#include "core/plugin/nearest.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostCells = 10'000;

// A table's members as they stand in the file.
std::vector<std::pair<std::string, const TomlNode*>> in_order(
    std::vector<std::pair<std::string, const TomlNode*>> members) {
  std::stable_sort(members.begin(), members.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->line, a.second->column) < std::pair(b.second->line, b.second->column);
  });
  return members;
}

fs::path beside(const TomlNode& node, const std::string& text) {
  const fs::path path(text);
  return (path.is_relative() ? fs::path(node.source).parent_path() / path : path).lexically_normal();
}

// A setting that may be written "a.b": value.
TomlNode nested(std::string_view dotted, TomlNode value) {
  const size_t dot = dotted.rfind('.');
  TomlNode table;
  table.source = value.source;
  table.line = value.line;
  table.column = value.column;
  const std::string key(dot == std::string_view::npos ? dotted : dotted.substr(dot + 1));
  table.value = TomlTable{{key, std::move(value)}};
  return dot == std::string_view::npos ? table : nested(dotted.substr(0, dot), std::move(table));
}

struct AxisValue {
  std::string name;
  TomlNode set;  // a table, empty: nothing changes
};
struct Axis {
  std::string name;
  std::vector<AxisValue> values;
};

std::string text_of(const TomlNode& node) {
  if (const auto* s = std::get_if<std::string>(&node.value)) return *s;
  return json_of(node).dump();
}

// {name, set}: the settings under that name; anything else: a value of the setting that the axis is called by.
moe::Result<AxisValue> read_value(const std::string& axis, const TomlNode& node) {
  const std::string subject = fmt::format("matrix.axes.{}", axis);
  if (node.table() == nullptr) return AxisValue{text_of(node), nested(axis, node)};
  AxisValue value;
  TableReader reader(node, subject);
  value.name = reader.text("name");
  if (const TomlNode* set = reader.table("set")) value.set = *set;
  MOE_TRY(reader.finish());
  if (value.name.empty())
    return moe::invalid(fmt::format("{}: {}.name: expected a name for this value, got none", node.where(), subject));
  return value;
}

moe::Result<Axis> read_axis(const std::string& name, const TomlNode& node) {
  Axis axis{name, {}};
  const auto* items = node.array();
  if (items == nullptr || items->empty()) {
    return moe::invalid(fmt::format("{}: matrix.axes.{}: expected an array of values, got {}", node.where(), name,
                                    items == nullptr ? node.type_name() : "none"));
  }
  for (const auto& item : *items) {
    MOE_ASSIGN(AxisValue value, read_value(name, item));
    for (const auto& other : axis.values) {
      if (other.name == value.name) {
        return moe::invalid(fmt::format("{}: matrix.axes.{}: expected a name for each value, got \"{}\" twice",
                                        item.where(), name, value.name));
      }
    }
    axis.values.push_back(std::move(value));
  }
  return axis;
}

moe::Result<ExperimentModel> read_model(const std::string& name, const TomlNode& node) {
  ExperimentModel model;
  const std::string subject = "models." + name;
  TableReader reader(node, subject);
  const std::string path = reader.text("path");
  model.name = name;
  model.where = node.where();
  model.path = beside(node, path);
  model.router = reader.text("router");
  model.group = reader.text("group");
  model.optional = reader.flag("optional", false);
  MOE_TRY(reader.finish());
  if (path.empty()) return moe::invalid(fmt::format("{}: {}.path: expected a model, got none", model.where, subject));
  return model;
}

moe::Status read_accuracy(const TomlNode& node, Experiment& out) {
  TableReader reader(node, "measure.accuracy");
  AccuracyMeasure m;
  const std::string problems = reader.text("problems");
  m.problems = beside(node, problems);
  m.limit = reader.integer("limit", m.limit);
  m.max_tokens = reader.integer("max_tokens", m.max_tokens);
  m.samples = reader.integer("samples", m.samples, 0, 100);
  m.greedy = reader.flag("greedy", m.greedy);
  MOE_TRY(reader.finish());
  if (problems.empty())
    return moe::invalid(
        fmt::format("{}: measure.accuracy.problems: expected a file of problems, got none", node.where()));
  out.accuracy = m;
  return {};
}

moe::Status read_text(const TomlNode& node, Experiment& out) {
  TableReader reader(node, "measure.text");
  TextMeasure m;
  const std::string file = reader.text("file");
  m.file = beside(node, file);
  m.separator = reader.text("separator");
  m.after = reader.text("after");
  m.window = reader.integer("window", m.window, 2, 1 << 20);
  m.tokens = reader.integer("tokens", m.tokens, 2, 1 << 24);
  m.baseline = reader.text("baseline");
  MOE_TRY(reader.finish());
  if (file.empty()) return moe::invalid(fmt::format("{}: measure.text.file: expected a text, got none", node.where()));
  out.text = m;
  return {};
}

moe::Status read_speed(const TomlNode& node, Experiment& out) {
  TableReader reader(node, "measure.speed");
  SpeedMeasure m;
  m.prompt_tokens = reader.integer("prompt_tokens", m.prompt_tokens, 1, 1 << 20);
  m.decode_tokens = reader.integer("decode_tokens", m.decode_tokens, 1, 1 << 20);
  m.rounds = reader.integer("rounds", m.rounds, 1, 1000);
  out.speed = m;
  return reader.finish();
}

moe::Status read_measures(TableReader& document, Experiment& out) {
  const TomlNode* node = document.table("measure");
  if (node == nullptr) return {};
  TableReader reader(*node, "measure");
  if (const TomlNode* m = reader.table("accuracy")) MOE_TRY(read_accuracy(*m, out));
  if (const TomlNode* m = reader.table("text")) MOE_TRY(read_text(*m, out));
  if (const TomlNode* m = reader.table("speed")) MOE_TRY(read_speed(*m, out));
  return reader.finish();
}

// Whether a configuration leaves routing to the checkpoint. Naming the plugin that the model was trained with, without
// options, does.
bool routes_as_trained(const TomlNode& config, const std::string& trained) {
  const auto same = [&](const TomlNode* router) {
    if (router == nullptr) return true;
    if (const auto* name = std::get_if<std::string>(&router->value)) return *name == trained;
    const TomlNode* plugin = router->find("plugin");
    const auto* table = router->table();
    if (table == nullptr || table->empty()) return true;
    return table->size() == 1 && plugin != nullptr && text_of(*plugin) == trained;
  };
  if (!same(config.find("router")) || config.find("plan") != nullptr) return false;
  const TomlNode* layers = config.find("layer");
  if (layers == nullptr || layers->array() == nullptr) return true;
  return std::all_of(layers->array()->begin(), layers->array()->end(),
                     [&](const TomlNode& l) { return same(l.find("router")) && l.find("plan") == nullptr; });
}

// The same configuration without what it says of routing.
nlohmann::json without_routing(const TomlNode& config) {
  nlohmann::json doc = json_of(config);
  doc.erase("router");
  doc.erase("plan");
  if (!doc.contains("layer")) return doc;
  nlohmann::json layers = nlohmann::json::array();
  for (auto& layer : doc["layer"].is_array() ? doc["layer"] : nlohmann::json::array({doc["layer"]})) {
    layer.erase("router");
    layer.erase("plan");
    if (layer.size() > 1) layers.push_back(layer);
  }
  doc.erase("layer");
  if (!layers.empty()) doc["layer"] = layers;
  return doc;
}

class MatrixReader {
 public:
  MatrixReader(Experiment& out, const TomlNode& base) : out_(out), base_(base) {}

  moe::Status read(const TomlNode& node) {
    TableReader reader(node, "matrix");
    MOE_ASSIGN(const auto models, chosen_models(reader, node));
    MOE_TRY(chosen_measures(reader, node));
    std::vector<Axis> axes;
    if (const TomlNode* table = reader.table("axes")) {
      TableReader members(*table, "matrix.axes");
      for (const auto& [name, child] : in_order(members.rest())) {
        MOE_ASSIGN(Axis axis, read_axis(name, *child));
        axes.push_back(std::move(axis));
      }
    }
    MOE_TRY(reader.finish());
    for (const auto* model : models) MOE_TRY(add_cells(*model, axes, node.where()));
    return {};
  }

 private:
  moe::Result<std::vector<const ExperimentModel*>> chosen_models(TableReader& reader, const TomlNode& node) {
    std::vector<const ExperimentModel*> chosen;
    std::vector<std::string> known;
    for (const auto* list : {&out_.models, &out_.left_out}) {
      for (const auto& m : *list) known.push_back(m.name);
    }
    if (!reader.has("models")) {
      for (const auto& m : out_.models) chosen.push_back(&m);
    }
    for (const auto& name : reader.texts("models")) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        return moe::invalid(fmt::format("{}: matrix.models: expected one of {}, got \"{}\"{}",
                                        node.find("models")->where(), fmt::join(known, ", "), name,
                                        did_you_mean(name, known)));
      }
      for (const auto& m : out_.models) {
        if (m.name == name) chosen.push_back(&m);
      }
    }
    return chosen;
  }

  moe::Status chosen_measures(TableReader& reader, const TomlNode& node) {
    std::vector<std::string> configured;
    if (out_.accuracy) configured.emplace_back("accuracy");
    if (out_.text) configured.emplace_back("text");
    if (out_.speed) configured.emplace_back("speed");
    const bool all = !reader.has("measure");
    const auto wanted = reader.texts("measure");
    for (const auto& name : wanted) {
      if (std::find(configured.begin(), configured.end(), name) == configured.end()) {
        return moe::invalid(fmt::format("{}: matrix.measure: expected what [measure] has ({}), got \"{}\"{}",
                                        node.find("measure")->where(), fmt::join(configured, ", "), name,
                                        did_you_mean(name, configured)));
      }
    }
    const auto on = [&](const char* name) {
      return all || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    };
    accuracy_ = out_.accuracy.has_value() && on("accuracy");
    text_ = out_.text.has_value() && on("text");
    speed_ = out_.speed.has_value() && on("speed");
    return {};
  }

  moe::Status add_cells(const ExperimentModel& model, const std::vector<Axis>& axes, const std::string& where) {
    std::vector<size_t> at(axes.size(), 0);
    while (true) {
      MOE_TRY(add_cell(model, axes, at, where));
      size_t axis = axes.size();
      while (axis > 0 && ++at[axis - 1] == axes[axis - 1].values.size()) at[--axis] = 0;
      if (axis == 0) return {};
    }
  }

  moe::Status add_cell(const ExperimentModel& model, const std::vector<Axis>& axes, const std::vector<size_t>& at,
                       const std::string& where) {
    Cell cell;
    cell.id = cell.model = model.name;
    cell.config = base_;
    for (size_t i = 0; i < axes.size(); ++i) {
      const AxisValue& value = axes[i].values[at[i]];
      if (value.set.table() != nullptr && value.set.table()->empty()) continue;
      merge(cell.config, value.set);
      cell.values.emplace_back(axes[i].name, value.name);
      cell.id += fmt::format(" {}={}", axes[i].name, value.name);
    }
    auto settings = settings_from_node(cell.config);
    if (!settings.ok()) return settings.error().in(fmt::format("cell \"{}\"", cell.id));
    cell.own_router = routes_as_trained(cell.config, model.router);
    cell.accuracy = accuracy_;
    cell.text = text_;
    cell.speed = speed_;
    TomlNode path;
    path.source = "models." + model.name;
    path.value = model.path.string();
    merge(cell.config, nested("model.path", std::move(path)));
    for (Cell& other : out_.cells) {
      if (other.id != cell.id) continue;
      if (json_of(other.config) != json_of(cell.config)) {
        return moe::invalid(
            fmt::format("{}: matrix: expected one configuration for the cell \"{}\", got two", where, cell.id));
      }
      other.accuracy |= accuracy_;
      other.text |= text_;
      other.speed |= speed_;
      return {};
    }
    if (out_.cells.size() == kMostCells)
      return moe::invalid(fmt::format("{}: matrix: expected at most {} cells, got more", where, kMostCells));
    out_.cells.push_back(std::move(cell));
    return {};
  }

  Experiment& out_;
  const TomlNode& base_;
  bool accuracy_ = false, text_ = false, speed_ = false;
};

void find_references(Experiment& out) {
  for (Cell& cell : out.cells) {
    if (cell.own_router) continue;
    for (size_t i = 0; i < out.cells.size(); ++i) {
      if (out.cells[i].own_router && without_routing(out.cells[i].config) == without_routing(cell.config))
        cell.reference = i;
    }
  }
}

moe::Result<Experiment> read_experiment(const TomlNode& document) {
  Experiment out;
  TableReader reader(document, "");
  out.name = reader.text("name", fs::path(document.source).stem().string());
  const TomlNode* models = reader.table("models");
  if (models != nullptr) {
    TableReader table(*models, "models");
    for (const auto& [name, node] : in_order(table.rest())) {
      MOE_ASSIGN(ExperimentModel model, read_model(name, *node));
      std::error_code ec;
      if (fs::exists(model.path, ec)) {
        out.models.push_back(std::move(model));
      } else if (model.optional) {
        out.left_out.push_back(std::move(model));
      } else {
        return moe::not_found(fmt::format("{}: models.{}.path: expected a model, got none at {}", model.where, name,
                                          model.path.string()));
      }
    }
  }
  MOE_TRY(read_measures(reader, out));
  TomlNode base;
  if (const TomlNode* node = reader.table("base")) base = *node;
  if (base.find("model") != nullptr && base.find("model")->find("path") != nullptr) {
    return moe::invalid(fmt::format("{}: base.model.path: expected [models], got a path", base.find("model")->where()));
  }
  const auto matrices = reader.tables("matrix");
  MOE_TRY(reader.finish());
  if (out.models.empty())
    return moe::invalid(
        fmt::format("{}: models: expected at least one model that is there, got none", document.source));
  if (!out.accuracy && !out.text && !out.speed) {
    return moe::invalid(
        fmt::format("{}: measure: expected at least one of accuracy, text, speed, got none", document.source));
  }
  MatrixReader matrix(out, base);
  const TomlNode plain;
  for (const TomlNode* node : matrices) MOE_TRY(matrix.read(*node));
  if (matrices.empty()) MOE_TRY(matrix.read(plain));
  find_references(out);
  if (out.text && !out.text->baseline.empty()) {
    std::vector<std::string> ids;
    for (const auto& c : out.cells) ids.push_back(c.id);
    if (std::find(ids.begin(), ids.end(), out.text->baseline) == ids.end()) {
      return moe::invalid(fmt::format("{}: measure.text.baseline: expected a cell, got \"{}\"{}", document.source,
                                      out.text->baseline, did_you_mean(out.text->baseline, ids)));
    }
  }
  return out;
}

}  // namespace

nlohmann::json json_of(const TomlNode& node) {
  return std::visit(
      [](const auto& value) -> nlohmann::json {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, TomlArray>) {
          nlohmann::json out = nlohmann::json::array();
          for (const auto& item : value) out.push_back(json_of(item));
          return out;
        } else if constexpr (std::is_same_v<T, TomlTable>) {
          nlohmann::json out = nlohmann::json::object();
          for (const auto& [key, child] : value) out[key] = json_of(child);
          return out;
        } else {
          return value;
        }
      },
      node.value);
}

moe::Result<Experiment> load_experiment(const fs::path& file) {
  std::error_code ec;
  MOE_ASSIGN(const TomlNode document, parse_toml_file(fs::absolute(file, ec)));
  return read_experiment(document);
}

moe::Result<Experiment> experiment_from_text(std::string_view text, const std::string& source) {
  MOE_ASSIGN(const TomlNode document, parse_toml(text, source));
  return read_experiment(document);
}

}  // namespace patchbay
