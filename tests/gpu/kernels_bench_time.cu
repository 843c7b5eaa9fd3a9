// Timings of kernels_bench: launches one after the other in a graph, over weights that the cache does not hold.
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/ffn_stage.hpp"
#include "kernels/single.hpp"
#include "kernels_bench.hpp"

namespace moe::cuda::bench {
namespace {

constexpr double kColdBytes = 800e6;  // of weights that are read in turn

// Every thread sums 16-byte words: the most that reading can give.
__global__ void read_kernel(const uint4* data, int64_t n, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  for (; i + 7 * step < n; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int u = 0; u < 8; ++u) v[u] = data[i + u * step];
#pragma unroll
    for (int u = 0; u < 8; ++u) sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  for (; i < n; i += step) sum += data[i].x;
  if (sum == 0x12345678U) *out = sum;
}

void time_matvec_case(Report& report, Format format, int32_t activation, int64_t n_out, int64_t n_in, int64_t n,
                      bool pdl, bool norm = false, bool deterministic = false) {
  const std::string name = std::string("matvec ") + name_of(format) + " x " + name_of_activation(activation) + " [" +
                           std::to_string(n_out) + ", " + std::to_string(n_in) + "] n " + std::to_string(n) +
                           (pdl ? " pdl" : "") + (norm ? " norm" : "") + (deterministic ? " det" : "");
  if (!report.wants(name)) return;
  const DeviceWeight probe = random_weight(format, 1, 1, n_in, 1);
  const double bytes = probe.row_bytes_with_scales() * static_cast<double>(n_out);
  const int sets = std::max(2, static_cast<int>(kColdBytes / bytes));
  const DeviceWeight all = random_weight(format, sets, n_out, n_in, 3);
  Buffer<float> x(n * n_in);
  Buffer<float> out(n * n_out);
  fill_uniform(x.data(), x.size(), 5);
  Buffer<float> norm_weight(n_in);
  fill_uniform(norm_weight.data(), n_in, 6);
  const auto view = [&](int i) {
    WeightView w = all.view;
    w.data = static_cast<const char*>(w.data) + i * n_out * row_bytes(w);
    if (format == Format::kI8 || format == Format::kI4)
      w.scales = static_cast<const uint16_t*>(w.scales) + i * n_out * (w.row / kQuantScale);
    if (format == Format::kF8) {
      w.scales = static_cast<const float*>(w.scales) + i * f8_blocks(n_out) * f8_blocks(n_in);
    }
    w.n_groups = 1;
    return w;
  };
  Buffer<char> workspace(n * probe.view.row * 4);
  const double us = time_us(sets, [&](cudaStream_t stream, int i) {
    MatvecParams p{};
    p.w = view(i), p.n = n, p.activation = activation, p.scale = 1.0F, p.pdl = pdl, p.single = !deterministic;
    p.x = x.data(), p.x_row = n_in, p.out = out.data(), p.out_row = n_out, p.workspace = workspace.data();
    if (norm) p.norm_weight = norm_weight.data(), p.norm_eps = 1e-5F;
    MUST(launch_matvec(p, stream));
  });
  report.timed(name, us, bytes, 2.0 * static_cast<double>(n * n_out * n_in));
}

struct Model {
  const char* name;
  int64_t d_model, width, experts, k;
};
constexpr Model kOlmoe{"OLMoE", 2048, 1024, 64, 8};
constexpr Model kQwen3{"Qwen3-30B", 2048, 768, 128, 8};
constexpr Model kDeepSeek{"DeepSeek-V2-Lite", 2048, 1408, 64, 6};
constexpr Model kMixtral{"Mixtral", 4096, 14336, 8, 2};
constexpr Model kShared{"shared expert", 2048, 2816, 1, 0};
constexpr Model kWide[] = {{"width 1536", 2048, 1536, 64, 8},
                           {"width 2048", 2048, 2048, 64, 8},
                           {"width 2816", 2048, 2816, 64, 8},
                           {"width 4096", 2048, 4096, 64, 8},
                           {"Qwen3-235B", 4096, 1536, 64, 8}};

// k different experts for each of n tokens: `spread` 0 in turn, otherwise with probability ~ 1 / rank^spread.
std::vector<int32_t> make_ids(const Model& m, int64_t n, double spread, uint64_t seed) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<std::pair<double, int32_t>> score;
    for (int32_t e = 0; e < m.experts; ++e) {
      if (spread == 0) {
        score.emplace_back(
            static_cast<double>(
                (e - static_cast<int64_t>(seed + static_cast<uint64_t>(i)) * m.k % m.experts + m.experts) % m.experts),
            e);
      } else {  // Gumbel's trick: the k largest of log p + noise
        const double u = (uniform(seed, static_cast<uint64_t>(i * m.experts + e)) + 1.0000001) / 2.0000002;
        const auto rank =
            static_cast<double>(hash(77, static_cast<uint64_t>(e)) % static_cast<uint64_t>(m.experts) + 1);
        score.emplace_back(spread * std::log(rank) + std::log(-std::log(u)), e);
      }
    }
    std::sort(score.begin(), score.end());
    for (int64_t j = 0; j < m.k; ++j) ids.push_back(score[static_cast<size_t>(j)].second);
  }
  return ids;
}

