// Weights and rows for kernels_bench.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/device.cuh"
#include "kernels_bench.hpp"
#include "moe/sdk/loops/common.hpp"
#include "moe/sdk/numeric.hpp"
#include "moe/sdk/quant.hpp"

namespace moe::cuda::bench {
namespace {

__host__ __device__ uint64_t mix(uint64_t seed, uint64_t index) {
  uint64_t v = seed * 0x9E3779B97F4A7C15ULL + index + 0x632BE59BD9B4E019ULL;
  v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9ULL;
  v = (v ^ v >> 27) * 0x94D049BB133111EBULL;
  return v ^ v >> 31;
}
__host__ __device__ float unit(uint64_t seed, uint64_t index) {
  return static_cast<float>(mix(seed, index) >> 40) * (2.0F / 16777216.0F) - 1.0F;
}

struct Layout {
  int64_t data_bytes;
  int64_t scale_bytes;
};
Layout lay_out(WeightView& w, Format format, int64_t n_groups, int64_t n_out, int64_t n_in) {
  w.n_groups = n_groups;
  w.n_out = n_out;
  w.n_in = n_in;
  w.format = format;
  w.row = (n_in + row_group(format) - 1) / row_group(format) * row_group(format);
  return {(n_groups * n_out * row_bytes(w) + 255) / 256 * 256, scale_bytes(w)};
}

// One row into its bytes; `values` becomes what the bytes stand for.
void pack_row(const WeightView& w, float* values, char* row, uint16_t* scales, const float* block_scales) {
  for (int64_t k = 0; k < w.n_in; k += kQuantGroup) {
    const int64_t n = std::min(kQuantGroup, w.n_in - k);
    if (w.format == Format::kI8 || w.format == Format::kI4) {
      const QuantGroup g = w.format == Format::kI8 ? quantize_int8(values + k, n) : quantize_int4(values + k, n);
      scales[k / kQuantGroup] = f32_to_f16(g.scale);
      for (int64_t i = 0; i < kQuantGroup; ++i) {
        auto& byte = reinterpret_cast<uint8_t&>(row[quant_byte(w.format, k + i)]);
        if (w.format == Format::kI8) {
          byte = static_cast<uint8_t>(g.q[i]);
        } else {
          byte = static_cast<uint8_t>(i < 16 ? (byte & 0xF0) | (g.q[i] + 8) : (byte & 0x0F) | (g.q[i] + 8) << 4);
        }
        if (i < n) values[k + i] = g.scale * static_cast<float>(g.q[i]);
      }
      continue;
    }
    for (int64_t i = k; i < k + n; ++i) {
      if (w.format == Format::kF32) {
        std::memcpy(row + i * 4, values + i, 4);
      } else if (w.format == Format::kF8) {
        const uint8_t byte = f32_to_f8_e4m3(values[i]);
        row[i] = static_cast<char>(byte);
        values[i] = f8_e4m3_to_f32(byte) * block_scales[i / kF8Block];
      } else {
        const bool bf16 = w.format == Format::kBF16;
        const uint16_t bits = bf16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
        std::memcpy(row + i * 2, &bits, 2);
        values[i] = bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
      }
    }
  }
}

__global__ void fill_kernel(float* out, int64_t n, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    out[i] = unit(seed, i);
}
// Elements of a format that are finite and of no extreme size.
__global__ void bits_kernel(Format format, char* data, int64_t n_elements, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n_elements;
       i += int64_t{gridDim.x} * blockDim.x) {
    const float v = 0.05F * unit(seed, i);
    if (format == Format::kF32) reinterpret_cast<float*>(data)[i] = v;
    if (format == Format::kF16) reinterpret_cast<uint16_t*>(data)[i] = to_f16_bits(v);
    if (format == Format::kBF16) reinterpret_cast<uint16_t*>(data)[i] = to_bf16_bits(v);
    if (format == Format::kI8 || format == Format::kI4) data[i] = static_cast<char>(mix(seed, i));
    if (format == Format::kF8) data[i] = static_cast<char>(mix(seed, i) & 0xBF);
  }
}
__global__ void f16_kernel(uint16_t* out, int64_t n, uint64_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    out[i] = to_f16_bits(0.001F * (2.0F + unit(seed, i)));
  }
}

}  // namespace

void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

uint64_t hash(uint64_t seed, uint64_t index) { return mix(seed, index); }
float uniform(uint64_t seed, uint64_t index) { return unit(seed, index); }

