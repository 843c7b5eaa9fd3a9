#include "core/model/checkpoint/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/model/checkpoint/gguf.hpp"
#include "core/model/checkpoint/safetensors.hpp"
#include "core/model/checkpoint/usable_memory.hpp"

namespace patchbay {
namespace {

using Opened = moe::Result<std::unique_ptr<Checkpoint>>;

bool begins_with(std::span<const std::byte> bytes, std::string_view text) {
  return bytes.size() >= text.size() &&
         std::string_view(reinterpret_cast<const char*>(bytes.data()), text.size()) == text;
}

// One kind of file, and what opens it: known by its first bytes, or by the end of its name where those say nothing.
struct FileKind {
  std::string_view ending;
  bool (*recognises)(std::span<const std::byte> start);
  Opened (*open)(const std::filesystem::path& path);
};

// A header's length is below 2^32, so that four zero bytes tell it from text.
bool looks_like_safetensors(std::span<const std::byte> start) {
  return start.size() > 8 && start[8] == std::byte{'{'} &&
         std::all_of(start.begin() + 4, start.begin() + 8, [](std::byte b) { return b == std::byte{0}; });
}
bool looks_like_gguf(std::span<const std::byte> start) { return begins_with(start, "GGUF"); }
Opened open_any_gguf(const std::filesystem::path& path) {
  auto file = open_gguf(path);
  if (!file.ok()) return file.error();
  return std::unique_ptr<Checkpoint>(std::move(*file));
}
bool looks_like_json(std::span<const std::byte> start) { return begins_with(start, "{"); }

constexpr FileKind kFileKinds[] = {
    {".safetensors", looks_like_safetensors, open_safetensors_file},
    {".index.json", looks_like_json, open_safetensors_index},
    {".gguf", looks_like_gguf, open_any_gguf},
};

Opened open_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  const auto start = file->bytes().first(std::min<size_t>(file->bytes().size(), 16));
  const std::string name = path.filename().string();
  for (const FileKind& kind : kFileKinds) {
    if (kind.recognises(start)) return kind.open(path);
  }
  for (const FileKind& kind : kFileKinds) {
    if (name.ends_with(kind.ending)) return kind.open(path);
  }
  return moe::invalid(fmt::format("{}: expected a safetensors or GGUF file, got something else", path.string()));
}

// The files that a directory may hold its weights in, in the order of preference that Hugging Face's loader has.
constexpr std::string_view kDirectoryFiles[] = {"model.safetensors", "model.safetensors.index.json"};

}  // namespace

size_t Checkpoint::file_bytes() const {
  size_t sum = 0;
  for (const MappedFile& file : files_) sum += file.bytes().size();
  return sum;
}

const MappedFile* Checkpoint::holder_of(std::span<const std::byte> part) const {
  const std::less_equal<> not_after;  // pointers into different mappings
  for (const MappedFile& file : files_) {
    const auto all = file.bytes();
    if (not_after(all.data(), part.data()) && not_after(part.data() + part.size(), all.data() + all.size()))
      return &file;
  }
  return nullptr;
}

std::filesystem::path Checkpoint::file_of(const TensorInfo& tensor) const {
  const MappedFile* file = holder_of({tensor.data, tensor.bytes});
  return file == nullptr ? std::filesystem::path() : file->path();
}

void Checkpoint::prefetch(std::span<const std::byte> part) const {
  if (const MappedFile* file = holder_of(part); file != nullptr) file->prefetch(part);
}

void Checkpoint::release(std::span<const std::byte> part) const {
  const MappedFile* file = holder_of(part);
  if (part.empty() || file == nullptr) return;
  static const uint64_t kMemory = usable_memory_bytes();
  file->release(part, file_bytes() > kMemory / 2);
}

Opened open_checkpoint(const std::filesystem::path& path) {
  std::error_code ec;
  if (!std::filesystem::is_directory(path, ec)) return open_file(path);
  for (const std::string_view name : kDirectoryFiles) {
    if (std::filesystem::exists(path / name, ec)) return open_file(path / name);
  }
  return moe::not_found(
      fmt::format("{}: expected {} or {}, got neither", path.string(), kDirectoryFiles[0], kDirectoryFiles[1]));
}

}  // namespace patchbay