struct Run {
  Format format;
  int32_t activation;
  int64_t n;
  double spread;
  bool pdl, deterministic;
  bool stages = false;  // the two launches one by one, too
};

void time_ffn_case(Report& report, const Model& m, const Run& r) {
  const std::string name = std::string(m.name) + " " + name_of(r.format) + " x " + name_of_activation(r.activation) +
                           " n " + std::to_string(r.n) +
                           (r.spread == 0    ? ""
                            : r.spread < 0.5 ? " random"
                                             : " zipf") +
                           (r.pdl ? " pdl" : "") + (r.deterministic ? " det" : "");
  if (!report.wants(name)) return;
  const int sets = m.k == 0 ? 24 : 1;  // different weights in turn; routed experts change by themselves
  const DeviceWeight gate = random_weight(r.format, m.experts * sets, m.width, m.d_model, 1);
  const DeviceWeight up = random_weight(r.format, m.experts * sets, m.width, m.d_model, 2);
  const DeviceWeight down = random_weight(r.format, m.experts * sets, m.d_model, m.width, 3);
  const int launches = r.n <= 8 ? 24 : 4;
  const int64_t k = std::max<int64_t>(m.k, 1);
  std::vector<Buffer<int32_t>> ids;
  double distinct = 0;
  for (int i = 0; i < launches; ++i) {
    const std::vector<int32_t> chosen =
        m.k == 0 ? std::vector<int32_t>(1, 0) : make_ids(m, r.n, r.spread, static_cast<uint64_t>(i * r.n));
    distinct += static_cast<double>(std::set<int32_t>(chosen.begin(), chosen.end()).size()) / launches;
    ids.emplace_back(chosen);
  }
  Buffer<float> x(r.n * m.d_model);
  Buffer<float> weights(r.n * k);
  Buffer<float> out(r.n * m.d_model);
  fill_uniform(x.data(), x.size(), 5);
  fill_uniform(weights.data(), weights.size(), 6);
  fill_uniform(out.data(), out.size(), 7);
  FfnParams p{};
  p.gate = gate.view, p.up = up.view, p.down = down.view;
  p.gate.n_groups = p.up.n_groups = p.down.n_groups = m.experts;
  p.x = x.data(), p.x_row = m.d_model, p.out = out.data(), p.out_row = m.d_model;
  p.n = r.n, p.k = k;
  p.weights = weights.data(), p.weights_row = k, p.ids_row = k;
  p.gating = {MOE_ACT_SILU, 0, 0, 0}, p.activation = r.activation, p.weight_on = MOE_WEIGHT_ON_OUTPUT;
  p.scale = 1e-3F, p.accumulate = true, p.pdl = r.pdl, p.deterministic = r.deterministic, p.single = !r.deterministic;
  Buffer<char> workspace(static_cast<int64_t>(ffn_workspace(p)));
  p.workspace = workspace.data();
  const Hidden hidden{reinterpret_cast<float*>(p.workspace), p.down.row};
  const auto of_launch = [&](int i) {
    FfnParams one = p;
    if (m.k > 0) {
      one.ids = ids[static_cast<size_t>(i)].data();
    } else {
      const int64_t at = i % sets;
      one.gate.data = static_cast<const char*>(p.gate.data) + at * m.width * row_bytes(p.gate);
      one.up.data = static_cast<const char*>(p.up.data) + at * m.width * row_bytes(p.up);
      one.down.data = static_cast<const char*>(p.down.data) + at * m.d_model * row_bytes(p.down);
    }
    return one;
  };
  const double us = time_us(launches, [&](cudaStream_t stream, int i) { MUST(launch_ffn(of_launch(i), stream)); });
  const double bytes = distinct * (2.0 * static_cast<double>(m.width) * gate.row_bytes_with_scales() +
                                   static_cast<double>(m.d_model) * down.row_bytes_with_scales());
  report.timed(name, us, bytes, 6.0 * static_cast<double>(r.n * k * m.d_model * m.width));
  if (!r.stages) return;
  const double up_us = time_us(launches, [&](cudaStream_t stream, int i) {
    MUST((single_fits(p) ? launch_single_up : launch_ffn_up)(of_launch(i), hidden, stream));
  });
  report.timed(name + ": up", up_us, bytes * 2 / 3, 0);
  const double down_us = time_us(launches, [&](cudaStream_t stream, int i) {
    MUST((single_fits(p) ? launch_single_down : launch_ffn_down)(of_launch(i), hidden, stream));
  });
  report.timed(name + ": down", down_us, bytes / 3, 0);
}

}  // namespace

void time_memory(Report& report) {
  const int64_t bytes = int64_t{4} << 30;
  Buffer<char> memory(bytes);
  fill_uniform(reinterpret_cast<float*>(memory.data()), bytes / 4, 1);
  Buffer<uint32_t> out(1);
  const double us = time_us(2, [&](cudaStream_t stream, int) {
    read_kernel<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<const uint4*>(memory.data()), bytes / 16, out.data());
    MUST(cudaGetLastError());
  });
  report.read_gbps = static_cast<double>(bytes) / us * 1e-3;
  report.timed("read 4 GiB", us, static_cast<double>(bytes), 0);
}

