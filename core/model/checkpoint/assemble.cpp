#include "core/model/checkpoint/assemble.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

namespace patchbay {
namespace {

moe::Error wrong(const TensorInfo& tensor, std::string_view rule) {
  return moe::invalid(fmt::format("tensor {}: {}", quoted_name(tensor.name), rule));
}

moe::Result<const moe::Encoding*> codec_of(const TensorInfo& tensor) {
  const moe::Encoding* encoding = moe::find_encoding(tensor.encoding);
  if (encoding != nullptr) return encoding;
  return moe::unimplemented(fmt::format("tensor {}: expected an encoding that has a codec, got \"{}\"",
                                        quoted_name(tensor.name), tensor.encoding));
}

int64_t divide_up(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

void TensorSource::set_shape(std::span<const int64_t> shape) {
  rank_ = shape.size();
  std::copy(shape.begin(), shape.end(), shape_.begin());
  int64_t stride = 1;
  for (size_t d = rank_; d-- > 0;) {
    strides_[d] = stride;
    stride *= std::max<int64_t>(shape_[d], 1);
  }
  if (rank_ >= 1) stored_[1] = shape_[rank_ - 1];
  if (rank_ >= 2) stored_[0] = shape_[rank_ - 2];
}

moe::Result<TensorSource> TensorSource::plain(const TensorInfo& data) {
  TensorSource source(Kind::kPlain, data, nullptr);
  MOE_ASSIGN(source.encoding_, codec_of(data));
  if (data.shape.size() > kMaxRank)
    return wrong(data, fmt::format("expected at most {} dimensions, got more", kMaxRank));
  source.block_elements_ = source.encoding_->block_elements;
  source.set_shape(data.shape);
  return source;
}

moe::Result<TensorSource> TensorSource::block_scaled(const TensorInfo& data, const TensorInfo& scales,
                                                     int64_t block_rows, int64_t block_cols) {
  MOE_ASSIGN(TensorSource source, plain(data));
  if (block_rows <= 0 || block_cols <= 0) {
    return wrong(data, fmt::format("expected blocks of at least one element, got {} x {}", block_rows, block_cols));
  }
  MOE_ASSIGN(source.scale_encoding_, codec_of(scales));
  if (source.scale_encoding_->block_elements != 1)
    return wrong(scales, "expected scales of a plain type, got a quantised one");
  const size_t rank = data.shape.size();
  if (rank < 2)
    return wrong(data,
                 fmt::format("expected at least 2 dimensions for scales of blocks, got {}", shape_text(data.shape)));
  std::vector<int64_t> want(data.shape.begin(), data.shape.end());
  want[rank - 2] = divide_up(want[rank - 2], block_rows);
  want[rank - 1] = divide_up(want[rank - 1], block_cols);
  if (!std::equal(want.begin(), want.end(), scales.shape.begin(), scales.shape.end())) {
    return wrong(scales,
                 fmt::format("expected shape {}, one scale for {} x {} elements of {}, got {}", shape_text(want),
                             block_rows, block_cols, quoted_name(data.name), shape_text(scales.shape)));
  }
  source.kind_ = Kind::kBlockScaled;
  source.companion_ = &scales;
  source.scale_rows_ = block_rows;
  source.scale_cols_ = block_cols;
  return source;
}

moe::Result<TensorSource> TensorSource::mxfp4(const TensorInfo& blocks, const TensorInfo& scales) {
  constexpr int64_t kBlockBytes = 16;
  for (const TensorInfo* tensor : {&blocks, &scales}) {
    if (tensor->encoding != "u8")
      return wrong(*tensor, fmt::format("expected u8 for MXFP4, got \"{}\"", tensor->encoding));
  }
  const auto shape = blocks.shape;
  if (shape.size() < 2 || shape.size() > kMaxRank + 1 || shape.back() != kBlockBytes) {
    return wrong(blocks,
                 fmt::format("expected shape [.., n, {}] of MXFP4 blocks, got {}", kBlockBytes, shape_text(shape)));
  }
  const auto outer = shape.first(shape.size() - 1);
  if (!std::equal(outer.begin(), outer.end(), scales.shape.begin(), scales.shape.end())) {
    return wrong(scales, fmt::format("expected shape {}, one scale for a block of {}, got {}", shape_text(outer),
                                     quoted_name(blocks.name), shape_text(scales.shape)));
  }
  TensorSource source(Kind::kMxfp4, blocks, &scales);
  source.block_elements_ = 32;
  std::vector<int64_t> elements(outer.begin(), outer.end());
  elements.back() *= source.block_elements_;
  source.set_shape(elements);
  return source;
}

moe::Result<TensorSource> TensorSource::select(int64_t index) const {
  if (rank_ == 0 || index < 0 || index >= shape_[0]) {
    return wrong(*data_, fmt::format("expected an index into dimension 0 of {}, got {}", shape_text(shape()), index));
  }
  TensorSource view = *this;
  view.offset_ += index * strides_[0];
  view.rank_ = rank_ - 1;
  std::copy(shape_.begin() + 1, shape_.end(), view.shape_.begin());
  std::copy(strides_.begin() + 1, strides_.end(), view.strides_.begin());
  return view;
}

moe::Result<TensorSource> TensorSource::slice(size_t dim, int64_t begin, int64_t count, int64_t step) const {
  const int64_t n = dim < rank_ ? shape_[dim] : 0;
  // Element begin + (count - 1) * step is the last one; said without a product that could wrap.
  const bool inside = dim < rank_ && begin >= 0 && count >= 0 && step > 0 && begin <= n &&
                      (count == 0 || (begin < n && count - 1 <= (n - 1 - begin) / step));
  if (!inside) {
    return wrong(*data_,
                 fmt::format("expected a slice within dimension {} of {}, got {} elements from {} in steps of {}", dim,
                             shape_text(shape()), count, begin, step));
  }
  TensorSource view = *this;
  view.offset_ += count == 0 ? 0 : begin * strides_[dim];
  view.shape_[dim] = count;
  if (count > 1) view.strides_[dim] *= step;  // count > 1 bounds the step by the dimension
  return view;
}

moe::Result<TensorSource> TensorSource::as_row() const {
  if (rank_ != 1) return wrong(*data_, fmt::format("expected 1 dimension for a row, got {}", shape_text(shape())));
  TensorSource view = *this;
  view.rank_ = 2;
  view.shape_[0] = 1;
  view.shape_[1] = shape_[0];
  view.strides_[0] = strides_[0] * std::max<int64_t>(shape_[0], 1);
  view.strides_[1] = strides_[0];
  return view;
}

moe::Result<TensorSource> TensorSource::transposed() const {
  if (rank_ < 2)
    return wrong(*data_, fmt::format("expected at least 2 dimensions to transpose, got {}", shape_text(shape())));
  TensorSource view = *this;
  std::swap(view.shape_[rank_ - 1], view.shape_[rank_ - 2]);
  std::swap(view.strides_[rank_ - 1], view.strides_[rank_ - 2]);
  return view;
}

void TensorSource::decode_blocks(int64_t first, int64_t n, float* out) const {
  if (kind_ == Kind::kMxfp4) {
    const auto* blocks = reinterpret_cast<const uint8_t*>(data_->data);
    const auto* scales = reinterpret_cast<const uint8_t*>(companion_->data);
    return moe::decode_mxfp4(blocks + first * 16, scales + first, static_cast<size_t>(n), out);
  }
  encoding_->decode_blocks(data_->data + first * encoding_->block_bytes, static_cast<size_t>(n), out);
}

// Stored elements [first, first + n), without block scales.
void TensorSource::decode_unscaled(int64_t first, int64_t n, float* out) const {
  const int64_t size = block_elements_;
  if (size == 1) return decode_blocks(first, n, out);
  float block[256];
  while (n > 0) {
    const int64_t skip = first % size;
    if (skip == 0 && n >= size) {
      const int64_t whole = n / size;
      decode_blocks(first / size, whole, out);
      first += whole * size;
      out += whole * size;
      n -= whole * size;
      continue;
    }
    const int64_t take = std::min(n, size - skip);
    decode_blocks(first / size, 1, block);
    std::memcpy(out, block + skip, static_cast<size_t>(take) * sizeof(float));
    first += take;
    out += take;
    n -= take;
  }
}

// The scale of a stored element, its row counted over all matrices of the tensor.
float TensorSource::scale_of(int64_t row, int64_t col) const {
  const auto [rows, cols] = stored_;
  const int64_t down = row / rows * divide_up(rows, scale_rows_) + row % rows / scale_rows_;
  const int64_t at = down * divide_up(cols, scale_cols_) + col / scale_cols_;
  float scale = 0;
  scale_encoding_->decode(companion_->data + at * scale_encoding_->block_bytes, &scale);
  return scale;
}

// Stored elements [first, first + n).
void TensorSource::decode_run(int64_t first, int64_t n, float* out) const {
  decode_unscaled(first, n, out);
  if (kind_ != Kind::kBlockScaled) return;
  const int64_t cols = stored_[1];
  while (n > 0) {
    const int64_t col = first % cols;
    const int64_t take = std::min({n, cols - col, scale_cols_ - col % scale_cols_});
    const float scale = scale_of(first / cols, col);
    for (int64_t i = 0; i < take; ++i) out[i] *= scale;
    first += take;
    out += take;
    n -= take;
  }
}

// The elements of one axis, from stored element `first` on.
void TensorSource::read_axis(const Axis& axis, int64_t first, float* out) const {
  constexpr int64_t kBuffer = 1024;
  constexpr int64_t kDense = 16;  // up to this stride it is cheaper to decode what lies between, too
  if (axis.stride == 1 && axis.out_stride == 1) return decode_run(first, axis.n, out);
  float buffer[kBuffer];
  const bool dense = axis.stride >= 1 && axis.stride <= kDense;
  const int64_t at_once = dense ? (kBuffer - 1) / axis.stride + 1 : 1;
  for (int64_t i = 0; i < axis.n; i += at_once) {
    const int64_t n = std::min(at_once, axis.n - i);
    decode_run(first + i * axis.stride, (n - 1) * axis.stride + 1, buffer);
    for (int64_t j = 0; j < n; ++j) out[(i + j) * axis.out_stride] = buffer[j * axis.stride];
  }
}

// Two axes of which `inner` lies closer together in memory and `across` in the output: tile by tile, so that both sides
// are touched a cache line at a time, and the next runs are asked for in advance. [5760, 2880] bf16 stored transposed,
// 64 rows at once, by the thread's own clock: 0.8 G elements/s; axis by axis 0.3.
void TensorSource::read_transposed(const Axis& inner, const Axis& across, int64_t first, float* out) const {
  constexpr int64_t kTile = 64;
  constexpr int64_t kAhead = 16;
  float tile[kTile * kTile];
  const auto* data = reinterpret_cast<const char*>(data_->data);
  const int64_t bits = static_cast<int64_t>(data_->bytes) * 8 / std::max<int64_t>(element_count(data_->shape), 1);
  for (int64_t a = 0; a < across.n; a += kTile) {
    const int64_t n_across = std::min(kTile, across.n - a);
    for (int64_t b = 0; b < inner.n; b += kTile) {
      const Axis part{std::min(kTile, inner.n - b), inner.stride, 1};
      const int64_t at = first + a * across.stride + b * inner.stride;
      const int64_t run_bytes = part.n * part.stride * bits / 8;
      for (int64_t i = 0; i < n_across; ++i) {
        const char* next = data + (at + (i + kAhead) * across.stride) * bits / 8;
        for (int64_t byte = 0; byte < run_bytes; byte += 64) __builtin_prefetch(next + byte);
        read_axis(part, at + i * across.stride, tile + i * kTile);
      }
      for (int64_t j = 0; j < part.n; ++j) {
        float* to = out + (b + j) * inner.out_stride + a * across.out_stride;
        for (int64_t i = 0; i < n_across; ++i) to[i * across.out_stride] = tile[i * kTile + j];
      }
    }
  }
}

// The dimensions of rows [.., n) that have more than one element. Neighbours that lie in memory as they go out are one,
// so that whole matrices are decoded in one call.
std::vector<TensorSource::Axis> TensorSource::axes(int64_t n) const {
  std::vector<Axis> all;
  int64_t out_stride = 1;
  for (size_t d = rank_; d-- > 0;) {
    const Axis axis{d == 0 ? n : shape_[d], strides_[d], out_stride};
    out_stride *= axis.n;
    if (axis.n == 1) continue;
    const bool continues = !all.empty() && axis.stride == all.back().n * all.back().stride &&
                           axis.out_stride == all.back().n * all.back().out_stride;
    if (continues) {
      all.back().n *= axis.n;
    } else {
      all.push_back(axis);
    }
  }
  return all;
}

void TensorSource::read_f32(int64_t row, int64_t n, float* out) const {
  assert(row >= 0 && n >= 0 && n <= n_rows() && row <= n_rows() - n);
  if (n == 0 || row_elements() == 0) return;
  const int64_t first = offset_ + (rank_ == 0 ? 0 : row * strides_[0]);
  std::vector<Axis> outer = axes(n);
  if (outer.empty()) return decode_run(first, 1, out);
  // The innermost loop runs along the axis whose elements lie closest together.
  const auto closest =
      std::min_element(outer.begin(), outer.end(), [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  const Axis inner = *closest;
  outer.erase(closest);
  Axis across;
  if (inner.out_stride != 1 && !outer.empty()) {
    const auto densest = std::min_element(outer.begin(), outer.end(),
                                          [](const Axis& a, const Axis& b) { return a.out_stride < b.out_stride; });
    across = *densest;
    outer.erase(densest);
  }
  std::array<int64_t, kMaxRank> at{};
  while (true) {
    int64_t stored = first;
    int64_t place = 0;
    for (size_t d = 0; d < outer.size(); ++d) {
      stored += at[d] * outer[d].stride;
      place += at[d] * outer[d].out_stride;
    }
    if (across.n > 1) {
      read_transposed(inner, across, stored, out + place);
    } else {
      read_axis(inner, stored, out + place);
    }
    size_t d = 0;
    while (d < outer.size() && ++at[d] == outer[d].n) at[d++] = 0;
    if (d == outer.size()) return;
  }
}

void TensorSource::narrow(int64_t row, int64_t n, uint16_t* out, uint16_t (*convert)(float)) const {
  constexpr int64_t kAtOnce = 4096;
  const int64_t width = row_elements();
  if (width == 0) return;
  const int64_t rows_at_once = std::min(n, kAtOnce / width + 1);
  std::vector<float> values(static_cast<size_t>(rows_at_once * width));
  for (int64_t i = 0; i < n; i += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, n - i);
    read_f32(row + i, rows, values.data());
    for (int64_t j = 0; j < rows * width; ++j) *out++ = convert(values[static_cast<size_t>(j)]);
  }
}

void TensorSource::read_bf16(int64_t row, int64_t n, uint16_t* out) const { narrow(row, n, out, moe::f32_to_bf16); }
void TensorSource::read_f16(int64_t row, int64_t n, uint16_t* out) const { narrow(row, n, out, moe::f32_to_f16); }

std::span<const std::byte> TensorSource::extent() const {
  int64_t between = 1;  // elements from the first to the last
  for (size_t d = 0; d < rank_; ++d) {
    if (shape_[d] == 0) return {};
    between += (shape_[d] - 1) * strides_[d];
  }
  if (between != element_count(shape())) return {};
  const auto block_bytes = kind_ == Kind::kMxfp4 ? int64_t{16} : static_cast<int64_t>(encoding_->block_bytes);
  const int64_t first = offset_ / block_elements_;
  const int64_t last = divide_up(offset_ + between, block_elements_);
  return {data_->data + first * block_bytes, static_cast<size_t>((last - first) * block_bytes)};
}

std::optional<const std::byte*> TensorSource::raw() const {
  if (kind_ != Kind::kPlain) return std::nullopt;
  int64_t stride = 1;
  for (size_t d = rank_; d-- > 0;) {
    if (shape_[d] > 1 && strides_[d] != stride) return std::nullopt;
    stride *= shape_[d];
  }
  const int64_t last = rank_ == 0 ? 1 : shape_[rank_ - 1];
  if (offset_ % block_elements_ != 0 || last % block_elements_ != 0) return std::nullopt;
  const std::byte* at = data_->data + offset_ / block_elements_ * encoding_->block_bytes;
  const bool aligned = block_elements_ > 1 || reinterpret_cast<uintptr_t>(at) % encoding_->block_bytes == 0;
  return aligned ? std::optional(at) : std::nullopt;
}

std::optional<TensorSource::Blocks> TensorSource::blocks() const {
  if (kind_ != Kind::kBlockScaled || block_elements_ != 1 || rank_ != 2) return std::nullopt;
  const auto [rows, cols] = stored_;
  const bool as_stored = (shape_[1] <= 1 || strides_[1] == 1) && (shape_[0] <= 1 || strides_[0] == cols);
  if (!as_stored || cols == 0 || rows == 0) return std::nullopt;
  if (offset_ / cols % rows % scale_rows_ != 0 || offset_ % cols % scale_cols_ != 0) return std::nullopt;
  return Blocks{encoding_->id, scale_rows_, scale_cols_};
}

void TensorSource::read_block_row(int64_t index, std::byte* elements, int64_t stride, float* scales) const {
  assert(blocks().has_value() && index >= 0 && index * scale_rows_ < shape_[0]);
  const int64_t cols = stored_[1];
  const int64_t first = index * scale_rows_;
  const auto bytes = static_cast<int64_t>(encoding_->block_bytes);
  const std::byte* from = data_->data + (offset_ + first * cols) * bytes;
  for (int64_t row = 0; row < std::min(scale_rows_, shape_[0] - first); ++row)
    std::memcpy(elements + row * stride, from + row * cols * bytes, static_cast<size_t>(shape_[1] * bytes));
  for (int64_t col = 0; col < shape_[1]; col += scale_cols_)
    *scales++ = scale_of(offset_ / cols + first, offset_ % cols + col);
}

std::string TensorSource::description() const {
  const std::span<const int64_t> strides(strides_.data(), rank_);
  return fmt::format("{} {} {} [{}] [{}] +{} {} {} {}", data_->name, static_cast<int>(kind_),
                     companion_ == nullptr ? "" : companion_->name, fmt::join(shape(), ","), fmt::join(strides, ","),
                     offset_, scale_rows_, scale_cols_, block_elements_);
}

}  // namespace patchbay
