#include "weight.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>

#include "moe/sdk/numeric.hpp"
#include "moe/sdk/plugin.hpp"
#include "moe/sdk/quant.hpp"
#include "moe/sdk/tensor.hpp"
#include "moe/sdk/weight_format.hpp"

moe_weight::~moe_weight() {
  if (memory != nullptr) cudaFree(memory);
}

namespace moe::cuda {
namespace {

static_assert(std::size(kWeightFormats) == kFormats);
static_assert(moe::kQuantGroup == kQuantScale && moe::kFp8Block == kF8Block);

bool is_integer(Format format) { return format == Format::kI8 || format == Format::kI4; }

// Lays out the weight and gets its memory.
Result<std::unique_ptr<moe_weight>> allocate(const moe_weight_source& source, Format format) {
  const auto shape = [&] {
    return std::to_string(source.n_groups) + " x [" + std::to_string(source.n_out) + ", " +
           std::to_string(source.n_in) + "]";
  };
  constexpr int64_t kLimit = int64_t{1} << 40;
  for (const int64_t size : {source.n_groups, source.n_out, source.n_in}) {
    if (size < 0 || size > kLimit) return invalid("shape: expected one whose bytes can be counted, got " + shape());
  }
  auto w = std::make_unique<moe_weight>();
  WeightView& v = w->view;
  v.n_groups = source.n_groups;
  v.n_out = source.n_out;
  v.n_in = source.n_in;
  v.format = format;
  v.row = (source.n_in + row_group(format) - 1) / row_group(format) * row_group(format);
  int64_t rows = 0;
  int64_t elements = 0;
  if (__builtin_mul_overflow(v.n_groups, v.n_out, &rows) || __builtin_mul_overflow(rows, v.row, &elements) ||
      elements > (int64_t{1} << 58)) {
    return invalid("shape: expected one whose bytes can be counted, got " + shape());
  }
  constexpr uint64_t kAlignment = 256;
  w->scales_offset = (static_cast<uint64_t>(rows * row_bytes(v)) + kAlignment - 1) / kAlignment * kAlignment;
  w->n_bytes = w->scales_offset + static_cast<uint64_t>(scale_bytes(v));
  w->n_bytes = (w->n_bytes + kAlignment - 1) / kAlignment * kAlignment;  // copies take 16 bytes at a time
  size_t n_free = 0;
  size_t n_total = 0;
  MOE_CUDA_TRY(cudaMemGetInfo(&n_free, &n_total));
  if (w->n_bytes > n_free) {
    return exhausted("prepare: expected " + std::to_string(w->n_bytes) + " bytes for " + shape() + " as " +
                     format_name(format) + ", got " + std::to_string(n_free));
  }
  MOE_CUDA_TRY(cudaMalloc(&w->memory, std::max<uint64_t>(w->n_bytes, 1)));
  v.data = w->memory;
  v.scales = static_cast<char*>(w->memory) + w->scales_offset;
  return w;
}

// Where row i of a part of the weight lies in a buffer: elements first, then scales.
struct Part {
  const WeightView& view;
  char* elements;
  char* scales;
  [[nodiscard]] char* row(int64_t i) const { return elements + i * row_bytes(view); }
  // Of integers.
  [[nodiscard]] uint16_t* row_scales(int64_t i) const {
    return reinterpret_cast<uint16_t*>(scales) + i * (view.row / kQuantGroup);
  }
  // Of row i of blocks of kF8.
  [[nodiscard]] float* block_scales(int64_t i) const {
    return reinterpret_cast<float*>(scales) + i * (view.row / kF8Block);
  }
};

void put_group(const Part& part, int64_t i, int64_t group, float scale, const int8_t* q) {
  part.row_scales(i)[group] = f32_to_f16(scale);
  auto* bytes = reinterpret_cast<uint8_t*>(part.row(i));
  const int64_t first = group * kQuantGroup;
  if (part.view.format == Format::kI8) {
    for (int64_t c = 0; c < kQuantGroup; ++c) bytes[quant_byte(Format::kI8, first + c)] = static_cast<uint8_t>(q[c]);
    return;
  }
  for (int64_t c = 0; c < kQuantGroup / 2; ++c) {
    bytes[quant_byte(Format::kI4, first + c)] = static_cast<uint8_t>((q[c] + 8) | (q[kQuantGroup / 2 + c] + 8) << 4);
  }
}

// Zeros in the groups that n_in does not reach.
void pad_groups(const Part& part, int64_t i) {
  const int8_t zeros[kQuantGroup] = {};
  for (int64_t g = (part.view.n_in + kQuantGroup - 1) / kQuantGroup; g < part.view.row / kQuantGroup; ++g) {
    put_group(part, i, g, 0.0F, zeros);
  }
}

// A row of q8_0 or q4_0 blocks as they are stored: an f16 scale, then 32 or 16 bytes.
void put_blocks(const Part& part, int64_t i, const char* blocks) {
  const int64_t n_bytes = part.view.format == Format::kI8 ? kQuantGroup : kQuantGroup / 2;
  for (int64_t g = 0; g < part.view.n_in / kQuantGroup; ++g, blocks += n_bytes + 2) {
    std::memcpy(part.row_scales(i) + g, blocks, 2);
    for (int64_t c = 0; c < n_bytes; ++c)
      part.row(i)[quant_byte(part.view.format, g * kQuantGroup + c)] = blocks[2 + c];
  }
  pad_groups(part, i);
}

// A row of f32.
void put_row(const Part& part, int64_t i, const float* values) {
  const int64_t n = part.view.n_in;
  char* to = part.row(i);
  switch (part.view.format) {
    case Format::kF32:
      std::memcpy(to, values, static_cast<size_t>(n) * 4);
      std::memset(to + n * 4, 0, static_cast<size_t>(part.view.row - n) * 4);
      return;
    case Format::kF16:
    case Format::kBF16: {
      auto* bits = reinterpret_cast<uint16_t*>(to);
      const bool bf16 = part.view.format == Format::kBF16;
      for (int64_t c = 0; c < n; ++c) bits[c] = bf16 ? f32_to_bf16(values[c]) : f32_to_f16(values[c]);
      std::fill(bits + n, bits + part.view.row, uint16_t{0});
      return;
    }
    default:
      for (int64_t c = 0; c < n; c += kQuantGroup) {
        const int64_t here = std::min(kQuantGroup, n - c);
        const QuantGroup g =
            part.view.format == Format::kI8 ? quantize_int8(values + c, here) : quantize_int4(values + c, here);
        put_group(part, i, c / kQuantGroup, g.scale, g.q);
      }
      pad_groups(part, i);
  }
}

// One weight on its way, in pieces: a row, or a row of blocks where rows share scales (kF8); those of all groups, one
// after the other.
class Packing {
 public:
  Packing(const moe_weight_source& source, const moe_weight& weight, Uploader& uploader)
      : source_(source), w_(weight), view_(weight.view), uploader_(uploader) {
    const std::string_view encoding = source.encoding == nullptr ? "f32" : source.encoding;
    blocks_ = source.n_in % kQuantGroup == 0 && ((view_.format == Format::kI8 && encoding == "q8_0") ||
                                                 (view_.format == Format::kI4 && encoding == "q4_0"));
    as_stored_ = !is_integer(view_.format) && encoding == format_name(view_.format);
    piece_rows_ = view_.format == Format::kF8 ? kF8Block : 1;
    pieces_ = (view_.n_out + piece_rows_ - 1) / piece_rows_;
  }

