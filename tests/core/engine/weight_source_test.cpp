// What a backend is told of weights that are stored as elements with scales of blocks beside them.
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>

#include "core/engine/weights.hpp"
#include "moe/sdk/backend.hpp"

namespace patchbay {
namespace {

// What a source gave.
struct Recorded {
  std::string encoding;
  std::string block_encoding;  // empty: none
  int64_t block_rows = 0;
  int64_t block_cols = 0;
  std::vector<std::vector<uint8_t>> elements;  // of each group, [n_out, n_in]
  std::vector<std::vector<float>> scales;      // [blocks down, blocks across]
  std::vector<std::vector<float>> values;
};
Recorded g_recorded;

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

class Recorder final : public moe::Backend {
 public:
  static constexpr const char* kName = "recorder";
  static constexpr const char* kDoc = "Writes down what it is given.";
  moe::Status open(const moe::Options&) override { return {}; }
  [[nodiscard]] moe_backend_description describe() const override {
    auto d = moe::make<moe_backend_description>();
    d.device = moe::kHost;
    d.flags = MOE_BACKEND_HOST_VISIBLE;
    d.device_name = "none";
    return d;
  }
  moe::Result<moe_buffer> alloc(uint64_t, int32_t) override { return moe::unimplemented("memory"); }
  moe::Status copy(void*, const void*, uint64_t, int32_t, void*) override { return {}; }
  moe::Result<moe_prepared> prepare(const moe_weight_source& s) override {
    g_recorded = {};
    g_recorded.encoding = s.encoding;
    for (int64_t g = 0; g < s.n_groups; ++g) {
      g_recorded.values.emplace_back(static_cast<size_t>(s.n_out * s.n_in));
      s.read_f32(s.context, g, 0, s.n_out, g_recorded.values.back().data());
    }
    if (s.block_encoding != nullptr) read_blocks(s);
    auto prepared = moe::make<moe_prepared>();
    prepared.weight = reinterpret_cast<moe_weight*>(this);  // never looked into
    prepared.encoding = "none";
    return prepared;
  }
  moe::Result<moe_op_info> find_op(std::string_view, const moe_op_args&) override { return moe::unimplemented("op"); }
  moe::Status launch(const moe_op&, const moe_op_args&, void*) override { return moe::unimplemented("op"); }
  moe::Status sync(void*) override { return {}; }

 private:
  static void read_blocks(const moe_weight_source& s) {
    Recorded& r = g_recorded;
    r.block_encoding = s.block_encoding;
    r.block_rows = s.block_rows;
    r.block_cols = s.block_cols;
    const int64_t down = blocks(s.n_out, s.block_rows);
    const int64_t across = blocks(s.n_in, s.block_cols);
    for (int64_t g = 0; g < s.n_groups; ++g) {
      auto& elements = r.elements.emplace_back(static_cast<size_t>(s.n_out * s.n_in));
      auto& scales = r.scales.emplace_back(static_cast<size_t>(down * across));
      for (int64_t i = down - 1; i >= 0; --i) {  // any order
        s.read_block_row(s.context, g, i, elements.data() + i * s.block_rows * s.n_in, s.n_in,
                         scales.data() + i * across);
      }
    }
  }
};

// A tensor [.., r, c] of e4m3 and its scales, in memory.
struct Stored {
  Stored(std::vector<int64_t> dims, int64_t rows, int64_t cols, unsigned seed) : shape(std::move(dims)) {
    std::mt19937 random(seed);
    codes.resize(static_cast<size_t>(element_count(shape)));
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random() % 127);
    scale_shape = shape;
    auto& down = scale_shape[shape.size() - 2];
    auto& across = scale_shape[shape.size() - 1];
    down = blocks(down, rows);
    across = blocks(across, cols);
    for (int64_t i = 0; i < element_count(scale_shape); ++i)
      scales.push_back(0.01F * static_cast<float>(1 + random() % 99));
    data = {"w", "f8_e4m3", shape, reinterpret_cast<const std::byte*>(codes.data()), codes.size()};
    companion = {"w_scale_inv", "f32", scale_shape, reinterpret_cast<const std::byte*>(scales.data()),
                 scales.size() * sizeof(float)};
    source = *TensorSource::block_scaled(data, companion, rows, cols);
  }
  Stored(const Stored&) = delete;
  Stored& operator=(const Stored&) = delete;
  std::vector<int64_t> shape;
  std::vector<int64_t> scale_shape;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  TensorInfo data;
  TensorInfo companion;
  std::optional<TensorSource> source;
};

class WeightSource : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = Device::open({&moe::ComponentOf<Recorder>::kTable, nullptr}, {}, host_);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    device_ = std::move(opened).value();
  }
  const Recorded& prepare(const std::vector<std::vector<TensorSource>>& groups) {
    MatrixSet set{"w", "gate", 0, groups[0][0].row_elements(), groups};
    for (const auto& part : groups[0]) set.n_out += part.n_rows();
    WeightLoader loader(checkpoint_, spec_, {});
    const auto prepared = loader.prepare(*device_, set, "auto");
    EXPECT_TRUE(prepared.ok()) << prepared.error().message;
    return g_recorded;
  }
  // Element * scale is the value, and the scale is that of the matrix's own blocks.
  static void expect_values(const Recorded& r, int64_t n_in) {
    const int64_t across = blocks(n_in, r.block_cols);
    for (size_t g = 0; g < r.values.size(); ++g) {
      for (size_t i = 0; i < r.values[g].size(); ++i) {
        const auto row = static_cast<int64_t>(i) / n_in;
        const auto col = static_cast<int64_t>(i) % n_in;
        const float scale = r.scales[g][static_cast<size_t>(row / r.block_rows * across + col / r.block_cols)];
        ASSERT_EQ(moe::f8_e4m3_to_f32(r.elements[g][i]) * scale, r.values[g][i]) << "group " << g << " element " << i;
      }
    }
  }

  Host host_{1};
  Checkpoint checkpoint_;
  ModelSpec spec_;
  std::unique_ptr<Device> device_;
};

