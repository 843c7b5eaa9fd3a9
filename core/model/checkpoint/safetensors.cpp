#include "core/model/checkpoint/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_set>

#include "core/model/checkpoint/json_scanner.hpp"

namespace patchbay {
namespace {

constexpr std::array<SafetensorsDtype, 22> kDtypes = {{
    {"F32", "f32", 32},
    {"BF16", "bf16", 16},
    {"F16", "f16", 16},
    {"F8_E4M3", "f8_e4m3", 8},
    {"U8", "u8", 8},
    {"I8", "i8", 8},
    {"I32", "i32", 32},
    {"I64", "i64", 64},
    {"F64", "f64", 64},
    {"BOOL", "bool", 8},
    {"U16", "u16", 16},
    {"I16", "i16", 16},
    {"U32", "u32", 32},
    {"U64", "u64", 64},
    {"C64", "c64", 64},
    {"F8_E5M2", "f8_e5m2", 8},
    {"F8_E8M0", "f8_e8m0", 8},
    {"F8_E4M3FNUZ", "f8_e4m3fnuz", 8},
    {"F8_E5M2FNUZ", "f8_e5m2fnuz", 8},
    {"F6_E2M3", "f6_e2m3", 6},
    {"F6_E3M2", "f6_e3m2", 6},
    {"F4", "f4", 4},
}};

// The shortest entry that declares a tensor: {"dtype":"U8","shape":[],"data_offsets":[0,0]} with its name, colon and
// comma.
constexpr size_t kMinEntryBytes = 50;

class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> file, size_t header_bytes, const MappedFile* mapping, TensorTable* table)
      : file_(file),
        data_(file.subspan(8 + header_bytes)),
        mapping_(mapping),
        table_(table),
        first_(table->tensors().size()),
        scanner_({reinterpret_cast<const char*>(file.data()) + 8, header_bytes}, table->arena()) {}

  moe::Result<SafetensorsMetadata> read() {
    const bool good = scanner_.object([this](std::string_view name) {
      return name == "__metadata__" ? metadata() : tensor(name);
    }) && scanner_.end();
    if (!error_.empty()) return moe::invalid(error_);
    if (!good) return moe::invalid(fmt::format("header: {}", scanner_.error()));
    MOE_TRY(check_layout());
    return std::move(metadata_);
  }

 private:
  struct Fields {
    const SafetensorsDtype* dtype = nullptr;
    std::array<int64_t, kMaxSafetensorsRank> shape{};
    size_t rank = 0;
    bool has_shape = false;
    std::array<uint64_t, 2> offsets{};
    size_t n_offsets = 0;
  };

  bool fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  bool fail(std::string_view name, std::string_view rule) {
    return fail(fmt::format("tensor {}: {}", quoted_name(name), rule));
  }

  bool metadata() {
    if (has_metadata_) return fail("__metadata__: expected once in the header, got it twice");
    has_metadata_ = true;
    std::unordered_set<std::string_view> keys;
    return scanner_.object([&](std::string_view key) {
      std::string_view value;
      if (!keys.insert(key).second)
        return fail(fmt::format("__metadata__: key {}: expected once, got it twice", quoted_name(key)));
      if (keys.size() > kMaxSafetensorsMetadata) {
        return fail(fmt::format("__metadata__: expected at most {} entries, got more", kMaxSafetensorsMetadata));
      }
      if (!scanner_.string(&value))
        return fail(fmt::format("__metadata__: key {}: {}", quoted_name(key), scanner_.error()));
      metadata_.emplace_back(key, value);
      return true;
    });
  }

  bool tensor(std::string_view name) {
    Fields f;
    const bool scanned = scanner_.object([&](std::string_view key) {
      if (key == "dtype") return dtype(name, &f);
      if (key == "shape") return shape(name, &f);
      if (key == "data_offsets") return offsets(name, &f);
      return fail(name, fmt::format("expected dtype, shape and data_offsets, got {}", quoted_name(key)));
    });
    if (!scanned) return error_.empty() ? fail(name, scanner_.error()) : false;
    if (f.dtype == nullptr) return fail(name, "expected a dtype, got none");
    if (!f.has_shape) return fail(name, "expected a shape, got none");
    if (f.n_offsets != 2) return fail(name, fmt::format("data_offsets: expected 2 numbers, got {}", f.n_offsets));
    return check_and_add(name, f);
  }

