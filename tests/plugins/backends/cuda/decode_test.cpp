// Norms, ropes, stores and attention of a few tokens with heads as large models have them, as one against one by one:
// the same bits.
#include <sstream>

#include "plugins/backends/cuda/on_device.hpp"

namespace patchbay::test {
namespace {

enum class Norms { kNone, kEach, kWhole };

struct DecodeShape {
  int64_t heads, kv_heads, dim, n_rot;
  Norms norms;
  bool interleaved = false;
  int64_t offset = 0;
};

struct Token {
  int32_t sequence, position;
  bool stored = true;
};

struct DecodeCase {
  DecodeShape shape;
  std::vector<Token> tokens;
  int64_t window = 0;
  bool sinks = false;
  int64_t table_pages = 22;
  int64_t n_sequences = 9;

  [[nodiscard]] std::string text() const {
    std::ostringstream out;
    out << "heads " << shape.heads << " kv_heads " << shape.kv_heads << " dim " << shape.dim << " norms "
        << static_cast<int>(shape.norms) << " window " << window << " pages " << table_pages << " tokens";
    for (const Token& t : tokens) out << " " << t.sequence << ":" << t.position;
    return out.str();
  }
};

constexpr int64_t kPage = 16;
constexpr int64_t kPagesOfSequence = 22;  // that the cache has; a longer table repeats the last

struct DecodeResult {
  std::vector<uint16_t> k, v;
  std::vector<float> out;
};

// The memory and the arguments of a case; equal for equal cases.
class Decode {
 public:
  Decode(OnDevice& device, const DecodeCase& c) : device_(device), c_(c) {
    const auto& s = c.shape;
    n_ = static_cast<int64_t>(c.tokens.size());
    q_dim_ = s.heads * s.dim;
    kv_dim_ = s.kv_heads * s.dim;
    projected_ = numbers({n_, q_dim_ + 2 * kv_dim_});
    fill_inputs();
    fill_norms();
    fill_ropes();
    fill_stores();
    fill_attention();
  }

  DecodeResult run(bool fused) {
    std::vector<const char*> ids;
    std::vector<moe_op_args*> args;
    const auto add = [&](const char* id, moe_op_args& a) {
      ids.push_back(id);
      args.push_back(&a);
    };
    if (c_.shape.norms != Norms::kNone) {
      add(MOE_OP_NORM, q_norm_.header);
      add(MOE_OP_NORM, k_norm_.header);
    }
    if (c_.shape.n_rot > 0) {
      add(MOE_OP_ROPE, q_rope_.header);
      add(MOE_OP_ROPE, k_rope_.header);
    }
    const uint32_t temporary = (1U << ids.size()) - 1;
    add(MOE_OP_CACHE_STORE, k_store_.header);
    add(MOE_OP_CACHE_STORE, v_store_.header);
    add(MOE_OP_ATTENTION, attention_.header);
    if (fused) {
      EXPECT_TRUE(device_.launch_fused(ids, {args.begin(), args.end()}, temporary));
    } else {
      for (size_t i = 0; i < ids.size(); ++i) device_.launch(ids[i], *args[i]);
    }
    return {device_.get<uint16_t>(attention_.k.data, n_rows() * kv_dim_),
            device_.get<uint16_t>(attention_.v.data, n_rows() * kv_dim_),
            device_.get<float>(attention_.out.data, n_ * q_dim_)};
  }

 private:
  [[nodiscard]] int64_t n_rows() const { return c_.n_sequences * kPagesOfSequence * kPage; }
  // Pages of different sequences lie between each other.
  [[nodiscard]] int64_t page_of(int64_t sequence, int64_t page) const {
    return std::min(page, kPagesOfSequence - 1) * c_.n_sequences + sequence;
  }

  // Those of the n-th call do not depend on the calls before.
  moe_tensor numbers(std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    Random random(++seed_);
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = static_cast<float>(random.uniform(-2, 2));
    return device_.put(values, shape);
  }
  // Columns of the projections, as heads where `heads` is not 0.
  [[nodiscard]] moe_tensor part(int64_t begin, int64_t heads, int64_t dim) const {
    return columns_of(projected_, begin, heads, dim);
  }

