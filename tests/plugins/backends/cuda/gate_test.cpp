// A gate as one operation, with the norm before it and the decision after it, against the same one by one.
#include <cmath>
#include <cstring>

#include "plugins/backends/cuda/on_device.hpp"

namespace patchbay::test {
namespace {

// A gate for tests: the norm (where wanted), the product and the decision from it.
struct GateShape {
  int64_t n, n_in, n_experts;
  const char* wanted = "bf16";
  bool normed = true;
};
std::string text_of(const GateShape& s, const moe_route_op_args& route) {
  return std::string(s.wanted) + " n " + std::to_string(s.n) + " in " + std::to_string(s.n_in) + " experts " +
         std::to_string(s.n_experts) + (s.normed ? " normed" : "") + " score " + std::to_string(route.score) +
         " group_score " + std::to_string(route.group_score) + " dynamic " + std::to_string(route.dynamic);
}

class GateOnDevice {
 public:
  // `route` has everything but tensors. Rows 2i and 2i + 1 of the weight are alike where `ties`; where `nan`, row 3 has
  // a NaN, or with several tokens the second token has.
  GateOnDevice(OnDevice& device, const GateShape& s, const moe_route_op_args& route, Random random, bool biased,
               bool ties, bool nan)
      : device_(device), s_(s), route_(route) {
    route_.n_experts = static_cast<int32_t>(s.n_experts);
    n_logits_ = s.n_experts + (route.score == MOE_SCORE_GROUP_GATE ? route.n_groups : 0);
    const auto some = [&](int64_t n, double size) {
      std::vector<float> out(static_cast<size_t>(n));
      for (float& v : out) v = static_cast<float>(random.uniform(-size, size));
      return out;
    };
    w_ = some(n_logits_ * s.n_in, 3.0 / std::sqrt(static_cast<double>(s.n_in)));
    for (int64_t row = 1; ties && row < n_logits_; row += 2)
      std::copy_n(w_.begin() + (row - 1) * s.n_in, s.n_in, w_.begin() + row * s.n_in);
    x_ = some(s.n * s.n_in, 3.0);
    if (nan && s.n == 1) w_[static_cast<size_t>(3 * s.n_in + 5)] = NAN;
    if (nan && s.n > 1) x_[static_cast<size_t>(s.n_in + 7)] = NAN;
    norm_.x = device.put(x_, {s.n, s.n_in});
    norm_.weight = device.put(some(s.n_in, 1.0), {s.n_in});
    norm_.eps = 1e-5F;
    norm_.kind = MOE_NORM_RMS;
    product_.weight = device.weight(w_, n_logits_, s.n_in, s.wanted);
    product_.scale = 1.0F;
    product_.activation = MOE_F32;
    if (biased) product_.bias = device.put(some(n_logits_, 0.5), {n_logits_});
    if (biased && route.score != MOE_SCORE_SPARSE_MIXER)
      route_.bias = device.put(some(s.n_experts, 0.5), {s.n_experts});
  }

