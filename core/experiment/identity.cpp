#include "core/experiment/identity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "core/engine/packed_cache.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kWhole = uint64_t{16} << 20;
constexpr uint64_t kEnd = uint64_t{4} << 20;

bool add_range(Sha256& hash, std::ifstream& in, uint64_t begin, uint64_t n) {
  std::string buffer(1 << 20, '\0');
  in.seekg(static_cast<std::streamoff>(begin));
  for (; n > 0;) {
    const auto some = std::min<uint64_t>(n, buffer.size());
    if (!in.read(buffer.data(), static_cast<std::streamsize>(some))) return false;
    hash.add(std::string_view(buffer).substr(0, some));
    n -= some;
  }
  return true;
}

moe::Status add_file(Sha256& hash, const fs::path& path, const std::string& name) {
  std::error_code ec;
  const uint64_t size = fs::file_size(path, ec);
  std::ifstream in(path, std::ios::binary);
  hash.add(fmt::format("{}\n{}\n", name, size));
  const bool good = !ec && in &&
                    (size <= kWhole ? add_range(hash, in, 0, size)
                                    : add_range(hash, in, 0, kEnd) && add_range(hash, in, size - kEnd, kEnd));
  if (!good) return moe::Error{MOE_UNAVAILABLE, fmt::format("{}: could not be read", path.string())};
  return {};
}

}  // namespace

moe::Result<std::string> identity_of(const fs::path& model) {
  Sha256 hash;
  std::error_code ec;
  if (!fs::is_directory(model, ec)) {
    MOE_TRY(add_file(hash, model, ""));
    return hash.hex();
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(model, ec)) {
    // A cache of packed weights says nothing new.
    if (entry.is_regular_file(ec) && entry.path().extension() != kPackedCacheEnding) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) MOE_TRY(add_file(hash, file, file.filename().string()));
  return hash.hex();
}

std::string key_of(const Experiment& experiment, const Cell& cell, const nlohmann::json& files) {
  nlohmann::json config = json_of(cell.config);
  config["model"].erase("path");
  nlohmann::json doc = {{"config", config}, {"files", files}};
  if (cell.accuracy) {
    const AccuracyMeasure& m = *experiment.accuracy;
    doc["accuracy"] = {m.limit, m.max_tokens, m.samples, m.greedy};
  }
  if (cell.text) {
    const TextMeasure& m = *experiment.text;
    doc["text"] = {m.separator, m.after, m.window, m.tokens, m.baseline};
    if (m.baseline.empty()) doc["text"].push_back(cell.reference.has_value());
  }
  if (cell.speed)
    doc["speed"] = {experiment.speed->prompt_tokens, experiment.speed->decode_tokens, experiment.speed->rounds};
  return sha256_of_text(doc.dump()).substr(0, 32);
}

}  // namespace patchbay
