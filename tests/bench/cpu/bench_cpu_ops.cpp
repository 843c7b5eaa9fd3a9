// bench_cpu_ops [--simd NAME] [--threads N] [--only matvec|decode|prefill|attention|tiny]: the operations of the
// backend `cpu` beside what the machine can do.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/plugin/host.hpp"
#include "moe/abi/ops.h"
#include "moe/sdk/compute.hpp"
#include "support/plugin_library.hpp"
#include "tools/conformance/ceilings.hpp"

namespace patchbay::bench {
namespace {

struct Timing {
  double median;  // seconds
  double best;
  double share;  // of the ceiling beside it, the median
};
// The ceiling at this moment, in units a second.
using Ceiling = std::function<double()>;

// An opened backend, and weights of random numbers.
class Bench {
 public:
  Bench(const moe_backend& backend, const moe_host& host, const char* simd) : b_(backend), host_(host), probe_(host) {
    moe_option_value option{};
    option.key = "simd";
    option.type = MOE_OPTION_STRING;
    option.value.s = simd;
    auto description = moe::make<moe_backend_description>();
    check(b_.create(&host, &option, 1, &instance_, &description, message_.get()));
    fmt::print("{}\n", description.device_name);
  }

  const moe_weight* weight(int64_t groups, int64_t n_out, int64_t n_in, const char* wanted) {
    auto source = moe::make<moe_weight_source>();
    source.name = "bench";
    source.role = "weight";
    source.encoding = "f32";
    source.wanted = wanted;
    source.n_groups = groups;
    source.n_out = n_out;
    source.n_in = n_in;
    source.uses = MOE_USE_MATMUL;
    source.context = &source;
    source.read_f32 = [](void* context, int64_t group, int64_t row, int64_t n_rows, float* out) {
      const auto& s = *static_cast<const moe_weight_source*>(context);
      uint32_t state = static_cast<uint32_t>(group * 7919 + row * 104729 + 1);
      for (int64_t i = 0; i < n_rows * s.n_in; ++i) {
        state = state * 1664525U + 1013904223U;
        out[i] = (static_cast<float>(state >> 8) * 0x1p-23F - 1.0F) * 0.05F;
      }
    };
    source.raw = [](void*, int64_t) -> const void* { return nullptr; };
    auto prepared = moe::make<moe_prepared>();
    check(b_.prepare(instance_, &source, &prepared, message_.get()));
    bytes_ = static_cast<double>(prepared.n_bytes) / static_cast<double>(groups);
    release_.push_back(prepared);
    return prepared.weight;
  }
  void free_weights() {
    for (auto& p : release_) p.release(&p);
    release_.clear();
  }
  // Bytes of one group of the last weight.
  [[nodiscard]] double group_bytes() const { return bytes_; }