  struct Result {
    std::vector<float> normed, logits, weights;
    std::vector<int32_t> ids, count;
  };
  // One by one.
  Result each() {
    fresh();
    if (s_.normed) device_.launch(MOE_OP_NORM, norm_.header);
    device_.launch(MOE_OP_MATMUL, product_.header);
    device_.launch(MOE_OP_ROUTE, route_.header);
    return result();
  }
  // Whether logits are `want`'s: two orders of summation differ by a few units in the last place of the sum of absolute
  // products.
  void expect_logits(const Result& got, const Result& want, const std::string& text) const {
    const std::vector<float>& x = s_.normed ? want.normed : x_;
    for (int64_t i = 0; i < s_.n * n_logits_; ++i) {
      double size = 0.0;
      for (int64_t k = 0; k < s_.n_in; ++k) {
        size += std::fabs(static_cast<double>(w_[static_cast<size_t>(i % n_logits_ * s_.n_in + k)]) *
                          x[static_cast<size_t>(i / n_logits_ * s_.n_in + k)]);
      }
      const double off =
          std::fabs(static_cast<double>(got.logits[static_cast<size_t>(i)]) - want.logits[static_cast<size_t>(i)]);
      ASSERT_TRUE(off <= 0x1p-21 * size) << text << " logit " << i << ": off by " << off << " of " << size;
    }
  }
  // The decision alone, from these logits.
  Result decide(const std::vector<float>& logits) {
    fresh();
    route_.logits = device_.put(logits, {s_.n, n_logits_});
    device_.launch(MOE_OP_ROUTE, route_.header);
    return result();
  }
  // False: the backend has no faster way.
  bool fused(bool logits_are_read, Result& out) {
    fresh();
    std::vector<const char*> ids = {MOE_OP_MATMUL, MOE_OP_ROUTE};
    std::vector<const moe_op_args*> args = {&product_.header, &route_.header};
    if (s_.normed) {
      ids.insert(ids.begin(), MOE_OP_NORM);
      args.insert(args.begin(), &norm_.header);
    }
    if (!device_.launch_fused(ids, args, logits_are_read ? 0 : 1U << (ids.size() - 2))) return false;
    out = result();
    return true;
  }

 private:
  // Outputs that hold something else.
  void fresh() {
    const auto k = static_cast<size_t>(route_.top_k);
    const auto n = static_cast<size_t>(s_.n);
    norm_.out = device_.put(std::vector<float>(n * static_cast<size_t>(s_.n_in), 77.0F), {s_.n, s_.n_in});
    product_.x = s_.normed ? norm_.out : norm_.x;
    product_.out = route_.logits =
        device_.put(std::vector<float>(n * static_cast<size_t>(n_logits_), 77.0F), {s_.n, n_logits_});
    route_.ids = device_.put(std::vector<int32_t>(n * k, 77), {s_.n, route_.top_k});
    route_.weights = device_.put(std::vector<float>(n * k, 77.0F), {s_.n, route_.top_k});
    route_.count = device_.put(std::vector<int32_t>(n, 77), {s_.n});
  }
  Result result() {
    const int64_t k = route_.top_k;
    return {device_.get<float>(norm_.out.data, s_.n * s_.n_in), device_.get<float>(product_.out.data, s_.n * n_logits_),
            device_.get<float>(route_.weights.data, s_.n * k), device_.get<int32_t>(route_.ids.data, s_.n * k),
            device_.get<int32_t>(route_.count.data, s_.n)};
  }