TEST_F(WeightSource, a_tensors_blocks_come_as_they_are_stored) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{256, 128}, {130, 300}, {1, 1}}) {
    const Stored w({rows, cols}, 128, 128, 1);
    const Recorded& r = prepare({{*w.source}});
    EXPECT_EQ(r.encoding, "f32");  // with their scales no encoding says what the elements are
    EXPECT_EQ(r.block_encoding, "f8_e4m3");
    EXPECT_EQ(r.block_rows, 128);
    EXPECT_EQ(r.block_cols, 128);
    EXPECT_EQ(r.elements[0], w.codes);
    EXPECT_EQ(r.scales[0], w.scales);
    expect_values(r, cols);
  }
}

// As query, key and value are put together; the last one may end inside a block.
TEST_F(WeightSource, stacked_tensors_of_whole_rows_of_blocks_are_one_matrix_of_blocks) {
  const Stored a({256, 200}, 128, 128, 1);
  const Stored b({128, 200}, 128, 128, 2);
  const Stored c({70, 200}, 128, 128, 3);
  const Recorded& r = prepare({{*a.source, *b.source, *c.source}});
  ASSERT_EQ(r.block_encoding, "f8_e4m3");
  std::vector<uint8_t> codes = a.codes;
  std::vector<float> scales = a.scales;
  for (const Stored* more : {&b, &c}) {
    codes.insert(codes.end(), more->codes.begin(), more->codes.end());
    scales.insert(scales.end(), more->scales.begin(), more->scales.end());
  }
  EXPECT_EQ(r.elements[0], codes);
  EXPECT_EQ(r.scales[0], scales);
  expect_values(r, 200);
}

// Experts in one tensor, gate and up its halves.
TEST_F(WeightSource, halves_of_a_stack_of_experts_have_the_blocks_of_their_place) {
  const Stored w({3, 512, 150}, 128, 128, 4);
  std::vector<std::vector<TensorSource>> up;
  for (int64_t e = 0; e < 3; ++e) up.push_back({*w.source->select(e)->slice(0, 256, 256)});
  const Recorded& r = prepare(up);
  ASSERT_EQ(r.block_encoding, "f8_e4m3");
  for (int64_t e = 0; e < 3; ++e) {
    const auto first = w.codes.begin() + (e * 512 + 256) * 150;
    EXPECT_EQ(r.elements[static_cast<size_t>(e)], std::vector<uint8_t>(first, first + 256 * 150)) << e;
    const auto scale = w.scales.begin() + (e * 4 + 2) * 2;
    EXPECT_EQ(r.scales[static_cast<size_t>(e)], std::vector<float>(scale, scale + 4)) << e;
  }
  expect_values(r, 150);
}

TEST_F(WeightSource, blocks_of_another_size_are_told_as_such) {
  const Stored w({50, 100}, 16, 64, 5);
  const Recorded& r = prepare({{*w.source}});
  EXPECT_EQ(r.block_rows, 16);
  EXPECT_EQ(r.block_cols, 64);
  EXPECT_EQ(r.scales[0], w.scales);
  expect_values(r, 100);
}

TEST_F(WeightSource, without_blocks_of_its_own_a_matrix_has_none) {
  const Stored ragged({130, 200}, 128, 128, 1);
  const Stored more({128, 200}, 128, 128, 2);
  const Stored other({128, 200}, 64, 128, 3);
  EXPECT_EQ(prepare({{*ragged.source, *more.source}}).block_encoding, "");  // those of the second begin in a block
  EXPECT_EQ(prepare({{*more.source, *other.source}}).block_encoding, "");
  EXPECT_EQ(prepare({{*ragged.source->slice(0, 1, 128)}}).block_encoding, "");
  EXPECT_EQ(prepare({{*ragged.source->transposed()}}).block_encoding, "");
  EXPECT_EQ(prepare({{*more.source->slice(0, 0, 64, 2)}}).block_encoding, "");
  EXPECT_EQ(prepare({{*TensorSource::plain(more.data)}}).block_encoding, "");
}

}  // namespace
}  // namespace patchbay
