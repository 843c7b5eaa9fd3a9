// The expert plugin against its equation, written here as plain sums in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "tests/support/test_expert.hpp"

namespace {

namespace test = patchbay::test;
using Options = std::vector<patchbay::GivenOption>;

constexpr int64_t kModel = 24;
constexpr int64_t kWidth = 40;
constexpr int64_t kShared = 16;
constexpr int64_t kChunk = 8;
constexpr int64_t kExperts = 5;

double sigma(double x) { return 1.0 / (1.0 + std::exp(-x)); }

patchbay::GivenOption text(const char* key, const char* value) { return {key, std::string(value), ""}; }
patchbay::GivenOption real(const char* key, double value) { return {key, value, ""}; }
patchbay::GivenOption number(const char* key, int64_t value) { return {key, value, ""}; }
patchbay::GivenOption flag(const char* key, bool value) { return {key, value, ""}; }

moe_expert_config layer(int64_t n_experts, int64_t d_shared, int64_t k = 2) {
  auto config = moe::make<moe_expert_config>();
  config.d_model = kModel;
  config.n_experts = config.n_local_experts = n_experts;
  config.k_max = n_experts > 0 ? k : 0;
  config.d_expert = n_experts > 0 ? kWidth : 0;
  config.d_shared = d_shared;
  config.activation = MOE_F32;
  return config;
}

using Layer = test::TestExpert;

moe::Result<std::unique_ptr<Layer>> create(test::Compute& compute, const moe_expert_config& config,
                                           const Options& given) {
  return Layer::create(compute, test::load<moe_expert>(test::plugin_file("expert_swiglu"), MOE_EXPERT_ID, "swiglu"),
                       config, given);
}

using Activation = std::function<double(double g, double u)>;
double silu(double g, double u) { return g * sigma(g) * u; }

struct Equation {
  Activation act = silu;
  bool gated = true;
  bool biased = false;
  int64_t n_zero = 0;  // identity
  bool on_input = false;
  bool shared_gate = false;
  int64_t chunk_size = 0;
};

using Vector = std::vector<double>;

Vector product(const std::vector<float>& w, int64_t group, int64_t n_out, const Vector& x,
               const std::vector<float>* bias, bool absolute = false) {
  Vector y(static_cast<size_t>(n_out));
  const auto n_in = static_cast<int64_t>(x.size());
  for (int64_t o = 0; o < n_out; ++o) {
    double sum = bias == nullptr ? 0.0 : (*bias)[static_cast<size_t>(group * n_out + o)];
    for (int64_t k = 0; k < n_in; ++k) {
      const double term = w[static_cast<size_t>((group * n_out + o) * n_in + k)] * x[static_cast<size_t>(k)];
      sum += absolute ? std::fabs(term) : term;
    }
    y[static_cast<size_t>(o)] = sum;
  }
  return y;
}

// down(act(gate x, up x)) of one expert, or the sum of its absolute products; roles with the prefix "", "shared_" or
// "chunk_".
Vector feed_forward(const Layer& l, const Equation& eq, const std::string& prefix, int64_t group, int64_t width,
                    const Vector& x, bool absolute) {
  const auto bias = [&](const char* role) { return eq.biased && prefix.empty() ? &l.weights.at(role) : nullptr; };
  Vector h = product(l.weights.at(prefix + "gate"), group, width, x, bias("gate_bias"));
  Vector u(h.size(), 1.0);
  if (eq.gated) u = product(l.weights.at(prefix + "up"), group, width, x, bias("up_bias"));
  for (size_t i = 0; i < h.size(); ++i) h[i] = eq.act(h[i], u[i]);
  return product(l.weights.at(prefix + "down"), group, kModel, h, bias("down_bias"), absolute);
}

// out + scale * (routed + shared + identities), for one token, or the sum of the absolute products in it.
Vector expected(const Layer& l, const Equation& eq, const Layer::Input& in, int64_t i, int64_t k, int64_t n_experts,
                int64_t d_shared, bool absolute) {
  const auto first = in.x.begin() + i * kModel;
  const Vector x(first, first + kModel);
  Vector sum(kModel, 0.0);
  const int64_t count = in.count.empty() ? k : in.count[static_cast<size_t>(i)];
  for (int64_t j = 0; j < count; ++j) {
    const int64_t id = in.ids[static_cast<size_t>(i * k + j)];
    const double w = in.weights[static_cast<size_t>(i * k + j)];
    Vector scaled = x;
    if (eq.on_input) std::for_each(scaled.begin(), scaled.end(), [w](double& v) { v *= w; });
    Vector y(kModel, 0.0);
    if (id < n_experts) y = feed_forward(l, eq, "", id, kWidth, scaled, absolute);
    if (id >= n_experts && eq.n_zero > 0) y = scaled;
    for (size_t c = 0; c < y.size(); ++c) sum[c] += eq.on_input ? y[c] : w * y[c];
    if (eq.chunk_size == 0 || id >= n_experts) continue;
    y = feed_forward(l, eq, "chunk_", id / eq.chunk_size, kChunk, scaled, absolute);
    for (size_t c = 0; c < y.size(); ++c) sum[c] += 0.75 * (eq.on_input ? y[c] : w * y[c]);
  }
  if (d_shared > 0) {
    const Vector y = feed_forward(l, eq, "shared_", 0, d_shared, x, absolute);
    const double gate = eq.shared_gate ? sigma(product(l.weights.at("shared_router"), 0, 1, x, nullptr)[0]) : 1.0;
    for (size_t c = 0; c < y.size(); ++c) sum[c] += gate * y[c];
  }
  for (size_t c = 0; c < sum.size(); ++c) sum[c] = in.out[static_cast<size_t>(i * kModel) + c] + in.scale * sum[c];
  return sum;
}

void expect_equation_on(const std::string& backend, const moe_expert_config& config, const Options& given,
                        const Equation& eq, bool with_count) {
  test::Compute compute(backend);
  auto made = create(compute, config, given);
  ASSERT_TRUE(made.ok()) << made.error().message;
  for (const int64_t n : {1, 2, 9, 64}) {
    auto in = (*made)->random_input(n, config.n_experts + config.n_zero_experts);
    in.scale = 0.5F;
    for (int64_t i = 0; with_count && i < n; ++i) in.count.push_back(static_cast<int32_t>(1 + i % config.k_max));
    const auto got = (*made)->forward(in);
    for (int64_t i = 0; i < n; ++i) {
      const Vector want = expected(**made, eq, in, i, config.k_max, config.n_experts, config.d_shared, false);
      const Vector size = expected(**made, eq, in, i, config.k_max, config.n_experts, config.d_shared, true);
      for (int64_t c = 0; c < kModel; ++c) {
        const double a = got[static_cast<size_t>(i * kModel + c)];
        const double b = want[static_cast<size_t>(c)];
        // Sums of 24 and 40 products in f32 one after the other, the first squared by relu2: some 2^-24 of each term.
        if (!(std::fabs(a - b) <= 2e-6 * (1.0 + std::fabs(size[static_cast<size_t>(c)]))))
          FAIL() << backend << ", n " << n << ", token " << i << ", column " << c << ": " << a << " for " << b;
      }
    }
  }
}

void expect_equation(const moe_expert_config& config, const Options& given, const Equation& eq,
                     bool with_count = false) {
  for (const auto& backend : test::host_backends()) expect_equation_on(backend, config, given, eq, with_count);
}

TEST(SwiGlu, routed_experts_follow_the_equation) { expect_equation(layer(kExperts, 0), {}, {}); }

TEST(SwiGlu, count_limits_the_experts_of_a_token) { expect_equation(layer(kExperts, 0, 4), {}, {}, true); }

TEST(SwiGlu, shared_experts_are_added) { expect_equation(layer(kExperts, kShared), {}, {}); }

// Of the four choices of a token two at least meet in one of three smaller experts.
TEST(SwiGlu, smaller_experts_stand_beside_each_few_and_several_choices_add_up_there) {
  const auto chunks = [](Options more) {
    more.insert(more.end(), {number("chunk_size", 2), number("d_chunk", kChunk), real("chunk_scale", 0.75)});
    return more;
  };
  expect_equation(layer(6, 0, 4), chunks({}), {.chunk_size = 2});
  expect_equation(layer(6, 0, 4), chunks({}), {.chunk_size = 2}, true);
  expect_equation(layer(6, kShared, 4), chunks({flag("shared_gate", true), flag("bias", true)}),
                  {.biased = true, .shared_gate = true, .chunk_size = 2});
  auto config = layer(6, 0, 3);
  config.weight_on = MOE_WEIGHT_ON_INPUT;
  config.n_zero_experts = 2;
  expect_equation(config, chunks({text("zero_expert", "zero")}), {.on_input = true, .chunk_size = 2});
  expect_equation(layer(0, kShared), chunks({}), {});  // a dense layer has none
}

TEST(SwiGlu, shared_gate_multiplies_the_shared_part_only) {
  expect_equation(layer(kExperts, kShared), {flag("shared_gate", true)}, {.shared_gate = true});
}

TEST(SwiGlu, dense_layer_is_the_shared_part_without_its_gate) {
  expect_equation(layer(0, kShared), {flag("shared_gate", true), flag("bias", true)}, {});
}

TEST(SwiGlu, weights_on_the_input) {
  auto config = layer(kExperts, kShared);
  config.weight_on = MOE_WEIGHT_ON_INPUT;
  expect_equation(config, {}, {.on_input = true});
}

TEST(SwiGlu, identity_experts_return_their_input) {
  auto config = layer(kExperts, 0, 4);
  config.n_zero_experts = 3;
  expect_equation(config, {}, {.n_zero = 3});
  expect_equation(config, {}, {.n_zero = 3}, true);
}

TEST(SwiGlu, zero_experts_return_nothing) {
  auto config = layer(kExperts, 0, 4);
  config.n_zero_experts = 3;
  expect_equation(config, {text("zero_expert", "zero")}, {});
}

TEST(SwiGlu, every_activation_follows_its_formula) {
  const auto relu = [](double g) { return std::max(g, 0.0); };
  const auto gelu = [](double g) { return 0.5 * g * (1.0 + std::erf(g / std::sqrt(2.0))); };
  const auto gelu_tanh = [](double g) {
    return 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g)));
  };
  expect_equation(layer(kExperts, kShared), {text("activation", "gelu")},
                  {.act = [&](double g, double u) { return gelu(g) * u; }});
  expect_equation(layer(kExperts, kShared), {text("activation", "gelu_tanh")},
                  {.act = [&](double g, double u) { return gelu_tanh(g) * u; }});
  expect_equation(layer(kExperts, kShared), {text("activation", "relu")},
                  {.act = [&](double g, double u) { return relu(g) * u; }});
  expect_equation(layer(kExperts, kShared), {text("activation", "relu2")},
                  {.act = [&](double g, double u) { return relu(g) * relu(g) * u; }});
  expect_equation(layer(kExperts, kShared), {text("activation", "relu2"), flag("gated", false)},
                  {.act = [&](double g, double) { return relu(g) * relu(g); }, .gated = false});
  expect_equation(layer(kExperts, kShared), {text("activation", "gelu"), flag("gated", false)},
                  {.act = [&](double g, double) { return gelu(g); }, .gated = false});
}