  Status run() {
    const int64_t n_pieces = view_.n_groups * pieces_;
    const int64_t piece_scales = n_pieces == 0 ? 0 : scale_bytes(view_) / n_pieces;
    const int64_t per_piece = piece_rows_ * row_bytes(view_) + piece_scales;
    if (per_piece > static_cast<int64_t>(Uploader::kSlotBytes)) {
      return invalid("shape: expected " + std::to_string(piece_rows_) + " rows of at most " +
                     std::to_string(Uploader::kSlotBytes) + " bytes, got " + std::to_string(per_piece));
    }
    const int64_t lot =
        std::max<int64_t>(1, static_cast<int64_t>(Uploader::kSlotBytes) / std::max<int64_t>(per_piece, 1));
    for (int64_t first = 0; first < n_pieces; first += lot) {
      const int64_t n = std::min(lot, n_pieces - first);
      MOE_ASSIGN(char* buffer, uploader_.next());
      const int64_t row = first_row(first);
      const int64_t n_bytes = (first_row(first + n) - row) * row_bytes(view_);
      const Part part{view_, buffer, buffer + n_bytes};
      fill(part, first, n);
      auto* to = static_cast<char*>(w_.memory);
      MOE_TRY(uploader_.send(to + row * row_bytes(view_), buffer, static_cast<uint64_t>(n_bytes)));
      MOE_TRY(uploader_.send(to + w_.scales_offset + static_cast<uint64_t>(first * piece_scales), part.scales,
                             static_cast<uint64_t>(n * piece_scales)));
      for (int64_t g = first / pieces_; g < (first + n) / pieces_; ++g) {
        if (source_.done != nullptr) source_.done(source_.context, g);
      }
    }
    return {};
  }

