#include "tools/patchbay/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace patchbay {
namespace {

// From cold to hot; the middle is an even load.
constexpr int kColours[] = {234, 236, 17, 18, 19, 20, 26, 32, 38, 44, 50, 84, 118, 190, 226, 214, 208, 202, 196};
constexpr const char* kShades[] = {"·", "░", "▒", "▓", "█"};

std::string cell(double load, bool colour) {  // load: 1 is an even share
  constexpr double kHottest = 3;
  const double t = std::min(load / kHottest, 1.0);
  if (!colour) return kShades[load <= 0 ? 0 : std::min<size_t>(4, 1 + static_cast<size_t>(t * 4))];
  return fmt::format("\033[48;5;{}m \033[0m", kColours[static_cast<size_t>(t * (std::size(kColours) - 1))]);
}

}  // namespace

std::vector<HeatRow> heat_rows(const Model& model, const std::vector<std::vector<uint64_t>>& expert_tokens) {
  std::vector<HeatRow> rows;
  for (size_t l = 0; l < model.layers().size(); ++l) {
    const LayerInfo& info = model.layers()[l];
    if (info.dense || rows.size() >= expert_tokens.size()) continue;
    rows.push_back({static_cast<int64_t>(l), info.router, info.k, expert_tokens[rows.size()]});
  }
  return rows;
}

std::string heat_map(const std::vector<HeatRow>& rows, bool colour) {
  if (rows.empty()) return "";
  constexpr size_t kWidest = 128;  // wider layers are drawn with several experts a cell
  std::string out = "expert load, layers by experts";
  out += colour ? " (dark: none, green: even, red: 3 times even or more)\n"
                : " (· none, ░ little, ▒ even, █ 3 times even)\n";
  for (const HeatRow& row : rows) {
    const auto& counts = row.tokens;
    const double total = std::max(1.0, std::accumulate(counts.begin(), counts.end(), 0.0));
    const auto load = [&](double sum, size_t n) {  // of n experts, 1 is an even share
      return sum / total * static_cast<double>(counts.size()) / static_cast<double>(n);
    };
    const size_t per_cell = (counts.size() + kWidest - 1) / kWidest;
    std::string cells;
    double hottest = 0;
    for (size_t e = 0; e < counts.size(); e += per_cell) {
      const size_t n = std::min(per_cell, counts.size() - e);
      const auto from = counts.begin() + static_cast<std::ptrdiff_t>(e);
      cells += cell(load(std::accumulate(from, from + static_cast<std::ptrdiff_t>(n), 0.0), n), colour);
    }
    for (const uint64_t c : counts) hottest = std::max(hottest, load(static_cast<double>(c), 1));
    out += fmt::format("  layer {:>3}  {}  {} k={}, hottest {:.1f} x even\n", row.layer, cells, row.router, row.k, hottest);
  }
  return out;
}

DecodeSpeed decode_speed(const Model& model, int64_t n_tokens, double seconds, double bandwidth) {
  DecodeSpeed speed;
  if (n_tokens <= 0 || seconds <= 0) return speed;
  speed.tokens_per_s = static_cast<double>(n_tokens) / seconds;
  speed.bytes_per_s = speed.tokens_per_s * static_cast<double>(model.bytes().read_per_token);
  if (bandwidth > 0) speed.share = speed.bytes_per_s / bandwidth;
  return speed;
}

}  // namespace patchbay