TEST(SwiGlu, gpt_oss_clamps_and_has_biases) {
  const auto act = [](double g, double u) {
    g = std::min(g, 0.8);
    u = std::clamp(u, -0.8, 0.8);
    return (u + 1.0) * g * sigma(1.702 * g);
  };
  expect_equation(layer(kExperts, 0, 4), {text("activation", "swiglu_clamped"), real("limit", 0.8), flag("bias", true)},
                  {.act = act, .biased = true});
}

TEST(SwiGlu, limit_clamps_after_silu) {
  const auto act = [](double g, double u) { return std::min(silu(g, 1.0), 0.5) * std::clamp(u, -0.5, 0.5); };
  expect_equation(layer(kExperts, kShared), {real("limit", 0.5)}, {.act = act});
}

TEST(SwiGlu, no_tokens_are_no_error) {
  test::Compute compute;
  auto l = create(compute, layer(kExperts, kShared), {}).value();
  EXPECT_TRUE(l->forward({}).empty());
}

TEST(SwiGlu, a_row_does_not_depend_on_its_neighbours) {
  test::Compute compute;
  auto config = layer(kExperts, kShared, 3);
  config.n_zero_experts = 2;
  auto l = create(compute, config, {flag("shared_gate", true)}).value();
  const auto in = l->random_input(17, kExperts + 2);
  const auto all = l->forward(in);
  for (int64_t i = 0; i < 17; ++i) {
    Layer::Input one = in;
    one.n = 1;
    one.x.assign(in.x.begin() + i * kModel, in.x.begin() + (i + 1) * kModel);
    one.out.assign(in.out.begin() + i * kModel, in.out.begin() + (i + 1) * kModel);
    one.ids.assign(in.ids.begin() + i * 3, in.ids.begin() + (i + 1) * 3);
    one.weights.assign(in.weights.begin() + i * 3, in.weights.begin() + (i + 1) * 3);
    const auto alone = l->forward(one);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + i * kModel)) << "token " << i;
  }
}