 private:
  // Of a piece, counted over all groups.
  [[nodiscard]] int64_t first_row(int64_t piece) const {
    return piece / pieces_ * view_.n_out + piece % pieces_ * piece_rows_;
  }

  // Pieces [first, first + n) into the part, on the host's threads.
  void fill(const Part& part, int64_t first, int64_t n) {
    struct Job {
      Packing& packing;
      const Part& part;
      int64_t first, n, chunk;
    };
    constexpr int64_t kTaskBytes = 256 << 10;
    const int64_t piece_bytes = std::max<int64_t>(piece_rows_ * row_bytes(view_), 1);
    Job job{*this, part, first, n, std::max<int64_t>(1, kTaskBytes / piece_bytes)};
    const auto run = [](void* context, int64_t task, int32_t) {
      const Job& j = *static_cast<const Job*>(context);
      const int64_t begin = task * j.chunk;
      const int64_t end = std::min(j.n, begin + j.chunk);
      if (j.packing.view_.format == Format::kF8) return j.packing.fill_blocks(j.part, j.first, begin, end);
      // A task's rows may be of two matrices.
      for (int64_t i = begin; i < end;) {
        const int64_t row = (j.first + i) % j.packing.view_.n_out;
        const int64_t here = std::min(end - i, j.packing.view_.n_out - row);
        j.packing.fill_rows(j.part, i, (j.first + i) / j.packing.view_.n_out, row, here);
        i += here;
      }
    };
    const int64_t n_tasks = (n + job.chunk - 1) / job.chunk;
    if (host() != nullptr && n_tasks > 1) {
      host()->parallel_for(host()->self, n_tasks, run, &job);
    } else {
      for (int64_t task = 0; task < n_tasks; ++task) run(&job, task, 0);
    }
  }

  // Rows of blocks [first + begin, first + end) into a part that begins with the first.
  void fill_blocks(const Part& part, int64_t first, int64_t begin, int64_t end) const {
    std::vector<float> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = first_row(first + i) - first_row(first);
      const int64_t index = (first + i) % pieces_;
      read_fp8(source_, (first + i) / pieces_, index, reinterpret_cast<uint8_t*>(part.row(row)), row_bytes(view_),
               part.block_scales(i), scratch);
      for (int64_t r = row; r < row + fp8_rows(source_, index); ++r)
        std::memset(part.row(r) + view_.n_in, 0, static_cast<size_t>(view_.row - view_.n_in));
    }
  }

  void fill_rows(const Part& part, int64_t at, int64_t group, int64_t row, int64_t n) {
    const auto* raw = (blocks_ || as_stored_) && source_.raw != nullptr
                          ? static_cast<const char*>(source_.raw(source_.context, group))
                          : nullptr;
    if (raw == nullptr) {
      std::vector<float> values(static_cast<size_t>(view_.n_in));
      for (int64_t i = 0; i < n; ++i) {
        source_.read_f32(source_.context, group, row + i, 1, values.data());
        put_row(part, at + i, values.data());
      }
      return;
    }
    if (blocks_) {
      const int64_t stored = view_.n_in / kQuantGroup * (view_.format == Format::kI8 ? 34 : 18);
      for (int64_t i = 0; i < n; ++i) put_blocks(part, at + i, raw + (row + i) * stored);
      return;
    }
    const int64_t stored = view_.n_in * element_bits(view_.format) / 8;
    if (view_.row == view_.n_in) {
      std::memcpy(part.row(at), raw + row * stored, static_cast<size_t>(n * stored));
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(part.row(at + i), raw + (row + i) * stored, static_cast<size_t>(stored));
      std::memset(part.row(at + i) + stored, 0, static_cast<size_t>(row_bytes(view_) - stored));
    }
  }

  const moe_weight_source& source_;
  const moe_weight& w_;
  const WeightView& view_;
  Uploader& uploader_;
  bool blocks_ = false;     // stored as blocks of the same integers
  bool as_stored_ = false;  // stored as the same floats
  int64_t piece_rows_ = 1;
  int64_t pieces_ = 0;  // of a matrix
};

}  // namespace

const char* format_name(Format format) { return kWeightFormats[static_cast<int>(format)]; }