void time_matvec(Report& report) {
  time_matvec_case(report, Format::kBF16, MOE_BF16, 6144, 2048, 1, true);
  for (const bool deterministic : {false, true}) {
    time_matvec_case(report, Format::kBF16, MOE_BF16, 6144, 2048, 1, true, true, deterministic);
    time_matvec_case(report, Format::kBF16, MOE_BF16, 2048, 2048, 1, true, false, deterministic);
    time_matvec_case(report, Format::kBF16, MOE_BF16, 50304, 2048, 1, true, false, deterministic);
  }
  time_matvec_case(report, Format::kBF16, MOE_BF16, 64, 2048, 1, true);
  for (const bool deterministic : {false, true})
    time_matvec_case(report, Format::kF32, MOE_F32, 64, 2048, 1, true, true, deterministic);
  for (const int64_t n : {4, 8, 16, 32}) time_matvec_case(report, Format::kBF16, MOE_BF16, 6144, 2048, n, true);
  time_matvec_case(report, Format::kBF16, MOE_BF16, 2048, 2048, 32, true);
  time_matvec_case(report, Format::kBF16, MOE_F32, 6144, 2048, 1, true);
  time_matvec_case(report, Format::kF32, MOE_F32, 6144, 2048, 1, true);
  time_matvec_case(report, Format::kI8, MOE_I8, 6144, 2048, 1, true);
  time_matvec_case(report, Format::kI8, MOE_I8, 50304, 2048, 1, true);
  time_matvec_case(report, Format::kI4, MOE_I8, 6144, 2048, 1, true);
  time_matvec_case(report, Format::kI4, MOE_I8, 50304, 2048, 1, true);
  for (const Format format : {Format::kI8, Format::kI4}) {
    time_matvec_case(report, format, MOE_I8, 2048, 4096, 1, true);
    time_matvec_case(report, format, MOE_I8, 4096, 8192, 1, true);
  }
  time_matvec_case(report, Format::kF8, MOE_BF16, 6144, 2048, 1, true);
}

void time_ffn(Report& report) {
  for (const bool deterministic : {false, true})
    time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_BF16, 1, 0, true, deterministic, true});
  time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_F32, 1, 0, true, false});
  time_ffn_case(report, kOlmoe, {Format::kI8, MOE_I8, 1, 0, true, false, true});
  time_ffn_case(report, kOlmoe, {Format::kI4, MOE_I8, 1, 0, true, false, true});
  time_ffn_case(report, kOlmoe, {Format::kF8, MOE_BF16, 1, 0, true, false});
  time_ffn_case(report, kQwen3, {Format::kBF16, MOE_BF16, 1, 0, true, false});
  time_ffn_case(report, kDeepSeek, {Format::kBF16, MOE_BF16, 1, 0, true, false});
  time_ffn_case(report, kShared, {Format::kBF16, MOE_BF16, 1, 0, true, false});
  for (const Format format : {Format::kI8, Format::kI4}) {
    for (const Model& m : kWide) time_ffn_case(report, m, {format, MOE_I8, 1, 0, true, false, true});
    time_ffn_case(report, kMixtral, {format, MOE_I8, 1, 0, true, false, true});
  }
  time_ffn_case(report, kMixtral, {Format::kBF16, MOE_BF16, 1, 0, true, false});
  for (const int64_t n : {4, 8, 32, 64})
    time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_BF16, n, 0.01, true, false, true});
  time_ffn_case(report, kOlmoe, {Format::kI8, MOE_I8, 32, 0.01, true, false});
  time_ffn_case(report, kOlmoe, {Format::kI4, MOE_I8, 32, 0.01, true, false});
  for (const int64_t n : {8, 32}) time_ffn_case(report, kOlmoe, {Format::kF8, MOE_BF16, n, 0.01, true, false});
  for (const double spread : {0.0, 0.01, 1.0})
    time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_BF16, 2048, spread, true, false});
  time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_BF16, 2048, 0, true, true});
  time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_F32, 2048, 0, true, false});
  time_ffn_case(report, kOlmoe, {Format::kI8, MOE_I8, 2048, 0, true, false});
  time_ffn_case(report, kOlmoe, {Format::kI4, MOE_I8, 2048, 0, true, false});
  time_ffn_case(report, kOlmoe, {Format::kF8, MOE_BF16, 2048, 0, true, false});
  time_ffn_case(report, kOlmoe, {Format::kBF16, MOE_BF16, 8192, 0, true, false});
  time_ffn_case(report, kQwen3, {Format::kBF16, MOE_BF16, 2048, 0, true, false});
  time_ffn_case(report, kDeepSeek, {Format::kBF16, MOE_BF16, 2048, 0, true, false});
  time_ffn_case(report, kMixtral, {Format::kBF16, MOE_BF16, 2048, 0, true, false});
}

}  // namespace moe::cuda::bench