// --- what it declares and refuses
// -----------------------------------------------------------------------------------------------

std::string refusal(const moe_expert_config& config, const Options& given, bool host_visible = true) {
  test::Compute compute;
  if (!host_visible) compute.set_flags(0);
  const auto made = create(compute, config, given);
  return made.ok() ? "" : made.error().message;
}

TEST(SwiGlu, refuses_options_that_do_not_fit) {
  EXPECT_EQ(refusal(layer(kExperts, 0), {text("activation", "swiglu_clamped")}),
            "limit: expected above 0 with activation = \"swiglu_clamped\", got 0");
  EXPECT_EQ(refusal(layer(kExperts, 0), {text("activation", "swiglu_clamped"), real("limit", 7), flag("gated", false)}),
            "gated: expected true with activation = \"swiglu_clamped\", got false");
  EXPECT_EQ(refusal(layer(kExperts, 0), {flag("shared_gate", true)}),
            "shared_gate: expected false in a layer without shared experts, got true");
  EXPECT_EQ(refusal(layer(0, 0), {}), "d_shared: expected at least 1 in a dense layer, got 0");
  EXPECT_EQ(refusal(layer(kExperts, 0), {number("chunk_size", 5)}),
            "d_chunk: expected at least 1 with chunk_size, got 0");
  EXPECT_EQ(refusal(layer(kExperts, 0), {number("chunk_size", 2), number("d_chunk", 8)}),
            "chunk_size: expected a divisor of 5 experts, got 2");
  EXPECT_EQ(refusal(layer(6, 0), {number("chunk_size", 2), number("d_chunk", 8)}, false),
            "chunk_size: expected 0 on a backend whose memory the host does not see, got 2");
  auto narrow = layer(kExperts, 0);
  narrow.d_expert = 0;
  EXPECT_EQ(refusal(narrow, {}), "d_expert: expected at least 1, got 0");
}

TEST(SwiGlu, declares_the_weights_of_its_options) {
  test::Compute compute;
  const auto roles = [&](const moe_expert_config& config, const Options& given) {
    std::string all;
    const auto made = create(compute, config, given);
    for (const auto& [role, values] : made.value()->weights) all += role + " ";
    return all;
  };
  EXPECT_EQ(roles(layer(kExperts, 0), {}), "down gate up ");
  EXPECT_EQ(roles(layer(kExperts, kShared), {}), "down gate shared_down shared_gate shared_up up ");
  EXPECT_EQ(roles(layer(0, kShared), {}), "shared_down shared_gate shared_up ");
  EXPECT_EQ(roles(layer(kExperts, 0), {flag("gated", false), flag("bias", true)}), "down down_bias gate gate_bias ");
  EXPECT_EQ(roles(layer(kExperts, kShared), {flag("shared_gate", true)}),
            "down gate shared_down shared_gate shared_router shared_up up ");
  EXPECT_EQ(roles(layer(6, 0), {number("chunk_size", 3), number("d_chunk", 8)}),
            "chunk_down chunk_gate chunk_up down gate up ");
}

}  // namespace