  float* floats(int64_t n) {
    memory_.emplace_back(static_cast<size_t>(n) + 16);
    float* p = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.back().data()) + 63) / 64 * 64);
    for (int64_t i = 0; i < n; ++i) p[i] = std::uniform_real_distribution<float>(-1, 1)(random_);
    return p;
  }

  // Memory of the backend's, as caches are, full of 0.125.
  uint16_t* halves(int64_t n) {
    auto buffer = moe::make<moe_buffer>();
    check(b_.alloc(instance_, static_cast<uint64_t>(2 * n), MOE_MEMORY_DEVICE, &buffer, message_.get()));
    auto* p = static_cast<uint16_t*>(buffer.data);
    std::fill_n(p, n, uint16_t{0x3000});
    return p;
  }

  // Finds an operation for these arguments and lends it its workspace.
  template <typename Args>
  const moe_op* find(const char* id, Args& args) {
    auto info = moe::make<moe_op_info>();
    check(b_.find_op(instance_, id, &args.header, &info, message_.get()));
    args.header.workspace = floats(static_cast<int64_t>(info.workspace_bytes / 4) + 16);
    args.header.workspace_bytes = info.workspace_bytes;
    return info.op;
  }
  template <typename Args>
  void launch(const moe_op* op, Args& args) {
    check(b_.launch(instance_, op, &args.header, nullptr, message_.get()));
  }

  // Times calls that do `work` units each, a probe of the ceiling before every one.
  Timing time(const std::function<void()>& f, double work = 0, const Ceiling& ceiling = {}) {
    f();
    double start = now();
    f();
    const int n = std::clamp(static_cast<int>(0.5 / std::max(now() - start, 1e-7)), 7, ceiling ? 30 : 5000);
    std::vector<double> seconds, shares;
    for (int i = 0; i < n; ++i) {
      const double most = ceiling ? ceiling() : 0;
      start = now();
      f();
      seconds.push_back(now() - start);
      shares.push_back(most > 0 ? work / seconds.back() / most : 0);
    }
    std::sort(seconds.begin(), seconds.end());
    std::sort(shares.begin(), shares.end());
    return {seconds[static_cast<size_t>(n / 2)], seconds[0], shares[static_cast<size_t>(n / 2)]};
  }
  [[nodiscard]] Ceiling memory() const {
    return [this] { return probe_.read_gbps(host_.n_threads(host_.self)) * 1e9; };
  }
  [[nodiscard]] Ceiling rate(Probe::Rate rate) const {
    return [this, rate] { return probe_.matrix_gflops(host_.n_threads(host_.self), rate) * 1e9; };
  }
  std::mt19937& random() { return random_; }

 private:
  void check(moe_status status) {
    if (status == MOE_OK) return;
    fmt::print(stderr, "error: {}\n", message_.text());
    std::exit(1);
  }
  const moe_backend& b_;
  const moe_host& host_;
  Probe probe_;
  moe_backend_instance* instance_ = nullptr;
  moe::MessageBuffer message_;
  std::vector<moe_prepared> release_;
  std::vector<std::vector<float>> memory_;
  std::mt19937 random_{1};
  double bytes_ = 0;
};

// One line: median and best time, the rate at the median, the share of the ceiling.
void print(const std::string& name, Timing t, double work, const char* unit) {
  fmt::print("{:<62} {:>9.1f} {:>9.1f} us {:>7.1f} {:<7} {:>4.0f} %\n", name, t.median * 1e6, t.best * 1e6,
             work / t.median * 1e-9, unit, t.share * 100);
}

Probe::Rate rate_of(const char* wanted, moe_activation_type activation) {
  if (activation == MOE_I8) return Probe::Rate::kI8;
  return activation == MOE_BF16 && std::strcmp(wanted, "bf16") == 0 ? Probe::Rate::kBF16 : Probe::Rate::kF32;
}
const char* name_of(moe_activation_type activation) {
  return activation == MOE_BF16 ? "bf16" : activation == MOE_I8 ? "i8" : "f32";
}

void bench_matmul(Bench& b, const char* wanted, moe_activation_type activation, int64_t n, int64_t n_out,
                  int64_t n_in) {
  auto args = moe::op_args<moe_matmul_args>();
  args.weight = b.weight(1, n_out, n_in, wanted);
  args.x = moe::tensor(b.floats(n * n_in), {n, n_in});
  args.out = moe::tensor(b.floats(n * n_out), {n, n_out});
  args.scale = 1;
  args.activation = activation;
  const moe_op* op = b.find(MOE_OP_MATMUL, args);
  const std::string name = fmt::format("matmul {} x {}, n {} [{} -> {}]", wanted, name_of(activation), n, n_in, n_out);
  const bool decode = n <= 8;
  const double work = decode ? b.group_bytes() : 2.0 * static_cast<double>(n * n_out * n_in);
  const Timing t = b.time([&] { b.launch(op, args); }, work, decode ? b.memory() : b.rate(rate_of(wanted, activation)));
  print(name, t, work, decode ? "GB/s" : "GFLOP/s");
  b.free_weights();
}

