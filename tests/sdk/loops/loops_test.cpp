// The loops against numpy: tests/data/ops/make.py computes the papers' formulas in float64, which is what the loops
// promise.
#include "moe/sdk/loops.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/model/json/json.hpp"
#include "moe/sdk/compute.hpp"

namespace patchbay {
namespace {

using nlohmann::json;

json cases(const std::string& op) {
  auto file = parse_json_file(std::string(PATCHBAY_SOURCE_DIR) + "/tests/data/ops/" + op + ".json");
  EXPECT_TRUE(file.ok()) << file.error().message;
  return file.ok() ? file.value().at("cases") : json::array();
}

// Numbers of an array of any depth, flat, and their shape.
template <typename T>
struct Numbers {
  std::vector<T> values;
  std::vector<int64_t> shape;

  Numbers(const json& array, const char* key) {  // NOLINT: a missing key is no numbers
    if (!array.contains(key)) return;
    for (const json* a = &array.at(key); a->is_array() && !a->empty(); a = &a->front())
      shape.push_back(static_cast<int64_t>(a->size()));
    add(array.at(key));
  }
  // A view; absent where there are none.
  moe_tensor view() {
    if (values.empty()) return moe::absent();
    moe_tensor t = moe::make<moe_tensor>();
    t.data = values.data();
    t.dtype = moe::kDtype<T>;
    t.ndim = static_cast<int32_t>(shape.size());
    int64_t stride = 1;
    for (int32_t i = t.ndim - 1; i >= 0; --i) {
      t.shape[i] = shape[static_cast<size_t>(i)];
      t.strides[i] = stride;
      stride *= t.shape[i];
    }
    return t;
  }

 private:
  void add(const json& a) {
    if (!a.is_array()) {
      values.push_back(a.get<T>());
      return;
    }
    for (const auto& item : a) add(item);
  }
};
using Floats = Numbers<float>;
using Ints = Numbers<int32_t>;
using Doubles = Numbers<double>;

// A weight of plain f32, and the table that reads it.
struct Weight {
  explicit Weight(const json& c, const char* key) : numbers(c, key) {}
  Floats numbers;
  [[nodiscard]] const moe_weight* handle() const { return reinterpret_cast<const moe_weight*>(this); }
};
const moe_backend_rows& rows() {
  static const moe_backend_rows table = [] {
    auto r = moe::make<moe_backend_rows>();
    r.shape = [](const moe_weight* w, int64_t shape[3]) {
      std::copy_n(reinterpret_cast<const Weight*>(w)->numbers.shape.data(), 3, shape);
    };
    r.row = [](const moe_weight* w, int64_t group, int64_t row, float*) -> const float* {
      const Floats& n = reinterpret_cast<const Weight*>(w)->numbers;
      return n.values.data() + (group * n.shape[1] + row) * n.shape[2];
    };
    return r;
  }();
  return table;
}

template <typename Args>
moe::Status run(const char* id, Args& args) {
  const moe::loops::LoopContext context{nullptr, &rows()};
  const moe::loops::LoopOp* op = moe::loops::find(id);
  if (op == nullptr) return moe::not_found(id);
  std::vector<uint64_t> workspace(op->workspace(args.header, context) / 8 + 1);
  args.header.workspace = workspace.data();
  args.header.workspace_bytes = workspace.size() * 8;
  return op->run(args.header, context);
}

// Both sides are double inside; what differs is one rounding to f32, and the order of numpy's sums.
void expect_same(const std::vector<float>& got, const std::vector<double>& want, const std::string& name) {
  ASSERT_EQ(got.size(), want.size()) << name;
  double largest = 0.0;
  for (const double w : want) largest = std::max(largest, std::fabs(w));
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(std::fabs(got[i] - want[i]) <= 0x1p-23 * std::fabs(want[i]) + 1e-9 * largest)
        << name << ": element " << i << ": expected " << want[i] << ", got " << got[i];
  }
}

// The hidden row is stored as f32 between two products: numpy's sum may round it the other way, or carry it over a
// rounding boundary, which the script's data does not do.
void expect_near(const std::vector<float>& got, const std::vector<double>& want, const std::string& name) {
  ASSERT_EQ(got.size(), want.size()) << name;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_TRUE(std::fabs(got[i] - want[i]) <= 1e-6 * (1.0 + std::fabs(want[i])))
        << name << ": element " << i << ": expected " << want[i] << ", got " << got[i];
  }
}

