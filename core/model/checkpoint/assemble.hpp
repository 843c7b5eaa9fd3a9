// From stored tensors to the matrices that a model uses: a view of a tensor (slices, a transpose, scales that lie in a
// tensor of their own) that is read as f32 rows. Nothing here knows a model; which tensors go together is the caller's
// business.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/checkpoint/tensor_table.hpp"
#include "moe/sdk/codec.hpp"
#include "moe/sdk/result.hpp"

namespace patchbay {

// A value: cheap to copy, borrows the tensors (and so their checkpoint). Whatever could be wrong is refused when one is
// made, so that reading cannot fail. Const calls are [thread-safe]. Errors are MOE_INVALID_ARGUMENT and name the
// tensor; an encoding without a codec is MOE_UNIMPLEMENTED.
class TensorSource {
 public:
  static constexpr size_t kMaxRank = 8;

  // The tensor as it is stored.
  static moe::Result<TensorSource> plain(const TensorInfo& data);

  // data [.., r, c] times scales [.., ceil(r / block_rows), ceil(c / block_cols)], each for one block of elements: the
  // fp8 weights of DeepSeek-V3, with `<name>_scale_inv` over blocks of 128 x 128. The product is rounded once, to f32.
  static moe::Result<TensorSource> block_scaled(const TensorInfo& data, const TensorInfo& scales,
                                                int64_t block_rows = 128, int64_t block_cols = 128);

  // blocks [.., n / 32, 16] u8 and scales [.., n / 32] u8 as one tensor [.., n]: gpt-oss's `<name>_blocks` and
  // `<name>_scales`.
  static moe::Result<TensorSource> mxfp4(const TensorInfo& blocks, const TensorInfo& scales);

  // Views of this view; each costs nothing until it is read. Dimension 0 is the outermost.
  // x[index]: one matrix of a stack of them.
  [[nodiscard]] moe::Result<TensorSource> select(int64_t index) const;
  // x[.., begin : begin + count * step : step, ..] in dimension `dim`. Halves of a fused tensor, or every other row of
  // one.
  [[nodiscard]] moe::Result<TensorSource> slice(size_t dim, int64_t begin, int64_t count, int64_t step = 1) const;
  // A vector [n] as a matrix of one row, [1, n].
  [[nodiscard]] moe::Result<TensorSource> as_row() const;
  // The last two dimensions exchanged.
  [[nodiscard]] moe::Result<TensorSource> transposed() const;

  // In elements, outermost first; empty for a scalar.
  [[nodiscard]] std::span<const int64_t> shape() const { return {shape_.data(), rank_}; }
  // Size of dimension 0, and the product of the others (both 1 for a scalar).
  [[nodiscard]] int64_t n_rows() const { return rank_ == 0 ? 1 : shape_[0]; }
  [[nodiscard]] int64_t row_elements() const { return rank_ == 0 ? 1 : element_count(shape().subspan(1)); }

  // Rows [row, row + n) as n * row_elements() values, row-major. The range must lie in [0, n_rows()). bf16 and f16 are
  // the f32 values rounded to nearest even, which changes none that is stored as such.
  void read_f32(int64_t row, int64_t n, float* out) const;
  void read_bf16(int64_t row, int64_t n, uint16_t* out) const;
  void read_f16(int64_t row, int64_t n, uint16_t* out) const;

  // All elements, row-major in encoding(), if they are stored like that: contiguous, with no transform and no
  // companion, and aligned for their type. Otherwise none.
  [[nodiscard]] std::optional<const std::byte*> raw() const;

  // How a matrix [r, c] of elements with scales of blocks is stored, if its blocks are those of the tensor, counted
  // from the view's first row and column. Otherwise none.
  struct Blocks {
    std::string_view encoding;  // of the elements
    int64_t rows;
    int64_t cols;
    bool operator==(const Blocks&) const = default;
  };
  [[nodiscard]] std::optional<Blocks> blocks() const;
  // Row `index` of blocks of such a matrix: elements, a row `stride` bytes after the one before, and scales
  // [ceil(c / cols)].
  void read_block_row(int64_t index, std::byte* elements, int64_t stride, float* scales) const;

  // How the elements are stored (for a pair: those of the first tensor).
  [[nodiscard]] std::string_view encoding() const { return data_->encoding; }
  // The bytes of the first tensor that are read, if the view is all of what lies between its first element and its last
  // (a whole tensor, one expert of a stack, a half; not every other row). Empty otherwise.
  [[nodiscard]] std::span<const std::byte> extent() const;
  // What is read of which tensors, as text: two sources of the same text give the same numbers if their checkpoints do.
  [[nodiscard]] std::string description() const;
  // The tensors that are read; the companion is null where there is none.
  [[nodiscard]] const TensorInfo& data() const { return *data_; }
  [[nodiscard]] const TensorInfo* companion() const { return companion_; }

 private:
  enum class Kind { kPlain, kBlockScaled, kMxfp4 };
  // One dimension of the view while it is read.
  struct Axis {
    int64_t n = 1;
    int64_t stride = 0;  // in stored elements
    int64_t out_stride = 0;
  };

  TensorSource(Kind kind, const TensorInfo& data, const TensorInfo* companion)
      : kind_(kind), data_(&data), companion_(companion) {}
  [[nodiscard]] std::vector<Axis> axes(int64_t n) const;
  void set_shape(std::span<const int64_t> shape);
  void decode_blocks(int64_t first, int64_t n, float* out) const;
  void decode_run(int64_t first, int64_t n, float* out) const;
  [[nodiscard]] float scale_of(int64_t row, int64_t col) const;
  void decode_unscaled(int64_t first, int64_t n, float* out) const;
  void read_axis(const Axis& axis, int64_t first, float* out) const;
  void read_transposed(const Axis& inner, const Axis& across, int64_t first, float* out) const;
  void narrow(int64_t row, int64_t n, uint16_t* out, uint16_t (*convert)(float)) const;

  Kind kind_;
  const TensorInfo* data_;
  const TensorInfo* companion_;
  const moe::Encoding* encoding_ = nullptr;        // of data_; null for a pair of MXFP4
  const moe::Encoding* scale_encoding_ = nullptr;  // of companion_, if block-scaled
  int64_t block_elements_ = 1;
  int64_t scale_rows_ = 1;  // elements that one scale covers, down and across
  int64_t scale_cols_ = 1;
  std::array<int64_t, 2> stored_ = {1, 1};  // the last two dimensions of the stored tensor

  size_t rank_ = 0;
  int64_t offset_ = 0;  // element of the stored tensor that the view begins with
  std::array<int64_t, kMaxRank> shape_{};
  std::array<int64_t, kMaxRank> strides_{};  // in stored elements
};

}  // namespace patchbay
