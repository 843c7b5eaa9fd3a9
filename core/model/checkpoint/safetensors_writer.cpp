#include "core/model/checkpoint/safetensors_writer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/model/checkpoint/safetensors.hpp"
#include "core/model/checkpoint/utf8.hpp"

namespace patchbay {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

moe::Error wrong(const TensorDeclaration& tensor, std::string_view rule) {
  return moe::invalid(fmt::format("tensor {}: {}", quoted_name(tensor.name), rule));
}

moe::Result<uint64_t> checked_bytes(const TensorDeclaration& tensor) {
  const SafetensorsDtype* dtype = find_safetensors_encoding(tensor.encoding);
  if (dtype == nullptr)
    return wrong(tensor, fmt::format("expected an encoding of the format, got \"{}\"", tensor.encoding));
  if (!is_utf8(tensor.name) || tensor.name == "__metadata__")
    return wrong(tensor, "expected a name in UTF-8 other than __metadata__");
  const bool negative = std::any_of(tensor.shape.begin(), tensor.shape.end(), [](int64_t d) { return d < 0; });
  const auto bytes = negative ? std::nullopt : safetensors_bytes(tensor.shape, dtype->bits);
  if (!bytes || tensor.shape.size() > kMaxSafetensorsRank) {
    return wrong(
        tensor,
        fmt::format("shape: expected at most {} dimensions and a whole number of bytes below 2^60, got {} of {}",
                    kMaxSafetensorsRank, shape_text(tensor.shape), dtype->name));
  }
  return *bytes;
}

// Greedily, in the order of the declarations.
std::vector<std::vector<const TensorDeclaration*>> split(const std::vector<TensorDeclaration>& tensors,
                                                         const std::vector<uint64_t>& bytes, uint64_t max_shard_bytes) {
  std::vector<std::vector<const TensorDeclaration*>> shards(1);
  uint64_t filled = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool full = filled > max_shard_bytes || bytes[i] > max_shard_bytes - filled;
    if (full && !shards.back().empty()) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&tensors[i]);
    filled += bytes[i];
  }
  return shards;
}

}  // namespace

moe::Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& directory,
                                                         const std::vector<TensorDeclaration>& tensors,
                                                         const SafetensorsWriterOptions& options) {
  SafetensorsWriter writer;
  MOE_TRY(writer.open_shards(directory, tensors, options));
  return writer;
}

moe::Status SafetensorsWriter::open_shards(const std::filesystem::path& directory,
                                           const std::vector<TensorDeclaration>& tensors,
                                           const SafetensorsWriterOptions& options) {
  for (const auto& [key, value] : options.metadata) {
    if (!is_utf8(key) || !is_utf8(value))
      return moe::invalid(fmt::format("metadata {}: expected UTF-8, got other bytes", quoted_name(key)));
  }
  std::vector<uint64_t> bytes;
  uint64_t total = 0;
  for (const TensorDeclaration& tensor : tensors) {
    MOE_ASSIGN(const uint64_t n, checked_bytes(tensor));
    if (__builtin_add_overflow(total, n, &total)) return wrong(tensor, "expected a total size below 2^64, got more");
    if (!places_.emplace(tensor.name, Place{0, 0, n, 0}).second) return wrong(tensor, "expected once, got it twice");
    bytes.push_back(n);
  }
  const auto shards = split(tensors, bytes, options.max_shard_bytes);
  const auto single = directory / (options.stem + ".safetensors");
  if (shards.size() == 1) return open_shard(single, shards[0], options);
  std::error_code ec;
  if (std::filesystem::exists(single, ec)) {
    return moe::precondition(
        fmt::format("{}: expected no such file beside shards, since loaders prefer it, got one", single.string()));
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", options.stem, i + 1, shards.size());
    MOE_TRY(open_shard(directory / name, shards[i], options));
  }
  return open_index(directory / (options.stem + ".safetensors.index.json"), tensors);
}