void bench_ffn(Bench& b, const char* wanted, moe_activation_type activation, int64_t n, int64_t d, int64_t width,
               int64_t experts, int64_t k) {
  auto args = moe::op_args<moe_ffn_args>();
  args.gate = b.weight(experts, width, d, wanted);
  args.up = b.weight(experts, width, d, wanted);
  args.down = b.weight(experts, d, width, wanted);
  const double expert_bytes = 3 * b.group_bytes();
  args.x = moe::tensor(b.floats(n * d), {n, d});
  args.out = moe::tensor(b.floats(n * d), {n, d});
  std::vector<int32_t> ids(static_cast<size_t>(n * k));
  std::vector<float> weights(ids.size(), 0.1F);
  args.ids = moe::tensor(ids.data(), {n, k});
  args.weights = moe::tensor(weights.data(), {n, k});
  args.n_experts = experts;
  args.width = width;
  args.gating.kind = MOE_ACT_SILU;
  args.activation = activation;
  args.scale = 1;
  const moe_op* op = b.find(MOE_OP_FFN, args);
  // The choice of experts goes round: as many distinct ones in every call.
  int64_t next = 0;
  const auto choose = [&] {
    for (int64_t i = 0; i < n * k; ++i) ids[static_cast<size_t>(i)] = static_cast<int32_t>((next + i * 5) % experts);
    next += 7 * n * k;
  };
  const std::string name =
      fmt::format("ffn {} x {}, n {} [d {}, {} x {}, top {}]", wanted, name_of(activation), n, d, experts, width, k);
  const bool decode = n <= 32;
  const double work = decode ? expert_bytes * static_cast<double>(std::min(n * k, experts))
                             : 6.0 * static_cast<double>(n * k * d * width);
  const Timing t = b.time(
      [&] {
        choose();
        b.launch(op, args);
      },
      work, decode ? b.memory() : b.rate(rate_of(wanted, activation)));
  print(name, t, work, decode ? "GB/s" : "GFLOP/s");
  b.free_weights();
}