TEST(Loops, route_follows_the_formulas_of_every_known_router) {
  int n = 0;
  for (const json& c : cases("route")) {
    const auto name = c.at("name").get<std::string>();
    auto a = moe::op_args<moe_route_op_args>();
    Floats logits(c, "logits");
    Floats bias(c, "bias");
    a.n_experts = c.at("n_experts");
    a.top_k = c.at("top_k");
    a.score = c.at("score");
    a.group_score = c.value("group_score", 0);
    a.n_groups = c.value("n_groups", 0);
    a.top_groups = c.value("top_groups", 0);
    a.fill = c.value("fill", 0);
    a.renorm = c.value("renorm", 0);
    a.renorm_eps = c.value("renorm_eps", 0.0F);
    a.dynamic = c.value("dynamic", 0);
    a.k_min = c.value("k_min", 0);
    a.threshold = c.value("threshold", 0.0F);
    a.scale = c.value("scale", 1.0F);
    a.logit_cap = c.value("logit_cap", 0.0F);
    a.sparse_eps = c.value("sparse_eps", 0.0F);
    a.logits = logits.view();
    a.bias = bias.view();
    const int64_t n_rows = logits.shape[0];
    std::vector<int32_t> ids(static_cast<size_t>(n_rows * a.top_k));
    std::vector<float> weights(ids.size());
    std::vector<int32_t> count(static_cast<size_t>(n_rows));
    a.ids = moe::tensor(ids.data(), {n_rows, a.top_k});
    a.weights = moe::tensor(weights.data(), {n_rows, a.top_k});
    a.count = moe::tensor(count.data(), {n_rows});
    const auto status = run(MOE_OP_ROUTE, a);
    ASSERT_TRUE(status.ok()) << name << ": " << status.error().message;
    EXPECT_EQ(count, Ints(c, "count").values) << name;
    Ints want(c, "ids");
    for (size_t i = 0; i < ids.size(); ++i) {  // -1 in the file: beyond the row's count
      if (want.values[i] >= 0) {
        EXPECT_EQ(ids[i], want.values[i]) << name << ": element " << i;
      }
    }
    expect_same(weights, Doubles(c, "weights").values, name);
    ++n;
  }
  EXPECT_EQ(n, 17);
}

TEST(Loops, route_shows_a_nan_in_every_weight_and_keeps_ids_legal) {
  auto a = moe::op_args<moe_route_op_args>();
  std::vector<float> logits = {1, 2, NAN, 3, 4, 1, 2, 3};
  std::vector<int32_t> ids(4);
  std::vector<float> weights(4);
  a.n_experts = 4;
  a.top_k = 2;
  a.scale = 1.0F;
  a.logits = moe::tensor(logits.data(), {2, 4});
  a.ids = moe::tensor(ids.data(), {2, 2});
  a.weights = moe::tensor(weights.data(), {2, 2});
  for (const int32_t score : {MOE_SCORE_SOFTMAX, MOE_SCORE_SIGMOID, MOE_SCORE_SQRT_SOFTPLUS, MOE_SCORE_SOFTMAX_CHOSEN,
                              MOE_SCORE_SPARSE_MIXER}) {
    a.score = score;
    ASSERT_TRUE(run(MOE_OP_ROUTE, a).ok());
    EXPECT_TRUE(std::isnan(weights[0]) && std::isnan(weights[1])) << "score " << score;
    EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 0, 3})) << "score " << score;
    EXPECT_TRUE(weights[2] > 0.0F) << "score " << score;
  }
}

TEST(Loops, rope_rotates_both_layouts_and_leaves_the_rest) {
  for (const json& c : cases("rope")) {
    auto a = moe::op_args<moe_rope_args>();
    Floats x(c, "x");
    Ints positions(c, "positions");
    Floats inv_freq(c, "inv_freq");
    a.x = x.view();
    a.positions = positions.view();
    a.inv_freq = inv_freq.view();
    a.offset = c.at("offset");
    a.scale = c.at("scale");
    a.interleaved = c.at("interleaved");
    ASSERT_TRUE(run(MOE_OP_ROPE, a).ok());
    expect_near(x.values, Doubles(c, "out").values, c.at("name"));
  }
}