HostWeight make_weight(Format format, int64_t n_groups, int64_t n_out, int64_t n_in, uint64_t seed) {
  HostWeight w;
  const Layout layout = lay_out(w.view, format, n_groups, n_out, n_in);
  std::vector<char> bytes(static_cast<size_t>(layout.data_bytes + layout.scale_bytes), 0);
  if (format == Format::kI4) std::fill(bytes.begin(), bytes.begin() + layout.data_bytes, static_cast<char>(0x88));
  auto* scales = reinterpret_cast<uint16_t*>(bytes.data() + layout.data_bytes);
  auto* block_scales = reinterpret_cast<float*>(bytes.data() + layout.data_bytes);
  const int64_t blocks = f8_blocks(n_in);
  const int64_t block_rows = f8_blocks(n_out);
  if (format == Format::kF8) {
    for (int64_t i = 0; i < layout.scale_bytes / 4; ++i)
      block_scales[i] = 0.5F + 0.4F * unit(seed + 1, static_cast<uint64_t>(i));
  }
  w.values.resize(static_cast<size_t>(n_groups * n_out * n_in));
  for (size_t i = 0; i < w.values.size(); ++i) w.values[i] = 0.1F * unit(seed, i);
  for (int64_t r = 0; r < n_groups * n_out; ++r) {
    const int64_t block_row = r / n_out * block_rows + r % n_out / kF8Block;
    pack_row(w.view, w.values.data() + r * n_in, bytes.data() + r * row_bytes(w.view),
             scales + r * (w.view.row / kQuantScale),
             format == Format::kF8 ? block_scales + block_row * blocks : nullptr);
  }
  w.memory = Buffer<char>(bytes);
  w.view.data = w.memory.data();
  w.view.scales = w.memory.data() + layout.data_bytes;
  return w;
}

double DeviceWeight::row_bytes_with_scales() const {
  double bytes = static_cast<double>(row_bytes(view));
  if (view.format == Format::kI8 || view.format == Format::kI4) bytes += static_cast<double>(view.row) / 16;
  return bytes;
}

DeviceWeight random_weight(Format format, int64_t n_groups, int64_t n_out, int64_t n_in, uint64_t seed) {
  DeviceWeight w;
  const Layout layout = lay_out(w.view, format, n_groups, n_out, n_in);
  w.memory = Buffer<char>(layout.data_bytes + layout.scale_bytes);
  w.view.data = w.memory.data();
  w.view.scales = w.memory.data() + layout.data_bytes;
  const int64_t elements = n_groups * n_out * (format == Format::kI4 ? w.view.row / 2 : w.view.row);
  bits_kernel<<<1024, 256>>>(format, w.memory.data(), elements, seed);
  if (format == Format::kF8) {
    fill_uniform(reinterpret_cast<float*>(w.memory.data() + layout.data_bytes), layout.scale_bytes / 4, seed + 1);
  } else if (layout.scale_bytes > 0) {
    f16_kernel<<<1024, 256>>>(reinterpret_cast<uint16_t*>(w.memory.data() + layout.data_bytes), layout.scale_bytes / 2,
                              seed + 1);
  }
  MUST(cudaGetLastError());
  return w;
}

void fill_uniform(float* out, int64_t n, uint64_t seed) {
  fill_kernel<<<1024, 256>>>(out, n, seed);
  MUST(cudaGetLastError());
}

const char* name_of(Format format) {
  constexpr const char* kNames[kFormats] = {"f32", "f16", "bf16", "int8", "int4", "fp8"};
  return kNames[static_cast<int>(format)];
}
const char* name_of_activation(int32_t activation) {
  return activation == MOE_F32 ? "f32" : activation == MOE_BF16 ? "bf16" : activation == MOE_F16 ? "f16" : "i8";
}

void round_row(int32_t activation, const float* x, int64_t n, float* out) { loops::round_row(activation, x, n, out); }

void Report::checked(const std::string& name, double error, double limit) {
  ++n_checked_;
  if (error <= limit) return;
  ++n_failed_;
  char line[256];
  std::snprintf(line, sizeof line, "FAILED %-60s error %.3g, limit %.3g", name.c_str(), error, limit);
  lines_.emplace_back(line);
  std::printf("%s\n", line);
}

void Report::timed(const std::string& name, double us, double bytes, double flops) {
  char line[256];
  std::snprintf(line, sizeof line, "%-52s %9.2f us %7.1f GB/s (%3.0f %%) %7.1f TFLOP/s", name.c_str(), us,
                bytes / us * 1e-3, read_gbps > 0 ? bytes / us * 1e-3 / read_gbps * 100 : 0.0, flops / us * 1e-6);
  lines_.emplace_back(line);
}

void Report::print() const {
  for (const std::string& line : lines_) std::printf("%s\n", line.c_str());
  std::printf("%d checks, %d failed\n", n_checked_, n_failed_);
}

}  // namespace moe::cuda::bench
