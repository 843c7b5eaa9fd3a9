#include "core/model/files/model_files.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/model/files/formats.hpp"

namespace patchbay {
namespace {

namespace fs = std::filesystem;

// The .gguf files of a folder, of a split one its first part alone.
std::vector<fs::path> gguf_files_in(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code ec;
  for (fs::directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
    const std::string name = it->path().filename().string();
    const size_t of = name.rfind("-of-");
    const bool later_part = of != std::string::npos && of >= 6 && name.compare(of - 6, 6, "-00001") != 0;
    if (it->path().extension() == ".gguf" && !later_part) out.push_back(it->path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

moe::Result<std::unique_ptr<ModelFiles>> open_directory(const fs::path& path) {
  std::error_code ec;
  if (fs::exists(path / "config.json", ec)) return open_hugging_face_files(path);
  const auto found = gguf_files_in(path);
  if (found.empty()) return open_hugging_face_files(path);
  if (found.size() == 1) return open_gguf_files(found.front());
  std::vector<std::string> names;
  for (const auto& file : found) names.push_back(file.filename().string());
  return moe::invalid(
      fmt::format("{}: expected one model, got {}: name one of these files", path.string(), fmt::join(names, ", ")));
}

}  // namespace

moe::Result<std::unique_ptr<ModelFiles>> ModelFiles::open(const fs::path& path) {
  std::error_code ec;
  if (!fs::exists(path, ec))
    return moe::not_found(fmt::format("{}: expected a model's directory or a .gguf file, got nothing", path.string()));
  return fs::is_directory(path, ec) ? open_directory(path) : open_gguf_files(path);
}

}  // namespace patchbay