TEST(Loops, attention_follows_pages_windows_sinks_and_latent_views) {
  for (const json& c : cases("attention")) {
    auto a = moe::op_args<moe_attention_args>();
    Floats q(c, "q");
    Floats k(c, "k");
    Floats v(c, "v");
    Floats sinks(c, "sinks");
    Ints table(c, "page_table");
    Ints sequences(c, "sequences");
    Ints positions(c, "positions");
    const int64_t v_dim = c.at("v_dim");
    a.q = q.view();
    a.k = k.view();
    a.v = v.values.empty() ? a.k : v.view();
    a.v.shape[2] = v_dim;
    a.sequences = sequences.view();
    a.positions = positions.view();
    a.pages.page_table = table.view();
    a.pages.page_size = c.at("page_size");
    a.sinks = sinks.view();
    a.window = c.at("window");
    a.chunk = c.value("chunk", 0);
    a.temperature = c.value("temperature", 0.0F);
    a.temperature_length = c.value("temperature_length", 1);
    a.temperature_offset = c.value("temperature_offset", 0);
    if (a.chunk > 0) a.header.must_understand |= MOE_ATTENTION_CHUNK;
    if (a.temperature > 0) a.header.must_understand |= MOE_ATTENTION_TEMPERATURE;
    a.scale = c.at("scale");
    a.soft_cap = c.at("soft_cap");
    std::vector<float> out(static_cast<size_t>(q.shape[0] * q.shape[1] * v_dim));
    a.out = moe::tensor(out.data(), {q.shape[0], q.shape[1], v_dim});
    const auto status = run(MOE_OP_ATTENTION, a);
    ASSERT_TRUE(status.ok()) << status.error().message;
    expect_same(out, Doubles(c, "out").values, c.at("name"));
  }
}

moe_gating gating_of(const json& c) {
  return {c.at("kind").get<int32_t>(), c.value("ungated", 0), c.at("limit").get<float>(), c.at("alpha").get<float>()};
}

TEST(Loops, activation_has_every_form) {
  for (const json& c : cases("activation")) {
    auto a = moe::op_args<moe_activation_args>();
    Floats gate(c, "gate");
    Floats up(c, "up");
    a.gate = gate.view();
    a.up = up.view();
    a.out = a.gate;
    a.gating = gating_of(c);
    ASSERT_TRUE(run(MOE_OP_ACTIVATION, a).ok());
    expect_same(gate.values, Doubles(c, "out").values, c.at("name"));
  }
}

TEST(Loops, ffn_gathers_gates_weighs_and_rounds) {
  for (const json& c : cases("ffn")) {
    auto a = moe::op_args<moe_ffn_args>();
    const Weight gate(c, "gate");
    const Weight up(c, "up");
    const Weight down(c, "down");
    Floats gate_bias(c, "gate_bias");
    Floats up_bias(c, "up_bias");
    Floats down_bias(c, "down_bias");
    Floats x(c, "x");
    Ints ids(c, "ids");
    Floats weights(c, "weights");
    Ints count(c, "count");
    Floats row_gate(c, "row_gate");
    Floats out(c, "there");
    a.gate = gate.handle();
    a.up = up.handle();
    a.down = down.handle();
    a.gate_bias = gate_bias.view();
    a.up_bias = up_bias.view();
    a.down_bias = down_bias.view();
    a.x = x.view();
    a.ids = ids.view();
    a.weights = weights.view();
    a.count = count.view();
    a.row_gate = row_gate.view();
    a.out = out.view();
    a.first_expert = c.at("first_expert");
    a.n_experts = gate.numbers.shape[0];
    a.width = gate.numbers.shape[1];
    a.gating = gating_of(c);
    a.activation = c.at("activation");
    a.weight_on = c.at("weight_on");
    a.accumulate = 1;
    a.scale = c.at("scale");
    const auto status = run(MOE_OP_FFN, a);
    ASSERT_TRUE(status.ok()) << status.error().message;
    expect_near(out.values, Doubles(c, "out").values, c.at("name"));
  }
}