  bool dtype(std::string_view name, Fields* f) {
    std::string_view value;
    if (f->dtype != nullptr) return fail(name, "dtype: expected once, got it twice");
    if (!scanner_.string(&value)) return false;
    f->dtype = find_safetensors_dtype(value);
    return f->dtype != nullptr ||
           fail(name, fmt::format("dtype: expected one of the format's, got {}", quoted_name(value)));
  }

  bool shape(std::string_view name, Fields* f) {
    if (f->has_shape) return fail(name, "shape: expected once, got it twice");
    f->has_shape = true;
    return scanner_.array([&] {
      uint64_t d = 0;
      if (!scanner_.unsigned_integer(&d)) return fail(name, fmt::format("shape: {}", scanner_.error()));
      if (d > static_cast<uint64_t>(INT64_MAX))
        return fail(name, fmt::format("shape: expected less than 2^63, got {}", d));
      if (f->rank == kMaxSafetensorsRank) {
        return fail(name, fmt::format("shape: expected at most {} dimensions, got more", kMaxSafetensorsRank));
      }
      f->shape[f->rank++] = static_cast<int64_t>(d);
      return true;
    });
  }

  bool offsets(std::string_view name, Fields* f) {
    if (f->n_offsets != 0) return fail(name, "data_offsets: expected once, got it twice");
    return scanner_.array([&] {
      if (f->n_offsets == 2) return fail(name, "data_offsets: expected 2 numbers, got more");
      if (!scanner_.unsigned_integer(&f->offsets[f->n_offsets++])) {
        return fail(name, fmt::format("data_offsets: {}", scanner_.error()));
      }
      return true;
    });
  }

  bool check_and_add(std::string_view name, const Fields& f) {
    const std::span<const int64_t> dims(f.shape.data(), f.rank);
    const auto [begin, end] = f.offsets;
    if (begin > end) return fail(name, fmt::format("data_offsets: expected begin <= end, got [{}, {}]", begin, end));
    if (end > data_.size()) {
      return fail(name, fmt::format("data_offsets: expected within the {} bytes of data, got [{}, {}]", data_.size(),
                                    begin, end));
    }
    const auto bytes = safetensors_bytes(dims, f.dtype->bits);
    if (!bytes) {
      return fail(name, fmt::format("shape: expected a whole number of bytes below 2^60, got {} of {}",
                                    shape_text(dims), f.dtype->name));
    }
    if (*bytes != end - begin) {
      return fail(name, fmt::format("data_offsets: expected {} bytes for {} of {}, got {}", *bytes, shape_text(dims),
                                    f.dtype->name, end - begin));
    }
    if (table_->tensors().size() - first_ == kMaxSafetensorsTensors) {
      return fail(fmt::format("header: expected at most {} tensors, got more", kMaxSafetensorsTensors));
    }
    if (const TensorInfo* twin = table_->add({name, f.dtype->encoding, keep(dims), data_.data() + begin, *bytes})) {
      const bool here = twin >= table_->tensors().data() + first_;
      return fail(name, here ? "expected once in the header, got it twice" : "expected in one shard, got it in two");
    }
    drop_header_pages();
    return true;
  }

  std::span<const int64_t> keep(std::span<const int64_t> dims) {
    if (dims.empty()) return {};
    auto* copy = static_cast<int64_t*>(table_->arena()->allocate(dims.size_bytes(), alignof(int64_t)));
    std::copy(dims.begin(), dims.end(), copy);
    return {copy, dims.size()};
  }

  // What has been read of the header need not stay in memory; names point into it, but are looked at one by one.
  void drop_header_pages() {
    constexpr size_t kStep = size_t{4} << 20;
    if (mapping_ == nullptr || scanner_.offset() < dropped_ + kStep) return;
    mapping_->release(file_.subspan(dropped_, kStep));
    dropped_ += kStep;
  }

