// model.safetensors.index.json: {"metadata": {...}, "weight_map": {"<tensor>": "<shard's file name>", ...}}.
#include <fmt/format.h>

#include <map>

#include "core/model/checkpoint/json_scanner.hpp"
#include "core/model/checkpoint/safetensors.hpp"

namespace patchbay {
namespace {

constexpr size_t kMaxShards = 16384;

struct Index {
  struct Entry {
    std::string_view tensor;
    uint32_t shard = 0;
  };
  std::vector<Entry> entries;
  std::vector<std::string_view> shards;  // file names, in the order in which they first appear
};

// A shard is a file beside the index: nothing that could lead elsewhere.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

class IndexReader {
 public:
  IndexReader(std::string_view text, std::pmr::memory_resource* arena) : scanner_(text, arena) {}

  moe::Result<Index> read() {
    const bool good = scanner_.object([this](std::string_view key) {
      if (key != "weight_map") return scanner_.skip_value();
      if (has_map_) return fail("weight_map: expected once, got it twice");
      has_map_ = true;
      return scanner_.object([this](std::string_view tensor) { return entry(tensor); });
    }) && scanner_.end();
    if (!error_.empty()) return moe::invalid(error_);
    if (!good) return moe::invalid(scanner_.error());
    if (!has_map_) return moe::invalid("weight_map: expected a map from tensors to shards, got none");
    return std::move(index_);
  }

 private:
  bool fail(std::string message) {
    error_ = std::move(message);
    return false;
  }

  bool entry(std::string_view tensor) {
    std::string_view shard;
    if (!scanner_.string(&shard)) return false;
    if (index_.entries.size() == kMaxSafetensorsTensors) {
      return fail(fmt::format("weight_map: expected at most {} tensors, got more", kMaxSafetensorsTensors));
    }
    auto at = number_of_.find(shard);
    if (at == number_of_.end()) {
      if (!is_plain_file_name(shard)) {
        return fail(fmt::format("weight_map: tensor {}: expected the name of a file beside the index, got {}",
                                quoted_name(tensor), quoted_name(shard)));
      }
      if (index_.shards.size() == kMaxShards)
        return fail(fmt::format("weight_map: expected at most {} shards, got more", kMaxShards));
      at = number_of_.emplace(shard, static_cast<uint32_t>(index_.shards.size())).first;
      index_.shards.push_back(shard);
    }
    index_.entries.push_back({tensor, at->second});
    return true;
  }

  JsonScanner scanner_;
  Index index_;
  std::map<std::string_view, uint32_t> number_of_;
  bool has_map_ = false;
  std::string error_;
};

class ShardedSafetensors final : public Checkpoint {
 public:
  moe::Status open(const std::filesystem::path& path) {
    MOE_ASSIGN(const MappedFile index_file, MappedFile::open(path));
    const auto text = index_file.bytes();
    if (text.size() > kMaxSafetensorsHeaderBytes) {
      return moe::invalid(fmt::format("{}: size: expected at most {} bytes, got {}", path.string(),
                                      kMaxSafetensorsHeaderBytes, text.size()));
    }
    auto index = IndexReader({reinterpret_cast<const char*>(text.data()), text.size()}, table_.arena()).read();
    if (!index.ok()) return index.error().in(path.string());
    MOE_TRY(open_shards(path, *index));
    if (const auto status = check_entries(*index); !status.ok()) return status.error().in(path.string());
    return {};
  }

 private:
  moe::Status open_shards(const std::filesystem::path& index_path, const Index& index) {
    size_t most = 0;
    for (const std::string_view name : index.shards) {
      auto file = MappedFile::open(index_path.parent_path() / name);
      if (!file.ok()) return file.error().in(fmt::format("{}: shard {}", index_path.string(), quoted_name(name)));
      most += max_safetensors_tensors(file->bytes());
      files_.push_back(std::move(*file));
    }
    table_.reserve(most);
    for (const MappedFile& file : files_) {
      first_.push_back(table_.tensors().size());
      const auto metadata = read_safetensors(file.bytes(), &file, &table_);
      if (!metadata.ok()) return metadata.error().in(file.path().string());
    }
    first_.push_back(table_.tensors().size());
    return {};
  }

  // Every tensor that the index names is named once and lies in the shard that it names.
  moe::Status check_entries(const Index& index) const {
    std::vector<bool> seen(table_.tensors().size());
    for (const Index::Entry& entry : index.entries) {
      const TensorInfo* tensor = find(entry.tensor);
      const auto at = tensor == nullptr ? SIZE_MAX : static_cast<size_t>(tensor - table_.tensors().data());
      if (at < first_[entry.shard] || at >= first_[entry.shard + 1]) {
        return moe::invalid(fmt::format("weight_map: tensor {}: expected in shard {}, got {}",
                                        quoted_name(entry.tensor), quoted_name(index.shards[entry.shard]),
                                        tensor == nullptr ? "none" : "it in another"));
      }
      if (seen[at])
        return moe::invalid(
            fmt::format("weight_map: tensor {}: expected once, got it twice", quoted_name(entry.tensor)));
      seen[at] = true;
    }
    return {};
  }

  std::vector<size_t> first_;  // by shard: its first tensor in the table; then the number of all
};

}  // namespace

moe::Result<std::unique_ptr<Checkpoint>> open_safetensors_index(const std::filesystem::path& path) {
  auto sharded = std::make_unique<ShardedSafetensors>();
  MOE_TRY(sharded->open(path));
  return std::unique_ptr<Checkpoint>(std::move(sharded));
}

}  // namespace patchbay
