#include "core/experiment/table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "core/experiment/summary.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

struct Column {
  const char* title;
  const char* path;
  const char* format;  // of a double
  double factor;
};

constexpr Column kColumns[] = {{"right", "/accuracy/accuracy", "{:.1f} %", 100},
                               {"perplexity", "/text/perplexity", "{:.4f}", 1},
                               {"KL, nats", "/text/kl", "{:.4f}", 1},
                               {"hottest, x even", "/accuracy/balance/max_over_mean", "{:.2f}", 1},
                               {"load CV", "/accuracy/balance/variation", "{:.3f}", 1},
                               {"load entropy", "/accuracy/balance/entropy", "{:.4f}", 1},
                               {"routing, bits", "/text/entropy_bits", "{:.2f}", 1},
                               {"overlap", "/text/overlap", "{:.2f}", 1},
                               {"experts a token", "/text/experts_a_token", "{:.2f}", 1},
                               {"active, M", "/model_facts/active_parameters", "{:.2f}", 1e-6},
                               {"memory, MB", "/model_facts/memory_bytes", "{:.1f}", 1e-6},
                               {"tokens/s", "/speed/decode_tokens_per_second", "{:.0f}", 1},
                               {"of bandwidth", "/speed/share_of_bandwidth", "{:.0f} %", 100},
                               {"first, ms", "/speed/first_token_ms", "{:.1f}", 1}};

// Characters on a screen, of text without wide ones.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.front().size(), 3);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
  }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string space(widths[c] - width_of(rows[r][c]), ' ');
      out += c == 0 ? fmt::format("| {}{} ", rows[r][c], space) : fmt::format("| {}{} ", space, rows[r][c]);
    }
    out += "|\n";
    if (r > 0) continue;
    for (size_t c = 0; c < widths.size(); ++c) out += fmt::format("|{:-<{}}{}", "", widths[c] + 1, c == 0 ? "-" : ":");
    out += "|\n";
  }
  return out;
}

std::string cells_table(const json& cells) {
  std::vector<const Column*> shown;
  for (const Column& c : kColumns) {
    if (std::any_of(cells.begin(), cells.end(), [&](const json& cell) { return figure(cell, c.path).is_number(); }))
      shown.push_back(&c);
  }
  std::vector<std::vector<std::string>> rows(1, {"cell"});
  for (const Column* c : shown) rows[0].emplace_back(c->title);
  for (const json& cell : cells) {
    std::vector<std::string> row = {cell["cell"].get<std::string>() + (cell["own_router"].get<bool>() ? "" : " *")};
    for (const Column* c : shown) {
      const json value = figure(cell, c->path);
      row.push_back(value.is_number() ? fmt::format(fmt::runtime(c->format), value.get<double>() * c->factor) : "");
    }
    rows.push_back(std::move(row));
  }
  return aligned(rows);
}

std::string groups_text(const json& groups) {
  std::string out;
  for (const json& g : groups) {
    out += fmt::format("\n{}, {} seeds:", g["group"].get<std::string>(), g["models"].size());
    if (g.contains("accuracy")) {
      std::vector<std::string> each;
      for (const double v : g["accuracy"]["each"]) each.push_back(fmt::format("{:.1f}", v * 100));
      out += fmt::format(" {:.2f} % right on average ({})", g["accuracy"]["mean"].get<double>() * 100,
                         fmt::join(each, ", "));
    }
    if (g.contains("perplexity")) out += fmt::format("; perplexity {:.4f}", g["perplexity"]["mean"].get<double>());
    out += "\n";
  }
  return out;
}

}  // namespace

std::string cost_text(const json& cell) {
  const std::string trained = cell.value("trained_router", "");
  const json router = figure(cell, "/model_facts/layers/0/router");
  std::string out = "this routing is not the one that the model was trained with";
  if (!trained.empty() && router.is_string()) {
    out += router == trained ? fmt::format(" ({} with other settings)", trained)
                             : fmt::format(" ({} instead of {})", router.get<std::string>(), trained);
  }
  if (!cell.contains("cost")) return out;
  const json& cost = cell["cost"];
  std::vector<std::string> parts;
  const auto add = [&](const char* key, const char* format, double factor) {
    if (cost.contains(key)) {
      parts.push_back(fmt::format(fmt::runtime(format), cost[key]["to"].get<double>() * factor,
                                  cost[key]["from"].get<double>() * factor));
    }
  };
  add("accuracy", "{:.1f} % right instead of {:.1f} %", 100);
  add("perplexity", "perplexity {:.4f} instead of {:.4f}", 1);
  add("max_over_mean", "hottest expert {:.2f} x even instead of {:.2f}", 1);
  add("tokens_per_second", "{:.0f} tokens/s instead of {:.0f}", 1);
  if (!parts.empty()) out += fmt::format(": {}", fmt::join(parts, ", "));
  return out;
}

std::string table_of(const json& summary) {
  std::string out = summary["cells"].empty() ? "" : cells_table(summary["cells"]);
  for (const json& cell : summary["cells"]) {
    if (!cell["own_router"].get<bool>())
      out += fmt::format("\n* {}: {}\n", cell["cell"].get<std::string>(), cost_text(cell));
  }
  out += groups_text(summary["groups"]);
  if (!summary["left_out"].empty())
    out += fmt::format("\nleft out, since they are not there: {}\n",
                       fmt::join(summary["left_out"].get<std::vector<std::string>>(), ", "));
  for (const json& f : summary["failed"])
    out += fmt::format("\nfailed: {}: {}\n", f["cell"].get<std::string>(), f["error"].get<std::string>());
  if (!summary["missing"].empty())
    out += fmt::format("\nnot measured yet: {}\n", fmt::join(summary["missing"].get<std::vector<std::string>>(), ", "));
  return out;
}

}  // namespace patchbay