  OnDevice& device_;
  GateShape s_;
  std::vector<float> w_, x_;
  int64_t n_logits_ = 0;
  moe_norm_args norm_ = moe::op_args<moe_norm_args>();
  moe_matmul_args product_ = moe::op_args<moe_matmul_args>();
  moe_route_op_args route_;
};

moe_route_op_args route_of(int32_t score, int32_t top_k) {
  auto route = moe::op_args<moe_route_op_args>();
  route.score = score;
  route.top_k = top_k;
  route.scale = 1.0F;
  route.renorm_eps = 1e-20F;
  route.sparse_eps = 0.1F;
  route.k_min = 1;
  return route;
}

void expect_same_decision(const GateOnDevice::Result& got, const GateOnDevice::Result& want, const std::string& text) {
  EXPECT_EQ(got.ids, want.ids) << text;
  EXPECT_EQ(got.count, want.count) << text;
  EXPECT_EQ(std::memcmp(got.weights.data(), want.weights.data(), want.weights.size() * sizeof(float)), 0) << text;
}

TEST_F(Fused, a_gates_norm_and_product_are_those_one_by_one_and_so_is_the_decision_from_them) {
  const std::pair<int64_t, int64_t> sizes[] = {{64, 4}, {96, 33}, {2048, 64}, {2880, 32}, {2048, 128}, {4096, 16}};
  for (const char* wanted : {"f32", "bf16", "f16"}) {
    for (const auto& [n_in, n_experts] : sizes) {
      for (const int64_t n : {1, 2, 3, 4, 7}) {
        const GateShape shape{n, n_in, n_experts, wanted, n_in != 96};
        const auto route = route_of(MOE_SCORE_SOFTMAX, 4);
        const std::string text = text_of(shape, route);
        OnDevice device(*backend_);
        GateOnDevice gate(device, shape, route, Random(static_cast<uint64_t>(n * n_in)), n % 2 == 0, false, false);
        const auto want = gate.each();
        GateOnDevice::Result got;
        if (!gate.fused(true, got)) {
          if (n_in * n_experts == 2048 * 128 && std::string_view(wanted) == "f32") continue;  // does not fit
          GTEST_SKIP() << "no faster way";
        }
        expect_near(got.normed, want.normed, text + " norm");
        gate.expect_logits(got, want, text);
        expect_same_decision(got, gate.decide(got.logits), text);
        GateOnDevice::Result unread;
        ASSERT_TRUE(gate.fused(false, unread));
        expect_same_decision(unread, got, text + " without logits");
      }
    }
  }
}

TEST_F(Fused, a_gates_decision_is_that_of_its_logits_whatever_the_rule) {
  std::vector<moe_route_op_args> rules;
  for (int32_t score = MOE_SCORE_SOFTMAX; score <= MOE_SCORE_GROUP_GATE; ++score) {
    for (int32_t groups = MOE_GROUP_NONE; groups <= MOE_GROUP_SUM; ++groups) {
      if (groups != MOE_GROUP_NONE && score == MOE_SCORE_SPARSE_MIXER) continue;
      if (groups == MOE_GROUP_GATE_SCORE && score != MOE_SCORE_GROUP_GATE) continue;
      for (int32_t dynamic = MOE_DYNAMIC_NONE; dynamic <= MOE_DYNAMIC_TOP_P; ++dynamic) {
        auto route = route_of(score, 6);
        route.group_score = groups;
        route.n_groups = 8;
        route.top_groups = 3;
        route.fill = dynamic == MOE_DYNAMIC_RATIO ? MOE_FILL_ZERO : MOE_FILL_MINUS_INFINITY;
        route.renorm = (score + dynamic) % 3;
        route.dynamic = dynamic;
        route.threshold = 0.4F;
        route.k_min = 2;
        route.scale = 1.5F;
        route.logit_cap = groups == MOE_GROUP_MAX ? 2.0F : 0.0F;
        rules.push_back(route);
      }
    }
  }
  uint64_t seed = 0;
  for (const auto& route : rules) {
    for (const int64_t n : {1, 3}) {
      for (int kind = 0; kind < 4; ++kind) {  // plain, biased, ties, NaN
        const GateShape shape{n, 256, 64};
        OnDevice device(*backend_);
        GateOnDevice gate(device, shape, route, Random(++seed), kind == 1, kind == 2, kind == 3);
        GateOnDevice::Result got;
        if (!gate.fused(true, got)) GTEST_SKIP() << "no faster way";
        expect_same_decision(got, gate.decide(got.logits), text_of(shape, route) + " kind " + std::to_string(kind));
      }
    }
  }
}

TEST_F(Fused, nothing_is_summed_in_another_order_where_that_must_not_be) {
  auto deterministic =
      BackendUnderTest::open(*library_->backend("cuda"), host_.get(), {{"deterministic", true, "test"}});
  ASSERT_TRUE(deterministic.ok()) << deterministic.error().message;
  OnDevice device(**deterministic);
  GateOnDevice gate(device, {1, 256, 64}, route_of(MOE_SCORE_SOFTMAX, 4), Random(3), false, false, false);
  GateOnDevice::Result unused;
  EXPECT_FALSE(gate.fused(true, unused));
}

}  // namespace
}  // namespace patchbay::test