void bench_attention(Bench& b, int64_t n, int64_t heads, int64_t kv_heads, int64_t k_dim, int64_t v_dim, bool latent,
                     int64_t context) {
  constexpr int64_t kPage = 16;
  auto args = moe::op_args<moe_attention_args>();
  const int64_t pages = (context + kPage - 1) / kPage;
  args.q = moe::tensor(b.floats(n * heads * k_dim), {n, heads, k_dim});
  args.out = moe::tensor(b.floats(n * heads * v_dim), {n, heads, v_dim});
  uint16_t* k = b.halves(pages * kPage * kv_heads * k_dim);
  uint16_t* v = b.halves(pages * kPage * kv_heads * v_dim);
  const auto by_head = [&](uint16_t* data, int64_t dim, int64_t row) {  // as the engine lays it for this backend
    moe_tensor cache = moe::tensor(data, MOE_F16, {pages * kPage, kv_heads, dim});
    cache.strides[0] = row;
    cache.strides[1] = pages * kPage * row;
    return cache;
  };
  args.k = by_head(k, k_dim, k_dim);
  args.v = by_head(latent ? k : v, v_dim, latent ? k_dim : v_dim);
  std::vector<int32_t> sequences(static_cast<size_t>(n), 0);
  std::vector<int32_t> positions(sequences.size());
  std::vector<int32_t> table(static_cast<size_t>(pages));
  for (int64_t i = 0; i < n; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(context - n + i);
  for (int64_t i = 0; i < pages; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  args.sequences = moe::tensor(sequences.data(), {n});
  args.positions = moe::tensor(positions.data(), {n});
  args.pages.page_table = moe::tensor(table.data(), {1, pages});
  args.pages.page_size = kPage;
  args.scale = 0.1F;
  const moe_op* op = b.find(MOE_OP_ATTENTION, args);
  const std::string name = fmt::format("attention f16{}, n {}, context {} [{} heads of {}, {} kv]",
                                       latent ? " latent" : "", n, context, heads, k_dim, kv_heads);
  const double seen = static_cast<double>(n) * (static_cast<double>(context) - static_cast<double>(n - 1) / 2);
  const double flops = 2.0 * seen * static_cast<double>(heads * (k_dim + v_dim));
  const auto call = [&] { b.launch(op, args); };
  if (n == 1) {
    const double bytes = 2.0 * static_cast<double>(context * kv_heads * (k_dim + (latent ? 0 : v_dim)));
    print(name, b.time(call, bytes, b.memory()), bytes, "GB/s");
  }
  print(n == 1 ? "" : name, b.time(call, flops, b.rate(Probe::Rate::kF32)), flops, "GFLOP/s");
}

// One token through a model that fits the caches: what the operations cost when there is little to compute.
void bench_tiny(Bench& b, const char* wanted) {
  constexpr int64_t kD = 256, kWidth = 128, kExperts = 16, kTop = 4, kLayers = 6, kHeads = 8, kHeadDim = 32,
                    kContext = 200;
  const moe_activation_type activation = std::strncmp(wanted, "int", 3) == 0 ? MOE_I8 : MOE_F32;
  std::vector<std::function<void()>> ops;
  std::vector<const char*> names;
  float* x = b.floats(kD);
  float* y = b.floats(kD);
  const auto matmul = [&](const char* name, int64_t n_out, int64_t n_in, float* in, float* out) {
    auto args = moe::op_args<moe_matmul_args>();
    args.weight = b.weight(1, n_out, n_in, wanted);
    args.x = moe::tensor(in, {1, n_in});
    args.out = moe::tensor(out, {1, n_out});
    args.scale = 1;
    args.activation = activation;
    const moe_op* op = b.find(MOE_OP_MATMUL, args);
    names.push_back(name);
    ops.push_back([&b, op, args]() mutable { b.launch(op, args); });
  };
  const auto norm = [&] {
    auto args = moe::op_args<moe_norm_args>();
    args.x = moe::tensor(x, {1, kD});
    args.weight = moe::tensor(b.floats(kD), {kD});
    args.out = moe::tensor(y, {1, kD});
    args.eps = 1e-5F;
    args.kind = MOE_NORM_RMS;
    const moe_op* op = b.find(MOE_OP_NORM, args);
    names.push_back("norm");
    ops.push_back([&b, op, args]() mutable { b.launch(op, args); });
  };
  static std::vector<int32_t> sequence(1, 0), position(1, kContext - 1), table(16), ids(kTop), order(kExperts);
  static std::vector<int64_t> rows(1, kContext - 1);
  for (int32_t i = 0; i < 16; ++i) table[static_cast<size_t>(i)] = order[static_cast<size_t>(i)] = i;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    float* q = b.floats(3 * kD);
    float* keys = b.floats(2 * 16 * 16 * kD);
    float* logits = b.floats(kExperts);
    float* weights = b.floats(kTop);
    norm();
    matmul("qkv", 3 * kD, kD, y, q);
    for (int part = 0; part < 2; ++part) {
      auto args = moe::op_args<moe_rope_args>();
      args.x = moe::tensor(q + part * kD, {1, kHeads, kHeadDim});
      args.positions = moe::tensor(position.data(), {1});
      args.inv_freq = moe::tensor(b.floats(kHeadDim / 2), {kHeadDim / 2});
      args.scale = 1;
      const moe_op* op = b.find(MOE_OP_ROPE, args);
      names.push_back("rope");
      ops.push_back([&b, op, args]() mutable { b.launch(op, args); });
      auto store = moe::op_args<moe_cache_store_args>();
      store.x = moe::tensor(q + (1 + part) * kD, {1, kD});
      store.rows = moe::tensor(rows.data(), {1});
      store.cache = moe::tensor(keys + part * 16 * 16 * kD, {16 * 16, kD});
      const moe_op* store_op = b.find(MOE_OP_CACHE_STORE, store);
      names.push_back("store");
      ops.push_back([&b, store_op, store]() mutable { b.launch(store_op, store); });
    }
    auto attention = moe::op_args<moe_attention_args>();
    attention.q = moe::tensor(q, {1, kHeads, kHeadDim});
    attention.k = moe::tensor(keys, {16 * 16, kHeads, kHeadDim});
    attention.v = moe::tensor(keys + 16 * 16 * kD, {16 * 16, kHeads, kHeadDim});
    attention.out = moe::tensor(y, {1, kHeads, kHeadDim});
    attention.sequences = moe::tensor(sequence.data(), {1});
    attention.positions = moe::tensor(position.data(), {1});
    attention.pages = {moe::tensor(table.data(), {1, 16}), 16};
    attention.scale = 0.1F;
    const moe_op* attention_op = b.find(MOE_OP_ATTENTION, attention);
    names.push_back("attention");
    ops.push_back([&b, attention_op, attention]() mutable { b.launch(attention_op, attention); });
    matmul("o", kD, kD, y, x);
    norm();
    matmul("gate", kExperts, kD, y, logits);
    auto route = moe::op_args<moe_route_op_args>();
    route.logits = moe::tensor(logits, {1, kExperts});
    route.ids = moe::tensor(ids.data(), {1, kTop});
    route.weights = moe::tensor(weights, {1, kTop});
    route.n_experts = kExperts;
    route.top_k = kTop;
    route.score = MOE_SCORE_SOFTMAX;
    route.scale = 1;
    const moe_op* route_op = b.find(MOE_OP_ROUTE, route);
    names.push_back("route");
    ops.push_back([&b, route_op, route]() mutable { b.launch(route_op, route); });
    auto ffn = moe::op_args<moe_ffn_args>();
    ffn.gate = b.weight(kExperts, kWidth, kD, wanted);
    ffn.up = b.weight(kExperts, kWidth, kD, wanted);
    ffn.down = b.weight(kExperts, kD, kWidth, wanted);
    ffn.x = moe::tensor(y, {1, kD});
    ffn.out = moe::tensor(x, {1, kD});
    ffn.ids = route.ids;
    ffn.weights = route.weights;
    ffn.n_experts = kExperts;
    ffn.width = kWidth;
    ffn.gating.kind = MOE_ACT_SILU;
    ffn.activation = activation;
    ffn.scale = 0.1F;
    const moe_op* ffn_op = b.find(MOE_OP_FFN, ffn);
    names.push_back("ffn");
    ops.push_back([&b, ffn_op, ffn]() mutable {
      std::shuffle(order.begin(), order.end(), b.random());
      std::copy_n(order.begin(), kTop, ids.begin());
      b.launch(ffn_op, ffn);
    });
  }
  const Timing all = b.time([&] {
    for (auto& f : ops) f();
  });
  fmt::print("{:<60} {:>9.1f} {:>9.1f} us\n",
             fmt::format("tiny model, {}: {} operations of a token", wanted, ops.size()), all.median * 1e6,
             all.best * 1e6);
  std::map<std::string, double> by_name;
  for (size_t i = 0; i < ops.size(); ++i) by_name[names[i]] += b.time(ops[i]).best * 1e6;
  for (const auto& [name, us] : by_name) fmt::print("    {:<54} {:>9.1f} us\n", name, us);
  b.free_weights();
}

void run(const moe_backend& backend, const moe_host& host, const char* simd, const std::string& only) {
  const int32_t threads = host.n_threads(host.self);
  {
    const Probe p(host);
    fmt::print("now: read {:.1f} GB/s (one thread {:.1f}), f32 {:.0f}, bf16 {:.0f}, int8 {:.0f} GFLOP/s\n",
               p.read_gbps(threads), p.read_gbps(1), p.matrix_gflops(threads, Probe::Rate::kF32),
               p.matrix_gflops(threads, Probe::Rate::kBF16), p.matrix_gflops(threads, Probe::Rate::kI8));
  }
  Bench b(backend, host, simd);
  const auto wants = [&](const char* part) { return only.empty() || only == part; };
  if (wants("matvec")) {
    for (const char* wanted : {"f32", "f16", "bf16"}) bench_matmul(b, wanted, MOE_F32, 1, 32768, 2048);
    bench_matmul(b, "bf16", MOE_BF16, 1, 32768, 2048);
    for (const char* wanted : {"int8", "int4"}) bench_matmul(b, wanted, MOE_I8, 1, 32768, 2048);
  }
  if (wants("decode")) {
    bench_ffn(b, "bf16", MOE_F32, 1, 2048, 1024, 64, 8);
    bench_ffn(b, "bf16", MOE_BF16, 1, 2048, 1024, 64, 8);
    bench_ffn(b, "bf16", MOE_BF16, 1, 1024, 512, 32, 4);
    for (const char* wanted : {"int8", "int4"}) {
      bench_ffn(b, wanted, MOE_I8, 1, 2048, 1024, 64, 8);
      bench_ffn(b, wanted, MOE_I8, 1, 1024, 512, 32, 4);
    }
    bench_ffn(b, "bf16", MOE_BF16, 8, 2048, 1024, 64, 8);
    for (const char* wanted : {"int8", "int4"}) {
      for (const int64_t n : {8, 32}) bench_ffn(b, wanted, MOE_I8, n, 2048, 1024, 64, 8);
    }
  }
  if (wants("prefill")) {
    bench_matmul(b, "f32", MOE_F32, 512, 2048, 2048);
    bench_matmul(b, "bf16", MOE_F32, 512, 2048, 2048);
    bench_matmul(b, "bf16", MOE_BF16, 512, 2048, 2048);
    bench_matmul(b, "int8", MOE_I8, 512, 2048, 2048);
    bench_matmul(b, "int4", MOE_I8, 512, 2048, 2048);
    bench_ffn(b, "bf16", MOE_F32, 512, 2048, 1024, 64, 8);
    bench_ffn(b, "bf16", MOE_BF16, 512, 2048, 1024, 64, 8);
    bench_ffn(b, "bf16", MOE_BF16, 512, 1024, 512, 32, 4);
    bench_ffn(b, "int8", MOE_I8, 512, 2048, 1024, 64, 8);
    bench_ffn(b, "int4", MOE_I8, 512, 2048, 1024, 64, 8);
  }
  if (wants("attention")) {
    bench_attention(b, 1, 16, 16, 128, 128, false, 1024);
    bench_attention(b, 1, 32, 8, 128, 128, false, 16384);
    bench_attention(b, 1, 16, 1, 576, 512, true, 16384);
    bench_attention(b, 512, 16, 16, 128, 128, false, 512);
    bench_attention(b, 512, 16, 1, 576, 512, true, 512);
  }
  if (wants("tiny")) {
    bench_tiny(b, "f32");
    bench_tiny(b, "bf16");
    bench_tiny(b, "int8");
  }
}

}  // namespace
}  // namespace patchbay::bench

int main(int argc, char** argv) {
  const char* simd = "auto";
  int32_t threads = 0;
  std::string only;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--simd") == 0) simd = argv[i + 1];
    if (std::strcmp(argv[i], "--threads") == 0) threads = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--only") == 0) only = argv[i + 1];
  }
  patchbay::bench::g_processor_time = threads == 1;
  patchbay::Host host(threads);
  auto library = patchbay::test::PluginLibrary::open("cpu", host.abi());
  if (!library.ok()) {
    fmt::print(stderr, "error: {}\n", library.error().message);
    return 1;
  }
  patchbay::bench::run(*library.value()->backend("cpu"), *host.abi(), simd, only);
  return 0;
}
