// Checks of kernels_bench: every kernel against sums in double.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <thread>

#include "kernels_bench.hpp"
#include "moe/sdk/loops/rows.hpp"

namespace moe::cuda::bench {
namespace {

template <typename F>
void in_parallel(int64_t n, F&& f) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (int64_t at = next++; at < n; at = next++) f(at);
    });
  }
  for (std::thread& t : threads) t.join();
}

// ||got - want|| / ||want|| of the worst row.
double worst_row(const std::vector<float>& got, const std::vector<double>& want, int64_t width) {
  double worst = 0;
  for (size_t r = 0; r < want.size(); r += static_cast<size_t>(width)) {
    double difference = 0;
    double size = 0;
    for (size_t i = r; i < r + static_cast<size_t>(width); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
    const double error = std::sqrt(difference / std::max(size, 1e-300));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

std::vector<float> random_rows(int64_t n, uint64_t seed) {
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = uniform(seed, i) * (1.0F + static_cast<float>(hash(seed + 9, i / 32) % 7));
  return out;
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += static_cast<double>(a[k]) * b[k];
  return sum;
}

struct Shape {
  int64_t n, groups, n_out, n_in;
  int64_t gap;  // floats between rows of x
  bool norm = false;
};

void check_matvec_case(Report& report, Format format, int32_t activation, const Shape& s, bool deterministic = true) {
  const std::string name = std::string("matvec ") + name_of(format) + " x " + name_of_activation(activation) + " n " +
                           std::to_string(s.n) + " g " + std::to_string(s.groups) + " [" + std::to_string(s.n_out) +
                           ", " + std::to_string(s.n_in) + "]" + (s.norm ? " norm" : "") +
                           (deterministic ? "" : " fast");
  if (!report.wants(name)) return;
  const HostWeight w = make_weight(format, s.groups, s.n_out, s.n_in, 7);
  const int64_t x_row = s.groups * s.n_in + s.gap;
  const std::vector<float> x = random_rows(s.n * x_row, 11);
  const std::vector<float> bias = random_rows(s.groups * s.n_out, 12);
  const int64_t out_row = s.groups * s.n_out;
  const std::vector<float> before = random_rows(s.n * out_row, 13);
  const Buffer<float> x_device(x);
  const Buffer<float> bias_device(bias);
  Buffer<float> out(before);
  MatvecParams p{};
  p.w = w.view, p.n = s.n, p.activation = activation;
  p.x = x_device.data(), p.x_row = x_row, p.x_group = s.n_in;
  p.bias = bias_device.data(), p.out = out.data(), p.out_row = out_row, p.out_group = s.n_out;
  p.scale = 0.75F, p.soft_cap = 30.0F, p.accumulate = true, p.single = !deterministic, p.pdl = !deterministic;
  const std::vector<float> norm = random_rows(s.n_in, 14);
  const Buffer<float> norm_device(norm);
  Buffer<float> normed(s.n * s.n_in);
  normed.poison();
  if (s.norm) p.norm_weight = norm_device.data(), p.norm_eps = 1e-5F, p.normed = normed.data(), p.normed_row = s.n_in;
  const Buffer<char> workspace(static_cast<int64_t>(matvec_workspace(p)));
  p.workspace = workspace.data();
  MUST(launch_matvec(p, nullptr));
  MUST(cudaDeviceSynchronize());
  const std::vector<float> got = out.read();
  std::vector<double> want(got.size());
  std::vector<double> want_normed(static_cast<size_t>(s.n * s.n_in));
  in_parallel(s.n * s.groups, [&](int64_t task) {
    const int64_t i = task / s.groups;
    const int64_t g = task % s.groups;
    std::vector<float> row(static_cast<size_t>(s.n_in));
    const float* from = x.data() + i * x_row + g * s.n_in;
    const double factor = s.norm ? 1.0 / std::sqrt(dot(from, from, s.n_in) / static_cast<double>(s.n_in) + 1e-5) : 1.0;
    for (int64_t k = 0; k < s.n_in; ++k) {
      const auto at = static_cast<size_t>(k);
      row[at] = static_cast<float>(factor * from[k] * (s.norm ? norm[at] : 1.0F));
      if (s.norm) want_normed[static_cast<size_t>(i) * norm.size() + at] = row[at];
    }
    round_row(activation, row.data(), s.n_in, row.data());
    for (int64_t o = 0; o < s.n_out; ++o) {
      double y = dot(w.values.data() + (g * s.n_out + o) * s.n_in, row.data(), s.n_in) +
                 bias[static_cast<size_t>(g * s.n_out + o)];
      const auto at = static_cast<size_t>(i * out_row + g * s.n_out + o);
      y = y * 0.75 + before[at];
      want[at] = 30.0 * std::tanh(y / 30.0);
    }
  });
  // Normalised rows may round to the other side of a tie.
  report.checked(name, worst_row(got, want, out_row), s.norm && activation != MOE_F32 ? 1e-3 : 3e-6);
  if (s.norm) report.checked(name + ", normed", worst_row(normed.read(), want_normed, s.n_in), 1e-6);
  if (!deterministic) return;
  // A row alone gives the same bits as in company.
  Buffer<float> alone(before);
  for (int64_t i = 0; i < s.n; ++i) {
    MatvecParams one = p;
    one.x += i * x_row;
    one.out = alone.data() + i * out_row;
    one.n = 1;
    if (s.norm) one.normed += i * s.n_in;
    MUST(launch_matvec(one, nullptr));
  }
  report.checked(name + ", alone", alone.read() == got ? 0 : 1, 0);
}

struct FfnCase {
  int64_t n, k, experts, d_model, width;
  int32_t gating_kind;
  bool ungated, biases, on_input, counted, skewed;
};

struct FfnData {
  HostWeight gate, up, down;
  std::vector<float> gate_bias, up_bias, down_bias, x, weights, row_gate, before;
  std::vector<int32_t> ids, count;
};

FfnData make_ffn(Format format, Format down, const FfnCase& c) {
  FfnData d;
  d.gate = make_weight(format, c.experts, c.width, c.d_model, 21);
  if (!c.ungated) d.up = make_weight(format, c.experts, c.width, c.d_model, 22);
  d.down = make_weight(down, c.experts, c.d_model, c.width, 23);
  d.gate_bias = random_rows(c.experts * c.width, 24);
  d.up_bias = random_rows(c.experts * c.width, 25);
  d.down_bias = random_rows(c.experts * c.d_model, 26);
  d.x = random_rows(c.n * c.d_model, 27);
  const int64_t k = std::max<int64_t>(c.k, 1);
  d.weights = random_rows(c.n * k, 28);
  d.row_gate = random_rows(c.n, 29);
  d.before = random_rows(c.n * c.d_model, 30);
  // Different experts for a token; one in seven ids is none of these experts'.
  for (int64_t i = 0; i < c.n; ++i) {
    const uint64_t first = c.skewed ? hash(31, static_cast<uint64_t>(i)) % 2 : hash(31, static_cast<uint64_t>(i));
    for (int64_t j = 0; j < k; ++j) {
      const auto e = static_cast<int32_t>((first + static_cast<uint64_t>(j)) % static_cast<uint64_t>(c.experts));
      d.ids.push_back(hash(32, static_cast<uint64_t>(i * k + j)) % 7 == 0 ? 1000 : e + 3);
    }
    d.count.push_back(static_cast<int32_t>(hash(33, static_cast<uint64_t>(i)) % static_cast<uint64_t>(k + 1)));
  }
  return d;
}

std::vector<double> want_ffn(const FfnData& d, const FfnCase& c, int32_t activation, const moe_gating& gating) {
  std::vector<double> want(d.before.begin(), d.before.end());
  const int64_t k = std::max<int64_t>(c.k, 1);
  in_parallel(c.n, [&](int64_t i) {
    std::vector<float> x(static_cast<size_t>(c.d_model));
    std::vector<float> h(static_cast<size_t>(c.width));
    std::vector<double> y(static_cast<size_t>(c.d_model), 0.0);
    for (int64_t j = 0; j < (c.k > 0 && c.counted ? d.count[static_cast<size_t>(i)] : k); ++j) {
      const int64_t e = c.k > 0 ? d.ids[static_cast<size_t>(i * k + j)] - 3 : 0;
      if (e < 0 || e >= c.experts) continue;
      const double w = c.k > 0 ? d.weights[static_cast<size_t>(i * k + j)] : 1.0;
      for (int64_t a = 0; a < c.d_model; ++a) {
        x[static_cast<size_t>(a)] =
            (c.on_input ? static_cast<float>(w) : 1.0F) * d.x[static_cast<size_t>(i * c.d_model + a)];
      }
      round_row(activation, x.data(), c.d_model, x.data());
      for (int64_t o = 0; o < c.width; ++o) {
        const int64_t r = e * c.width + o;
        double g = dot(d.gate.values.data() + r * c.d_model, x.data(), c.d_model);
        double u = c.ungated ? 0.0 : dot(d.up.values.data() + r * c.d_model, x.data(), c.d_model);
        if (c.biases) g += d.gate_bias[static_cast<size_t>(r)];
        if (c.biases) u += d.up_bias[static_cast<size_t>(r)];
        h[static_cast<size_t>(o)] = loops::gated(gating, g, u);
      }
      round_row(activation, h.data(), c.width, h.data());
      for (int64_t o = 0; o < c.d_model; ++o) {
        double v = dot(d.down.values.data() + (e * c.d_model + o) * c.width, h.data(), c.width);
        if (c.biases) v += d.down_bias[static_cast<size_t>(e * c.d_model + o)];
        y[static_cast<size_t>(o)] += (c.on_input ? 1.0 : w) * v;
      }
    }
    double scale = 0.5;
    if (c.biases) scale *= loops::sigmoid(d.row_gate[static_cast<size_t>(i)]);
    for (int64_t o = 0; o < c.d_model; ++o)
      want[static_cast<size_t>(i * c.d_model + o)] += scale * y[static_cast<size_t>(o)];
  });
  return want;
}

void check_ffn_case(Report& report, Format format, Format down, int32_t activation, const FfnCase& c,
                    bool deterministic) {
  const std::string name =
      std::string("ffn ") + name_of(format) + (down == format ? "" : std::string("/") + name_of(down)) + " x " +
      name_of_activation(activation) + " n " + std::to_string(c.n) + " k " + std::to_string(c.k) + " e " +
      std::to_string(c.experts) + " [" + std::to_string(c.d_model) + ", " + std::to_string(c.width) + "] act " +
      std::to_string(c.gating_kind) + (c.ungated ? " ungated" : "") + (c.on_input ? " on input" : "") +
      (c.skewed ? " skewed" : "") + (deterministic ? "" : " fast");
  if (!report.wants(name)) return;
  const FfnData d = make_ffn(format, down, c);
  moe_gating gating{c.gating_kind, c.ungated ? 1 : 0, c.gating_kind == MOE_ACT_SWIGLU_CLAMPED ? 2.0F : 0.0F, 1.702F};
  const Buffer<float> x(d.x);
  const Buffer<float> gate_bias(d.gate_bias);
  const Buffer<float> up_bias(d.up_bias);
  const Buffer<float> down_bias(d.down_bias);
  const Buffer<float> weights(d.weights);
  const Buffer<float> row_gate(d.row_gate);
  const Buffer<int32_t> ids(d.ids);
  const Buffer<int32_t> count(d.count);
  Buffer<float> out(d.before);
  FfnParams p{};
  p.gate = d.gate.view;
  if (!c.ungated) p.up = d.up.view;
  p.down = d.down.view;
  if (c.biases) {
    p.gate_bias = gate_bias.data(), p.up_bias = c.ungated ? nullptr : up_bias.data(), p.down_bias = down_bias.data();
    p.gate_bias_row = p.up_bias_row = c.width, p.down_bias_row = c.d_model;
    p.row_gate = row_gate.data(), p.row_gate_stride = 1;
  }
  p.x = x.data(), p.x_row = c.d_model, p.out = out.data(), p.out_row = c.d_model;
  p.n = c.n, p.k = std::max<int64_t>(c.k, 1), p.first_expert = 3;
  if (c.k > 0) {
    p.ids = ids.data(), p.ids_row = c.k, p.weights = weights.data(), p.weights_row = c.k;
    if (c.counted) p.count = count.data(), p.count_stride = 1;
  }
  p.gating = gating, p.activation = activation, p.weight_on = c.on_input ? MOE_WEIGHT_ON_INPUT : MOE_WEIGHT_ON_OUTPUT;
  p.scale = 0.5F, p.accumulate = true, p.deterministic = deterministic, p.single = !deterministic,
  p.pdl = c.n % 2 == 0 || c.n == 1;
  if (ffn_refusal(p) != nullptr) {
    report.checked(name + ": " + ffn_refusal(p), 1, 0);
    return;
  }
  Buffer<char> workspace(static_cast<int64_t>(ffn_workspace(p)));
  workspace.poison();
  p.workspace = workspace.data();
  MUST(launch_ffn(p, nullptr));
  must(cudaDeviceSynchronize(), name.c_str());
  const std::vector<float> got = out.read();
  // Rounding of hidden to a short type may fall to the other side of a tie.
  // Many rows have fp8 weights as bf16.
  const bool unpacked = format == Format::kF8 && activation == MOE_BF16 && !deterministic && c.n > 64;
  const double limit = activation == MOE_F32 ? 5e-6 : activation == MOE_F16 ? 5e-4 : unpacked ? 6e-3 : 3e-3;
  report.checked(name, worst_row(got, want_ffn(d, c, activation, gating), c.d_model), limit);
  if (!deterministic) return;
  Buffer<float> alone(d.before);
  for (int64_t i = 0; i < std::min<int64_t>(c.n, 20); ++i) {
    FfnParams one = p;
    one.n = 1;
    one.x += i * c.d_model;
    one.out = alone.data() + i * c.d_model;
    if (one.ids != nullptr) one.ids += i * c.k, one.weights += i * c.k;
    if (one.count != nullptr) one.count += i;
    if (one.row_gate != nullptr) one.row_gate += i;
    MUST(launch_ffn(one, nullptr));
  }
  const std::vector<float> each = alone.read();
  const int64_t same = std::min<int64_t>(c.n, 20) * c.d_model;
  report.checked(name + ", alone", std::equal(each.begin(), each.begin() + same, got.begin()) ? 0 : 1, 0);
}

constexpr int32_t kActivations[] = {MOE_F32, MOE_BF16, MOE_F16, MOE_I8};

}  // namespace

void check_matvec(Report& report) {
  for (int f = 0; f < kFormats; ++f) {
    const auto format = static_cast<Format>(f);
    for (const int32_t activation : kActivations) {
      for (const bool deterministic : {true, false})
        check_matvec_case(report, format, activation, {1, 1, 100, 2048, 0}, deterministic);
      check_matvec_case(report, format, activation, {1, 3, 333, 512, 0}, false);
      check_matvec_case(report, format, activation, {1, 1, 3000, 1408, 0}, false);
      check_matvec_case(report, format, activation, {1, 1, 50, 4096, 0}, false);
      if (activation != MOE_I8 || format == Format::kI8 || format == Format::kI4) {
        check_matvec_case(report, format, activation, {1, 1, 700, 640, 0, true}, false);
        // Activations that warps convert in two rounds.
        check_matvec_case(report, format, activation, {1, 1, 40, 8192, 0, true}, false);
      }
      check_matvec_case(report, format, activation, {5, 3, 33, 100, 1});
      check_matvec_case(report, format, activation, {13, 1, 64, 384, 0});
      check_matvec_case(report, format, activation, {29, 2, 17, 257, 3});
      check_matvec_case(report, format, activation, {70, 1, 5, 33, 0});
    }
  }
  check_matvec_case(report, Format::kBF16, MOE_BF16, {1, 16, 512, 128, 0});
  check_matvec_case(report, Format::kBF16, MOE_BF16, {32, 1, 256, 14336, 0});
  check_matvec_case(report, Format::kF32, MOE_F32, {1, 1, 1, 1, 0});
  for (const int64_t n : {1, 3, 4}) {
    check_matvec_case(report, Format::kBF16, MOE_BF16, {n, 1, 200, 2048, 0, true});
    check_matvec_case(report, Format::kF32, MOE_F32, {n, 1, 50, 90, 0, true});
    check_matvec_case(report, Format::kI4, MOE_I8, {n, 1, 300, 768, 4, true});
  }
}

void check_ffn(Report& report) {
  for (int f = 0; f < kFormats; ++f) {
    const auto format = static_cast<Format>(f);
    for (const int32_t activation : kActivations) {
      for (const bool deterministic : {true, false}) {
        check_ffn_case(report, format, format, activation,
                       {1, 4, 8, 256, 192, MOE_ACT_SILU, false, false, false, false, false}, deterministic);
        check_ffn_case(report, format, format, activation,
                       {37, 3, 6, 200, 136, MOE_ACT_SILU, false, true, false, true, true}, deterministic);
        check_ffn_case(report, format, format, activation,
                       {130, 2, 5, 128, 320, MOE_ACT_GELU, false, false, true, false, true}, deterministic);
      }
    }
  }
  for (const bool deterministic : {true, false}) {
    for (int32_t kind = MOE_ACT_SILU; kind <= MOE_ACT_SWIGLU_CLAMPED; ++kind) {
      check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                     {9, 2, 4, 96, 80, kind, false, true, false, false, false}, deterministic);
      if (kind < MOE_ACT_SWIGLU_CLAMPED) {
        check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                       {150, 2, 4, 96, 80, kind, true, true, false, false, false}, deterministic);
      }
    }
    for (const int64_t n : {1, 2, 32, 64, 300}) {  // a shared expert
      check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                     {n, 0, 1, 320, 704, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
    }
    for (const Format format : {Format::kI8, Format::kI4}) {  // experts so wide that fewer rows fit shared memory
      for (const int64_t width : {2048, 4096, 6144}) {
        check_ffn_case(report, format, format, MOE_I8,
                       {1, 8, 12, 256, width, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
      }
      check_ffn_case(report, format, format, MOE_I8,
                     {1, 4, 8, 4096, 256, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
    }
    for (const Format format : {Format::kBF16, Format::kI8, Format::kI4, Format::kF8}) {
      const int32_t activation = format == Format::kI8 || format == Format::kI4 ? MOE_I8 : MOE_BF16;
      check_ffn_case(report, format, format, activation,
                     {1, 6, 9, 640, 1408, MOE_ACT_SILU, false, true, false, true, false}, deterministic);
      check_ffn_case(report, format, format, activation,
                     {1, 3, 9, 2048, 700, MOE_ACT_GELU, false, true, true, false, false}, deterministic);
    }
    // So large that gate and up are unpacked for some of the experts at a time.
    check_ffn_case(report, Format::kF8, Format::kF8, MOE_BF16,
                   {70, 4, 40, 2048, 1024, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
    check_ffn_case(report, Format::kI4, Format::kI8, MOE_I8,
                   {17, 2, 4, 320, 256, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
    check_ffn_case(report, Format::kBF16, Format::kF32, MOE_F32,
                   {3, 2, 4, 320, 256, MOE_ACT_SILU, false, true, false, false, false}, deterministic);
    check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                   {600, 4, 64, 512, 384, MOE_ACT_SILU, false, false, false, false, false}, deterministic);
    check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                   {700, 4, 8, 512, 384, MOE_ACT_SILU, false, true, false, true, true}, deterministic);
    check_ffn_case(report, Format::kF16, Format::kF16, MOE_F16,
                   {700, 4, 8, 512, 200, MOE_ACT_SILU, false, true, true, true, true}, deterministic);
    check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                   {1, 8, 16, 2048, 1024, MOE_ACT_SILU, false, false, false, false, false}, deterministic);
    check_ffn_case(report, Format::kBF16, Format::kBF16, MOE_BF16,
                   {32, 8, 16, 2048, 1024, MOE_ACT_SILU, false, false, false, false, false}, deterministic);
  }
}

}  // namespace moe::cuda::bench