TEST(Loops, norm_has_both_kinds_and_updates_the_residual_stream) {
  for (const json& c : cases("norm")) {
    auto a = moe::op_args<moe_norm_args>();
    Floats x(c, "x");
    Floats residual(c, "residual");
    Floats weight(c, "weight");
    Floats bias(c, "bias");
    std::vector<float> sum = x.values;
    for (size_t i = 0; i < residual.values.size(); ++i) sum[i] += residual.values[i];
    Floats out = x;
    a.x = x.view();
    a.residual = residual.view();
    a.weight = weight.view();
    a.bias = bias.view();
    a.out = out.view();
    a.eps = c.at("eps");
    a.kind = c.at("kind");
    ASSERT_TRUE(run(MOE_OP_NORM, a).ok());
    expect_same(out.values, Doubles(c, "out").values, c.at("name"));
    EXPECT_EQ(x.values, sum) << c.at("name");
  }
}

TEST(Loops, matmul_rounds_activations_adds_and_caps) {
  for (const json& c : cases("matmul")) {
    auto a = moe::op_args<moe_matmul_args>();
    const Weight weight(c, "weight");
    Floats x(c, "x");
    Floats bias(c, "bias");
    Floats out(c, "there");
    a.weight = weight.handle();
    a.x = x.view();
    a.bias = bias.view();
    a.out = out.view();
    a.scale = c.at("scale");
    a.soft_cap = c.at("soft_cap");
    a.activation = c.at("activation");
    a.accumulate = c.at("accumulate");
    const auto status = run(MOE_OP_MATMUL, a);
    ASSERT_TRUE(status.ok()) << status.error().message;
    expect_same(out.values, Doubles(c, "out").values, c.at("name"));
  }
}

TEST(Loops, what_does_not_fit_is_an_error_and_not_a_crash) {
  auto add = moe::op_args<moe_add_args>();
  std::vector<float> x(6);
  add.x = moe::tensor(x.data(), {2, 3});
  add.out = moe::tensor(x.data(), {3, 2});
  auto status = run(MOE_OP_ADD, add);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "out: expected [2, 3], got [3, 2]");

  add.header.struct_size = 8;
  EXPECT_EQ(run(MOE_OP_ADD, add).error().code, MOE_INVALID_ARGUMENT);
  add.header.struct_size = sizeof(add);
  add.header.must_understand = 1;
  EXPECT_EQ(run(MOE_OP_ADD, add).error().code, MOE_UNIMPLEMENTED);

  auto route = moe::op_args<moe_route_op_args>();
  route.score = MOE_SCORE_SOFTMAX;
  route.n_experts = 2;
  route.top_k = 3;
  EXPECT_EQ(run(MOE_OP_ROUTE, route).error().message, "top_k: expected 1 to 2, got 3");
}

TEST(Loops, embed_refuses_an_id_outside_the_table) {
  const json c = {{"table", {{{1.0, 2.0}, {3.0, 4.0}}}}};
  const Weight table(c, "table");
  auto a = moe::op_args<moe_embed_args>();
  std::vector<int32_t> ids = {1, 2};
  std::vector<float> out(4, -1.0F);
  a.table = table.handle();
  a.ids = moe::tensor(ids.data(), {2});
  a.out = moe::tensor(out.data(), {2, 2});
  a.scale = 2.0F;
  EXPECT_EQ(run(MOE_OP_EMBED, a).error().message, "ids[1]: expected 0 to 1, got 2");
  EXPECT_EQ(out, std::vector<float>(4, -1.0F));
  ids[1] = 0;
  ASSERT_TRUE(run(MOE_OP_EMBED, a).ok());
  EXPECT_EQ(out, (std::vector<float>{6, 8, 2, 4}));
}

TEST(Loops, eight_bit_rounding_keeps_zeros_and_shows_what_is_not_finite) {
  std::vector<float> x(40, 0.0F);
  moe::loops::round_row(MOE_I8, x.data(), 40, x.data());
  EXPECT_EQ(x, std::vector<float>(40, 0.0F));
  x[3] = 127.0F;
  x[4] = 0.5F;  // half way: to the even 0
  x[5] = 1.5F;  // and to the even 2
  x[35] = INFINITY;
  moe::loops::round_row(MOE_I8, x.data(), 40, x.data());
  EXPECT_EQ(x[3], 127.0F);
  EXPECT_EQ(x[4], 0.0F);
  EXPECT_EQ(x[5], 2.0F);
  for (size_t i = 32; i < 40; ++i) EXPECT_TRUE(std::isnan(x[i]));
}

}  // namespace
}  // namespace patchbay
