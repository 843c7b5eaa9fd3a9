#include "core/model/checkpoint/gguf.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/model/checkpoint/gguf_types.hpp"

namespace patchbay {
namespace {

constexpr uint64_t kDefaultAlignment = 32;

// Bytes of a value of that type, or of the least that one takes (a string's length); 0 for what is no type.
size_t least_bytes(uint32_t type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

class GgufReader {
 public:
  GgufReader(std::span<const std::byte> file, TensorTable* table)
      : file_(file), table_(table), first_(table->tensors().size()) {}

  moe::Result<GgufMetadata> read() {
    uint64_t n_tensors = 0;
    uint64_t n_metadata = 0;
    MOE_TRY(read_start(&n_tensors, &n_metadata));
    for (uint64_t i = 0; i < n_metadata; ++i) MOE_TRY(read_pair(i));
    MOE_TRY(read_alignment());
    // Only now are the counts held against what is left of the file.
    constexpr uint64_t kLeastDescription = 8 + 1 + 4 + 4 + 8;
    MOE_TRY(check_count("n_tensors", n_tensors, kLeastDescription, kMaxGgufTensors));
    table_->reserve(n_tensors);
    offsets_.reserve(n_tensors);
    for (uint64_t i = 0; i < n_tensors; ++i) MOE_TRY(read_description(i));
    MOE_TRY(place_tensors());
    return std::move(metadata_);
  }

 private:
  [[nodiscard]] uint64_t left() const { return file_.size() - at_; }

  moe::Error cut(std::string_view what, uint64_t bytes) const {
    return moe::invalid(fmt::format("{}: expected {} more bytes at byte {}, got {}", what, bytes, at_, left()));
  }

  template <typename T>
  moe::Status read(std::string_view what, T* out) {
    if (left() < sizeof(T)) return cut(what, sizeof(T));
    std::memcpy(out, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return {};
  }

  moe::Status skip(std::string_view what, uint64_t bytes) {
    if (left() < bytes) return cut(what, bytes);
    at_ += bytes;
    return {};
  }

  moe::Status read_string(std::string_view what, std::string_view* out) {
    uint64_t n = 0;
    MOE_TRY(read(what, &n));
    *out = {reinterpret_cast<const char*>(file_.data()) + at_, std::min(n, left())};
    return skip(what, n);
  }

  moe::Status check_count(std::string_view what, uint64_t n, uint64_t least_bytes_each, uint64_t limit) const {
    if (n > limit) return moe::invalid(fmt::format("{}: expected at most {}, got {}", what, limit, n));
    if (n > left() / least_bytes_each) {
      return moe::invalid(fmt::format("{}: expected at most the {} that fit into the file's last {} bytes, got {}",
                                      what, left() / least_bytes_each, left(), n));
    }
    return {};
  }

  moe::Status read_start(uint64_t* n_tensors, uint64_t* n_metadata) {
    std::array<char, 4> magic{};
    uint32_t version = 0;
    MOE_TRY(read("magic", &magic));
    if (std::string_view(magic.data(), 4) != "GGUF")
      return moe::invalid("magic: expected \"GGUF\", got something else");
    MOE_TRY(read("version", &version));
    if (version != 2 && version != 3) {
      const bool swapped = version != 0 && (version & 0xffffffU) == 0;
      return moe::invalid(
          fmt::format("version: expected 2 or 3, got {}", swapped ? "a big-endian file" : std::to_string(version)));
    }
    MOE_TRY(read("n_tensors", n_tensors));
    MOE_TRY(read("n_metadata", n_metadata));
    constexpr uint64_t kLeastPair = 8 + 1 + 4 + 1;
    return check_count("n_metadata", *n_metadata, kLeastPair, kMaxGgufMetadata);
  }

  moe::Status read_pair(uint64_t i) {
    std::string_view key;
    uint32_t type = 0;
    MOE_TRY(read_string(fmt::format("metadata {}: key", i), &key));
    if (key.empty()) return moe::invalid(fmt::format("metadata {}: expected a key, got an empty one", i));
    const std::string what = fmt::format("metadata {}", quoted_name(key));
    MOE_TRY(read(what, &type));
    const std::byte* value = file_.data() + at_;
    MOE_TRY(check_value(what, type));
    if (!metadata_.emplace(key, decode_gguf_value(static_cast<GgufType>(type), &value)).second) {
      return moe::invalid(what + ": expected once, got it twice");
    }
    return {};
  }

  moe::Status check_value(const std::string& what, uint32_t type) {
    if (least_bytes(type) == 0) return moe::invalid(fmt::format("{}: expected a type below 13, got {}", what, type));
    if (type == static_cast<uint32_t>(GgufType::kArray)) return check_array(what);
    return check_elements(what, type, 1);
  }

  moe::Status check_array(const std::string& what) {
    uint32_t type = 0;
    uint64_t n = 0;
    MOE_TRY(read(what, &type));
    MOE_TRY(read(what, &n));
    if (least_bytes(type) == 0) return moe::invalid(fmt::format("{}: expected a type below 13, got {}", what, type));
    if (type == static_cast<uint32_t>(GgufType::kArray)) {
      return moe::invalid(what + ": expected an array of plain values, got an array of arrays");
    }
    MOE_TRY(check_count(what + ": length", n, least_bytes(type), UINT64_MAX));
    return check_elements(what, type, n);
  }

  // `n` is at most what is left of the file, or 1.
  moe::Status check_elements(const std::string& what, uint32_t type, uint64_t n) {
    if (type == static_cast<uint32_t>(GgufType::kString)) {
      std::string_view ignored;
      for (uint64_t i = 0; i < n; ++i) MOE_TRY(read_string(what, &ignored));
      return {};
    }
    const std::byte* begin = file_.data() + at_;
    MOE_TRY(skip(what, n * least_bytes(type)));
    const bool is_bool = type == static_cast<uint32_t>(GgufType::kBool);
    if (is_bool && std::any_of(begin, begin + n, [](std::byte b) { return b > std::byte{1}; })) {
      return moe::invalid(what + ": expected a bool of 0 or 1, got another");
    }
    return {};
  }

  moe::Status read_alignment() {
    const auto at = metadata_.find("general.alignment");
    if (at == metadata_.end()) return {};
    const auto value = at->second.integer();
    if (at->second.type() != GgufType::kU32 || *value == 0 || (*value & (*value - 1)) != 0) {
      return moe::invalid(fmt::format("metadata \"general.alignment\": expected a power of two as u32, got {}",
                                      value ? std::to_string(*value) : "another type"));
    }
    alignment_ = static_cast<uint64_t>(*value);
    return {};
  }

  moe::Status read_description(uint64_t i) {
    std::string_view name;
    uint32_t n_dims = 0;
    uint32_t type_id = 0;
    uint64_t offset = 0;
    MOE_TRY(read_string(fmt::format("tensor {}: name", i), &name));
    if (name.empty()) return moe::invalid(fmt::format("tensor {}: expected a name, got an empty one", i));
    const std::string what = fmt::format("tensor {}", quoted_name(name));
    MOE_TRY(read(what, &n_dims));
    if (n_dims > kMaxGgufDims)
      return moe::invalid(fmt::format("{}: expected at most {} dimensions, got {}", what, kMaxGgufDims, n_dims));
    std::array<uint64_t, kMaxGgufDims> dims{};
    for (uint32_t d = 0; d < n_dims; ++d) MOE_TRY(read(what, &dims[d]));
    MOE_TRY(read(what, &type_id));
    MOE_TRY(read(what, &offset));
    const GgufTensorType* type = find_gguf_type(type_id);
    if (type == nullptr)
      return moe::invalid(fmt::format("{}: expected one of the format's types, got {}", what, type_id));
    if (offset % alignment_ != 0) {
      return moe::invalid(fmt::format("{}: offset: expected a multiple of {}, got {}", what, alignment_, offset));
    }
    const std::span<const uint64_t> used(dims.data(), n_dims);
    MOE_ASSIGN(const uint64_t bytes, bytes_of(what, used, *type));
    if (const TensorInfo* twin = table_->add({name, type->encoding, keep(used), nullptr, bytes})) {
      const bool here = twin >= table_->tensors().data() + first_;
      return moe::invalid(what + (here ? ": expected once, got it twice" : ": expected in one part, got it in two"));
    }
    offsets_.push_back(offset);
    return {};
  }

  static moe::Result<uint64_t> bytes_of(const std::string& what, std::span<const uint64_t> dims,
                                        const GgufTensorType& type) {
    const uint64_t row = dims.empty() ? 1 : dims[0];
    if (row % type.block_elements != 0) {
      return moe::invalid(fmt::format("{}: expected rows of a multiple of {} elements for {}, got {}", what,
                                      type.block_elements, type.encoding, row));
    }
    // The number of elements and the number of bytes fit 63 bits, also where another dimension is 0.
    uint64_t elements = 1;
    bool wraps = false;
    for (const uint64_t d : dims) wraps = wraps || (d != 0 && __builtin_mul_overflow(elements, d, &elements));
    uint64_t bytes = elements;
    wraps = wraps || __builtin_mul_overflow(elements, uint64_t{type.block_bytes}, &bytes);
    if (wraps || bytes > static_cast<uint64_t>(INT64_MAX)) {
      return moe::invalid(
          fmt::format("{}: expected a size below 2^63, got [{}] of {}", what, fmt::join(dims, ", "), type.encoding));
    }
    const bool empty = std::find(dims.begin(), dims.end(), 0) != dims.end();
    return empty ? 0 : bytes / type.block_elements;
  }

  std::span<const int64_t> keep(std::span<const uint64_t> dims) {
    if (dims.empty()) return {};
    auto* copy = static_cast<int64_t*>(table_->arena()->allocate(dims.size_bytes(), alignof(int64_t)));
    std::reverse_copy(dims.begin(), dims.end(), copy);
    return {copy, dims.size()};
  }

  // Offsets count from the first aligned byte after the descriptions.
  moe::Status place_tensors() {
    const uint64_t start = std::min<uint64_t>((at_ + alignment_ - 1) / alignment_ * alignment_, file_.size());
    const std::span<const std::byte> data = file_.subspan(start);
    const std::span<const TensorInfo> tensors = table_->tensors().subspan(first_);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const uint64_t offset = offsets_[i];
      if (offset > data.size() || tensors[i].bytes > data.size() - offset) {
        return moe::invalid(
            fmt::format("tensor {}: expected {} bytes at offset {} within the {} bytes of data, got fewer",
                        quoted_name(tensors[i].name), tensors[i].bytes, offset, data.size()));
      }
      table_->place(first_ + i, data.data() + offset);
    }
    const std::byte* end = data.data();
    const TensorInfo* previous = nullptr;
    return visit_in_data_order(tensors, [&](const TensorInfo& tensor) -> moe::Status {
      if (tensor.data < end) {
        return moe::invalid(
            fmt::format("tensor {}: expected to begin after tensor {} ends (no overlap), got {} bytes before",
                        quoted_name(tensor.name), quoted_name(previous->name), end - tensor.data));
      }
      end = tensor.data + tensor.bytes;
      previous = &tensor;
      return {};
    });
  }

  std::span<const std::byte> file_;
  TensorTable* table_;
  size_t first_;  // tensors of the table that are not this file's
  uint64_t at_ = 0;
  uint64_t alignment_ = kDefaultAlignment;
  GgufMetadata metadata_;
  std::vector<uint64_t> offsets_;
};

}  // namespace

moe::Result<GgufMetadata> read_gguf(std::span<const std::byte> file, TensorTable* table) {
  return GgufReader(file, table).read();
}

const GgufValue* GgufFile::find_metadata(std::string_view key) const {
  const auto at = metadata_.find(key);
  return at == metadata_.end() ? nullptr : &at->second;
}

moe::Result<GgufMetadata> GgufFile::add(const std::filesystem::path& path) {
  MOE_ASSIGN(MappedFile file, MappedFile::open(path));
  files_.push_back(std::move(file));
  auto metadata = read_gguf(files_.back().bytes(), &table_);
  if (!metadata.ok()) return metadata.error().in(path.string());
  return metadata;
}

moe::Status GgufFile::open(const std::filesystem::path& path) {
  MOE_ASSIGN(metadata_, add(path));
  const GgufValue* count = find_metadata("split.count");
  const int64_t n_parts = count == nullptr ? 1 : count->integer().value_or(0);
  if (n_parts == 1 || n_parts == 0) return {};  // written with 0 by tools that do not split
  metadata_.clear();
  files_.clear();
  table_ = TensorTable();
  return open_parts(path, n_parts);
}

// Part i of n is NAME-<i>-of-<n>.gguf with five digits, counted from 1, and says split.no = i - 1 and split.count = n.
moe::Status GgufFile::open_parts(const std::filesystem::path& path, int64_t n_parts) {
  const std::string name = path.filename().string();
  const std::string ending = fmt::format("-of-{:05}.gguf", n_parts);
  constexpr size_t kNumber = 6;  // "-00001"
  if (n_parts < 0 || !name.ends_with(ending) || name.size() < ending.size() + kNumber) {
    return moe::invalid(fmt::format("{}: expected a name that ends in -00001{} for one part of {}, got another",
                                    path.string(), ending, n_parts));
  }
  const std::string stem = name.substr(0, name.size() - ending.size() - kNumber);
  for (int64_t i = 0; i < n_parts; ++i) {
    const auto part = path.parent_path() / fmt::format("{}-{:05}{}", stem, i + 1, ending);
    MOE_ASSIGN(GgufMetadata metadata, add(part));
    const auto says = [&](std::string_view key, int64_t want) {
      const auto at = metadata.find(key);
      return at != metadata.end() && at->second.integer() == want;
    };
    if (!says("split.no", i) || !says("split.count", n_parts)) {
      return moe::invalid(
          fmt::format("{}: expected split.no = {} and split.count = {}, got others", part.string(), i, n_parts));
    }
    if (i == 0) metadata_ = std::move(metadata);
  }
  const GgufValue* total = find_metadata("split.tensors.count");
  const auto n_tensors = static_cast<int64_t>(tensors().size());
  if (total == nullptr || total->integer() == n_tensors) return {};
  return moe::invalid(
      fmt::format("{}: expected as many tensors as split.tensors.count says, got {}", path.string(), n_tensors));
}

moe::Result<std::unique_ptr<GgufFile>> open_gguf(const std::filesystem::path& path) {
  auto file = std::make_unique<GgufFile>();
  MOE_TRY(file->open(path));
  return file;
}

}  // namespace patchbay