Uploader::~Uploader() {
  for (char* slot : slots_) {
    if (slot != nullptr) cudaFreeHost(slot);
  }
  for (cudaEvent_t event : sent_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Status Uploader::open() {
  MOE_CUDA_TRY(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  for (int i = 0; i < kSlots; ++i) {
    MOE_CUDA_TRY(
        cudaHostAlloc(reinterpret_cast<void**>(&slots_[static_cast<size_t>(i)]), kSlotBytes, cudaHostAllocDefault));
    MOE_CUDA_TRY(cudaEventCreateWithFlags(&sent_[static_cast<size_t>(i)], cudaEventDisableTiming));
  }
  return {};
}

Result<char*> Uploader::next() {
  if (stream_ == nullptr) MOE_TRY(open());
  MOE_CUDA_TRY(cudaEventRecord(sent_[static_cast<size_t>(at_)], stream_));
  at_ = (at_ + 1) % kSlots;
  MOE_CUDA_TRY(cudaEventSynchronize(sent_[static_cast<size_t>(at_)]));
  return slots_[static_cast<size_t>(at_)];
}

Status Uploader::send(void* to, const char* from, uint64_t n_bytes) {
  if (n_bytes == 0) return {};
  MOE_CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, stream_));
  return {};
}

Status Uploader::finish() {
  if (stream_ != nullptr) MOE_CUDA_TRY(cudaStreamSynchronize(stream_));
  return {};
}

Result<moe_prepared> prepare_weight(const moe_weight_source& source, Uploader& uploader) {
  MOE_TRY(poisoned());
  MOE_ASSIGN(const int kept, choose_weight_format(source, "cuda"));
  const auto format = static_cast<Format>(kept);
  MOE_ASSIGN(std::unique_ptr<moe_weight> weight, allocate(source, format));
  MOE_TRY(Packing(source, *weight, uploader).run());
  auto prepared = make<moe_prepared>();
  prepared.encoding = format_name(format);
  prepared.n_bytes = weight->n_bytes;
  prepared.owner = prepared.weight = weight.release();
  prepared.release = [](moe_prepared* self) { delete static_cast<moe_weight*>(self->owner); };
  return prepared;
}

namespace {

// Row of a weight on the host as f32.
void decode_row(const moe_weight& w, int64_t index, float* out) {
  const WeightView& v = w.view;
  const char* row = w.on_host.data() + index * row_bytes(v);
  const auto* scales =
      reinterpret_cast<const uint16_t*>(w.on_host.data() + w.scales_offset) + index * (v.row / kQuantGroup);
  WeightView there = v;
  there.scales = w.on_host.data() + w.scales_offset;
  for (int64_t c = 0; c < v.n_in; ++c) {
    const auto* bits = reinterpret_cast<const uint16_t*>(row);
    const int64_t in_group = c % kQuantGroup;
    switch (v.format) {
      case Format::kF32:
        std::memcpy(out + c, row + c * 4, 4);
        break;
      case Format::kF16:
        out[c] = f16_to_f32(bits[c]);
        break;
      case Format::kBF16:
        out[c] = bf16_to_f32(bits[c]);
        break;
      case Format::kI8:
        out[c] =
            f16_to_f32(scales[c / kQuantGroup]) * static_cast<float>(static_cast<int8_t>(row[quant_byte(v.format, c)]));
        break;
      case Format::kF8:
        out[c] =
            fp8_weight(static_cast<uint8_t>(row[c]), f8_scales(there, index / v.n_out, index % v.n_out)[c / kF8Block]);
        break;
      default: {
        const auto byte = static_cast<uint8_t>(row[quant_byte(v.format, c)]);
        out[c] = f16_to_f32(scales[c / kQuantGroup]) * static_cast<float>((in_group < 16 ? byte & 15 : byte >> 4) - 8);
      }
    }
  }
}

}  // namespace

constexpr moe_backend_rows kRowsExtension = [] {
  auto rows = make<moe_backend_rows>();
  rows.shape = [](const moe_weight* weight, int64_t shape[3]) {
    shape[0] = weight->view.n_groups;
    shape[1] = weight->view.n_out;
    shape[2] = weight->view.n_in;
  };
  rows.row = [](const moe_weight* weight, int64_t group, int64_t row, float* scratch) -> const float* {
    std::call_once(weight->copied, [&] {
      weight->on_host.resize(weight->n_bytes);
      // No way to report an error from here: rows that could not be read are NaN.
      if (cudaDeviceSynchronize() != cudaSuccess ||
          cudaMemcpy(weight->on_host.data(), weight->memory, weight->n_bytes, cudaMemcpyDeviceToHost) != cudaSuccess) {
        std::memset(weight->on_host.data(), 0xFF, weight->on_host.size());
      }
    });
    decode_row(*weight, group * weight->view.n_out + row, scratch);
    return scratch;
  };
  return rows;
}();

}  // namespace moe::cuda