  void fill_inputs() {
    std::vector<int32_t> positions;
    std::vector<int32_t> sequences;
    std::vector<int64_t> rows;
    for (const Token& t : c_.tokens) {
      positions.push_back(t.position);
      sequences.push_back(t.sequence);
      const int64_t at = std::max(t.position, 0);
      rows.push_back(t.stored ? page_of(t.sequence, at / kPage) * kPage + at % kPage : -1);
    }
    positions_ = device_.put(positions, {n_});
    sequences_ = device_.put(sequences, {n_});
    rows_ = device_.put(rows, {n_});
  }
  void fill_norms() {
    const auto& s = c_.shape;
    const bool whole = s.norms == Norms::kWhole;
    q_norm_.x = q_norm_.out = whole ? part(0, 0, q_dim_) : part(0, s.heads, s.dim);
    q_norm_.weight = numbers({whole ? q_dim_ : s.dim});
    q_norm_.eps = 1e-5F;
    q_norm_.kind = MOE_NORM_RMS;
    k_norm_ = q_norm_;
    k_norm_.x = k_norm_.out = whole ? part(q_dim_, 0, kv_dim_) : part(q_dim_, s.kv_heads, s.dim);
    k_norm_.weight = numbers({whole ? kv_dim_ : s.dim});
  }
  void fill_ropes() {
    const auto& s = c_.shape;
    q_rope_.x = part(0, s.heads, s.dim);
    q_rope_.positions = positions_;
    q_rope_.inv_freq = numbers({std::max<int64_t>(s.n_rot / 2, 1)});
    q_rope_.scale = 1.1F;
    q_rope_.offset = s.offset;
    q_rope_.interleaved = s.interleaved ? 1 : 0;
    k_rope_ = q_rope_;
    k_rope_.x = part(q_dim_, s.kv_heads, s.dim);
    k_rope_.inv_freq = numbers({std::max<int64_t>(s.n_rot / 2, 1)});
  }
  moe_tensor cache() {
    Random random(++seed_);
    std::vector<uint16_t> all(static_cast<size_t>(n_rows() * kv_dim_));
    constexpr size_t kSome = 4093;  // then they come again: rows differ, and a test of many cases takes seconds
    for (size_t i = 0; i < all.size(); ++i)
      all[i] = i < kSome ? moe::f32_to_bf16(static_cast<float>(random.uniform(-2, 2))) : all[i - kSome];
    return device_.put_bf16(all, n_rows(), c_.shape.kv_heads, c_.shape.dim);
  }
  void fill_stores() {
    attention_.k = cache();
    attention_.v = cache();
    const auto as_rows = [&](moe_tensor t) {
      t.ndim = 2;
      t.shape[1] = kv_dim_;
      t.strides[1] = 1;
      return t;
    };
    k_store_.x = part(q_dim_, 0, kv_dim_);
    k_store_.rows = rows_;
    k_store_.cache = as_rows(attention_.k);
    v_store_ = k_store_;
    v_store_.x = part(q_dim_ + kv_dim_, 0, kv_dim_);
    v_store_.cache = as_rows(attention_.v);
  }
  void fill_attention() {
    const auto& s = c_.shape;
    std::vector<int32_t> table;
    for (int64_t sequence = 0; sequence < c_.n_sequences; ++sequence) {
      for (int64_t page = 0; page < c_.table_pages; ++page)
        table.push_back(static_cast<int32_t>(page_of(sequence, page)));
    }
    attention_.q = part(0, s.heads, s.dim);
    attention_.sequences = sequences_;
    attention_.positions = positions_;
    attention_.pages = {device_.put(table, {c_.n_sequences, c_.table_pages}), kPage};
    attention_.out = numbers({n_, s.heads, s.dim});
    attention_.scale = 1.0F / std::sqrt(static_cast<float>(s.dim));
    attention_.window = c_.window;
    if (c_.sinks) attention_.sinks = numbers({s.heads});
  }

