#include "core/experiment/results.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/model/json/json.hpp"

namespace patchbay {
namespace {

constexpr size_t kMaxResultsBytes = size_t{1} << 30;

moe::Error could_not(const std::filesystem::path& file, const char* what) {
  return {MOE_UNAVAILABLE, fmt::format("{}: could not be {}: {}", file.string(), what, std::strerror(errno))};
}

moe::Result<nlohmann::json> read_line(std::string_view line) {
  MOE_ASSIGN(nlohmann::json doc, parse_json(line));
  if (!doc.is_object() || !doc.contains("key") || !doc["key"].is_string() || !doc.contains("cell") ||
      !doc["cell"].is_string()) {
    return moe::invalid("expected a result of `patchbay experiment`, got something else");
  }
  return doc;
}

}  // namespace

moe::Result<ResultsFile> ResultsFile::open(std::filesystem::path file) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return could_not(file, "opened");
  close(fd);
  MOE_ASSIGN(const std::string text, read_file(file, kMaxResultsBytes));
  ResultsFile out(std::move(file));
  size_t begin = 0;
  for (int64_t n_line = 1;; ++n_line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    auto doc = read_line(std::string_view(text).substr(begin, end - begin));
    if (!doc.ok()) return doc.error().in(fmt::format("{}: line {}", out.file_.string(), n_line));
    const std::string key = (*doc)["key"];
    if (doc->contains("error")) {
      out.by_key_.erase(key);
    } else {
      out.by_key_[key] = std::move(*doc);
    }
    begin = end + 1;
  }
  if (begin < text.size() && truncate(out.file_.c_str(), static_cast<off_t>(begin)) != 0)
    return could_not(out.file_, "cut");
  return out;
}

const nlohmann::json* ResultsFile::find(const std::string& key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : &it->second;
}

moe::Status ResultsFile::add(const nlohmann::json& result) {
  // A text may end within a character where its tokens did.
  const std::string line = result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const int fd = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0) return could_not(file_, "opened");
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()) && fsync(fd) == 0;
  const moe::Status status = written ? moe::Status() : moe::Status(could_not(file_, "written"));
  close(fd);
  if (written && !result.contains("error")) by_key_[result["key"]] = result;
  return status;
}

}  // namespace patchbay