  // The tensors cover the data from the first byte to the last, each byte once.
  moe::Status check_layout() const {
    size_t covered = 0;
    const TensorInfo* previous = nullptr;
    MOE_TRY(visit_in_data_order(table_->tensors().subspan(first_), [&](const TensorInfo& tensor) -> moe::Status {
      const auto begin = static_cast<size_t>(tensor.data - data_.data());
      if (begin != covered) {
        const std::string after =
            previous == nullptr ? "the header" : fmt::format("tensor {}", quoted_name(previous->name));
        return moe::invalid(fmt::format("tensor {}: data_offsets: expected to begin at {} where {} ends ({}), got {}",
                                        quoted_name(tensor.name), covered, after,
                                        begin < covered ? "no overlap" : "no hole", begin));
      }
      covered += tensor.bytes;
      previous = &tensor;
      return {};
    }));
    if (covered == data_.size()) return {};
    return moe::invalid(fmt::format("data: expected {} bytes, which the tensors cover, got {}", covered, data_.size()));
  }

  std::span<const std::byte> file_;
  std::span<const std::byte> data_;
  const MappedFile* mapping_;
  TensorTable* table_;
  size_t first_;  // tensors of the table that are not this file's
  JsonScanner scanner_;
  SafetensorsMetadata metadata_;
  bool has_metadata_ = false;
  size_t dropped_ = 0;
  std::string error_;
};

// Little endian, from any alignment.
uint64_t read_u64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  return value;
}

class SafetensorsFile final : public Checkpoint {
 public:
  moe::Status open(const std::filesystem::path& path) {
    MOE_ASSIGN(MappedFile file, MappedFile::open(path));
    files_.push_back(std::move(file));
    const MappedFile& mapped = files_.back();
    table_.reserve(max_safetensors_tensors(mapped.bytes()));
    const auto metadata = read_safetensors(mapped.bytes(), &mapped, &table_);
    if (!metadata.ok()) return metadata.error().in(path.string());
    return {};
  }
};

}  // namespace

const SafetensorsDtype* find_safetensors_dtype(std::string_view name) {
  const auto* at = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return d.name == name; });
  return at == kDtypes.end() ? nullptr : at;
}

const SafetensorsDtype* find_safetensors_encoding(std::string_view encoding) {
  const auto* at = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return d.encoding == encoding; });
  return at == kDtypes.end() ? nullptr : at;
}

std::optional<size_t> safetensors_bytes(std::span<const int64_t> shape, unsigned bits) {
  uint64_t product = bits;
  bool empty = false;
  for (const int64_t d : shape) {
    empty = empty || d == 0;
    if (d != 0 && __builtin_mul_overflow(product, static_cast<uint64_t>(d), &product)) return std::nullopt;
  }
  // Half the range, so that element counts and byte counts fit the signed types too.
  if (product / 2 > static_cast<uint64_t>(INT64_MAX) / 2) return std::nullopt;
  if (empty) return 0;
  if (product % 8 != 0) return std::nullopt;
  return product / 8;
}

size_t max_safetensors_tensors(std::span<const std::byte> file) {
  if (file.size() < 8) return 0;
  const uint64_t header_bytes = std::min<uint64_t>({read_u64(file), file.size() - 8, kMaxSafetensorsHeaderBytes});
  return std::min<size_t>(header_bytes / kMinEntryBytes + 1, kMaxSafetensorsTensors);
}

moe::Result<SafetensorsMetadata> read_safetensors(std::span<const std::byte> file, const MappedFile* mapping,
                                                  TensorTable* table) {
  if (file.size() < 8)
    return moe::invalid(fmt::format("size: expected at least the 8 bytes of the header's length, got {}", file.size()));
  const uint64_t header_bytes = read_u64(file);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return moe::invalid(
        fmt::format("header length: expected at most {} bytes, got {}", kMaxSafetensorsHeaderBytes, header_bytes));
  }
  if (header_bytes > file.size() - 8) {
    return moe::invalid(fmt::format("header length: expected at most the file's other {} bytes, got {}",
                                    file.size() - 8, header_bytes));
  }
  if (header_bytes == 0 || file[8] != std::byte{'{'})
    return moe::invalid("header: expected to begin with '{', got something else");
  return HeaderReader(file, header_bytes, mapping, table).read();
}

moe::Result<std::unique_ptr<Checkpoint>> open_safetensors_file(const std::filesystem::path& path) {
  auto file = std::make_unique<SafetensorsFile>();
  MOE_TRY(file->open(path));
  return std::unique_ptr<Checkpoint>(std::move(file));
}

}  // namespace patchbay