  OnDevice& device_;
  const DecodeCase& c_;
  uint64_t seed_ = 0;
  int64_t n_ = 0, q_dim_ = 0, kv_dim_ = 0;
  moe_tensor projected_{}, positions_{}, sequences_{}, rows_{};
  moe_norm_args q_norm_ = moe::op_args<moe_norm_args>();
  moe_norm_args k_norm_ = q_norm_;
  moe_rope_args q_rope_ = moe::op_args<moe_rope_args>();
  moe_rope_args k_rope_ = q_rope_;
  moe_cache_store_args k_store_ = moe::op_args<moe_cache_store_args>();
  moe_cache_store_args v_store_ = k_store_;
  moe_attention_args attention_ = moe::op_args<moe_attention_args>();
};

constexpr DecodeShape kShapes[] = {
    {16, 16, 128, 128, Norms::kWhole},        // OLMoE
    {32, 4, 128, 128, Norms::kEach},          // Qwen3
    {8, 2, 64, 32, Norms::kEach, true},       // half of each head turns
    {6, 3, 64, 32, Norms::kNone, false, 32},  // its other half
    {40, 2, 128, 128, Norms::kNone},          // more heads than one block takes
    {2, 2, 64, 64, Norms::kWhole},            // a row of one norm is short
    {4, 1, 256, 64, Norms::kEach},           {8, 8, 128, 0, Norms::kWhole},
};

class Decoding : public Fused {
 protected:
  // Twice on the same backend: what the first leaves must not show.
  void expect_the_same(const DecodeCase& c) {
    OnDevice device(*backend_);
    const DecodeResult want = Decode(device, c).run(false);
    for (int round = 0; round < 2; ++round) {
      Decode decode(device, c);
      const DecodeResult got = decode.run(true);
      EXPECT_TRUE(got.k == want.k) << c.text() << " k";
      EXPECT_TRUE(got.v == want.v) << c.text() << " v";
      for (size_t i = 0; i < want.out.size(); ++i) {
        ASSERT_EQ(got.out[i], want.out[i]) << c.text() << " out " << i << " round " << round;
      }
    }
  }
};

// On both sides of a tile, a page, and a chunk.
TEST_F(Decoding, a_few_tokens_are_those_one_by_one_to_the_bit) {
  constexpr int32_t kPositions[] = {300, 0, 15, 16, 31, 32, 33, 351};
  for (const auto& shape : kShapes) {
    for (const int n : {1, 2, 3, 8}) {
      DecodeCase c{shape, {}};
      for (int i = 0; i < n; ++i) c.tokens.push_back({i, kPositions[i]});
      expect_the_same(c);
    }
    for (const int32_t position : {0, 47, 48, 127, 128, 351}) expect_the_same({shape, {{1, position}}});
  }
}

TEST_F(Decoding, sinks_and_windows_are_those_one_by_one_to_the_bit) {
  for (const auto& shape : kShapes) {
    expect_the_same({shape, {{0, 300}, {1, 20}}, 0, true});
    expect_the_same({shape, {{0, 300}, {1, 7}}, 40, true});
    expect_the_same({shape, {{0, 301}}, 1, false});
  }
}

// More chunks than the block that is last combines, where it has several heads.
TEST_F(Decoding, a_long_table_is_that_one_by_one_to_the_bit) {
  for (const auto& shape : kShapes) expect_the_same({shape, {{0, 340}}, 0, false, 160});
}

TEST_F(Decoding, tokens_of_one_sequence_see_each_other) {
  for (const auto& shape : kShapes) {
    expect_the_same({shape, {{1, 40}, {1, 41}}});
    expect_the_same({shape, {{0, 250}, {0, 251}, {1, 31}, {1, 32}, {1, 33}, {2, 0}, {0, 252}, {3, 100}}});
  }
}

TEST_F(Decoding, a_token_may_not_be_stored_or_attend_to_nothing) {
  for (const auto& shape : kShapes) {
    expect_the_same({shape, {{0, 100, false}, {1, 60}}});
    expect_the_same({shape, {{0, -1}, {1, 60}, {2, -1, false}}});
  }
}

class DeterministicDecoding : public Decoding {
 protected:
  [[nodiscard]] std::vector<GivenOption> options() const override { return {{"deterministic", true, "a test"}}; }
};

TEST_F(DeterministicDecoding, a_token_alone_is_that_among_nine_to_the_bit) {
  for (const auto& shape : kShapes) {
    DecodeCase nine{shape, {}};
    for (int i = 0; i < 9; ++i) nine.tokens.push_back({i, 300 - 17 * i});
    const DecodeCase alone{shape, {nine.tokens[0]}};
    expect_the_same(nine);
    OnDevice device(*backend_);
    const auto among = Decode(device, nine).run(true).out;
    const auto by_itself = Decode(device, alone).run(true).out;
    for (size_t i = 0; i < by_itself.size(); ++i) ASSERT_EQ(by_itself[i], among[i]) << alone.text() << " out " << i;
  }
}

}  // namespace
}  // namespace patchbay::test