moe::Status SafetensorsWriter::open_shard(const std::filesystem::path& path,
                                          std::vector<const TensorDeclaration*> tensors,
                                          const SafetensorsWriterOptions& options) {
  // Wide elements first keeps every tensor aligned for its type, without holes.
  const auto bits = [](const TensorDeclaration* t) { return find_safetensors_encoding(t->encoding)->bits; };
  std::stable_sort(tensors.begin(), tensors.end(), [&](const auto* a, const auto* b) { return bits(a) > bits(b); });
  std::string header = "{\"__metadata__\":{";
  for (const auto& [key, value] : options.metadata) {
    header += fmt::format("{}{}:{}", header.back() == '{' ? "" : ",", json_string(key), json_string(value));
  }
  header += '}';
  uint64_t end = 0;
  for (const TensorDeclaration* tensor : tensors) {
    Place& place = places_.at(tensor->name);
    place.shard = files_.size();
    place.begin = end;
    end += place.bytes;
    header +=
        fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_string(tensor->name),
                    find_safetensors_encoding(tensor->encoding)->name, fmt::join(tensor->shape, ","), place.begin, end);
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > kMaxSafetensorsHeaderBytes || tensors.size() > kMaxSafetensorsTensors) {
    return moe::invalid(fmt::format("{}: expected a header of at most {} bytes, got {} for {} tensors", path.string(),
                                    kMaxSafetensorsHeaderBytes, header.size(), tensors.size()));
  }
  for (const TensorDeclaration* tensor : tensors) places_.at(tensor->name).begin += 8 + header.size();
  MOE_ASSIGN(OutputFile file, OutputFile::create(path, 8 + header.size() + end));
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  MOE_TRY(file.write_at(0, as_bytes(length + header)));
  files_.push_back(std::move(file));
  return {};
}

moe::Status SafetensorsWriter::open_index(const std::filesystem::path& path,
                                          const std::vector<TensorDeclaration>& tensors) {
  uint64_t total = 0;
  std::string map;
  for (const TensorDeclaration& tensor : tensors) {
    const Place& place = places_.at(tensor.name);
    total += place.bytes;
    map += fmt::format("{}\n    {}: {}", map.empty() ? "" : ",", json_string(tensor.name),
                       json_string(files_[place.shard].path().filename().string()));
  }
  const std::string text = fmt::format(
      "{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{{}\n  }}\n}}\n", total, map);
  MOE_ASSIGN(OutputFile file, OutputFile::create(path, text.size()));
  MOE_TRY(file.write_at(0, as_bytes(text)));
  files_.push_back(std::move(file));
  return {};
}

moe::Status SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  if (failed_) return moe::precondition("checkpoint: expected no write after an error, got one");
  failed_ = true;
  const auto at = places_.find(std::string(name));
  if (at == places_.end())
    return moe::invalid(fmt::format("tensor {}: expected one that was declared, got another", quoted_name(name)));
  Place& place = at->second;
  if (bytes.size() > place.bytes - place.written) {
    return moe::invalid(fmt::format("tensor {}: expected {} bytes, got more", quoted_name(name), place.bytes));
  }
  MOE_TRY(files_[place.shard].write_at(place.begin + place.written, bytes));
  place.written += bytes.size();
  failed_ = false;
  return {};
}

moe::Status SafetensorsWriter::finish() {
  if (failed_) return moe::precondition("checkpoint: expected no error before the end, got one");
  failed_ = true;  // also: nothing can be written any more
  for (const auto& [name, place] : places_) {
    if (place.written == place.bytes) continue;
    return moe::precondition(
        fmt::format("tensor {}: expected {} bytes, got {}", quoted_name(name), place.bytes, place.written));
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    const auto status = files_[i].commit();
    if (status.ok()) continue;
    for (size_t j = 0; j < i; ++j) files_[j].withdraw();
    return status;
  }
  return {};
}

std::vector<std::string> SafetensorsWriter::file_names() const {
  std::vector<std::string> names;
  for (const OutputFile& file : files_) names.push_back(file.path().filename().string());
  return names;
}

}  // namespace patchbay
