#include "core/model/checkpoint/assemble.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace patchbay {
namespace {

// A tensor with memory of its own.
struct Owned {
  Owned(std::string_view name, std::string_view encoding, std::vector<int64_t> dims, std::vector<std::byte> content)
      : shape(std::move(dims)), bytes(std::move(content)), info{name, encoding, shape, bytes.data(), bytes.size()} {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
  TensorInfo info;
};

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto* p = reinterpret_cast<const std::byte*>(values.data());
  return {p, p + values.size() * sizeof(T)};
}

std::vector<std::byte> random_bytes(size_t n, unsigned seed, unsigned below = 256) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random() % below);
  return bytes;
}

// f32 tensor of that shape whose elements are their own numbers.
std::unique_ptr<Owned> numbered(std::vector<int64_t> shape) {
  std::vector<float> values(static_cast<size_t>(element_count(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  return std::make_unique<Owned>("w", "f32", std::move(shape), bytes_of(values));
}

std::vector<float> all(const TensorSource& source) {
  std::vector<float> out(static_cast<size_t>(source.n_rows() * source.row_elements()), -1.0F);
  source.read_f32(0, source.n_rows(), out.data());
  return out;
}

std::vector<int64_t> dims(const TensorSource& source) { return {source.shape().begin(), source.shape().end()}; }

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Assemble, views_compose_as_in_numpy) {
  const auto w = numbered({2, 4, 3});
  const TensorSource s = *TensorSource::plain(w->info);
  EXPECT_EQ(dims(s), (std::vector<int64_t>{2, 4, 3}));
  EXPECT_EQ(all(*s.select(1)), (std::vector<float>{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(all(*s.select(1)->transposed()), (std::vector<float>{12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23}));
  EXPECT_EQ(all(*s.select(0)->slice(0, 1, 2, 2)), (std::vector<float>{3, 4, 5, 9, 10, 11}));
  EXPECT_EQ(all(*s.select(0)->transposed()->slice(0, 0, 2)->slice(1, 1, 2, 2)), (std::vector<float>{3, 9, 4, 10}));
  EXPECT_EQ(all(*s.slice(2, 1, 1)), (std::vector<float>{1, 4, 7, 10, 13, 16, 19, 22}));
  EXPECT_EQ(all(*s.select(1)->select(3)->slice(0, 2, 1)), (std::vector<float>{23}));
  EXPECT_EQ(all(*s.select(1)->select(3)->select(2)), (std::vector<float>{23}));
  EXPECT_EQ(dims(*s.transposed()), (std::vector<int64_t>{2, 3, 4}));
  const TensorSource row = *s.select(0)->select(2)->as_row();
  EXPECT_EQ(dims(row), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(all(row), (std::vector<float>{6, 7, 8}));
  EXPECT_FALSE(s.as_row().ok());
}

TEST(Assemble, rows_read_one_by_one_or_at_once_are_the_same) {
  const auto w = numbered({3, 130, 70});
  const TensorSource s = *TensorSource::plain(w->info);
  for (const TensorSource& v : {s, *s.transposed(), *s.select(2), *s.select(2)->transposed(), *s.slice(1, 1, 13, 3),
                                *s.transposed()->slice(1, 2, 5, 6), *s.select(1)->transposed()->slice(1, 0, 2, 39)}) {
    const std::vector<float> want = all(v);
    std::vector<float> got(want.size());
    for (int64_t row = 0; row < v.n_rows(); ++row) v.read_f32(row, 1, got.data() + row * v.row_elements());
    EXPECT_EQ(got, want);
    v.read_f32(v.n_rows(), 0, nullptr);
  }
}

// Against plain indexing: random chains of views over every encoding, whose blocks slices then cut.
TEST(Assemble, random_views_of_every_encoding_pick_the_right_elements) {
  std::mt19937 random(5);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<unsigned>(n)); };
  for (const moe::Encoding& encoding : moe::kEncodings) {
    const std::vector<int64_t> shape = {3, 5, encoding.block_elements == 1 ? 37 : 2 * encoding.block_elements};
    const auto n = static_cast<size_t>(element_count(shape));
    const Owned w("w", encoding.id, shape, random_bytes(n / encoding.block_elements * encoding.block_bytes, 1, 60));
    std::vector<float> stored(n);
    moe::decode_row(encoding, w.bytes.data(), n, stored.data());
    for (int round = 0; round < 200; ++round) {
      TensorSource v = *TensorSource::plain(w.info);
      std::vector<size_t> index(n);  // by element of the view: of the stored tensor
      for (size_t i = 0; i < n; ++i) index[i] = i;
      for (int64_t step = below(5); step > 0; --step) {
        const std::vector<int64_t> old = dims(v);
        const std::vector<size_t> from = index;
        if (old.size() >= 2 && below(3) == 0) {
          v = *v.transposed();
          const auto r = static_cast<size_t>(old[old.size() - 2]);
          const auto c = static_cast<size_t>(old.back());
          for (size_t i = 0; i < from.size(); ++i) index[i / (r * c) * (r * c) + i % c * r + i / c % r] = from[i];
          continue;
        }
        const auto dim = static_cast<size_t>(below(static_cast<int64_t>(old.size())));
        const int64_t begin = below(old[dim]);
        const int64_t by = 1 + below(20);
        const int64_t count = 1 + below((old[dim] - 1 - begin) / by + 1);
        v = *v.slice(dim, begin, count, by);
        index.clear();
        const auto inner = static_cast<size_t>(element_count(std::span(old).subspan(dim + 1)));
        for (size_t i = 0; i < from.size(); ++i) {
          const auto at = static_cast<int64_t>(i / inner) % old[dim] - begin;
          if (at >= 0 && at % by == 0 && at / by < count) index.push_back(from[i]);
        }
      }
      std::vector<float> want;
      for (const size_t i : index) want.push_back(stored[i]);
      ASSERT_TRUE(same_bits(all(v), want)) << encoding.id << " round " << round << " " << shape_text(v.shape());
    }
  }
}

TEST(Assemble, block_scales_multiply_their_blocks) {
  const std::vector<int64_t> shape = {2, 5, 7};
  const Owned w("w", "f8_e4m3", shape, random_bytes(70, 2));
  std::vector<float> scales(2 * 3 * 3);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.3F + static_cast<float>(i);
  const Owned s("w_scale_inv", "f32", {2, 3, 3}, bytes_of(scales));
  const auto source = TensorSource::block_scaled(w.info, s.info, 2, 3);
  ASSERT_TRUE(source.ok()) << source.error().message;
  std::vector<float> want(70);
  for (size_t i = 0; i < 70; ++i) {
    const size_t scale = i / 35 * 9 + i / 7 % 5 / 2 * 3 + i % 7 / 3;
    want[i] = moe::f8_e4m3_to_f32(static_cast<uint8_t>(w.bytes[i])) * scales[scale];
  }
  const std::vector<float> got = all(*source);
  for (size_t i = 0; i < 70; ++i) {
    if (std::isnan(want[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << i;
    } else {
      ASSERT_EQ(got[i], want[i]) << i;
    }
  }
  const std::vector<float> column = all(*source->select(1)->transposed()->select(4));
  for (size_t r = 0; r < 5; ++r) {
    if (!std::isnan(want[35 + r * 7 + 4])) {
      EXPECT_EQ(column[r], want[35 + r * 7 + 4]);
    }
  }
  EXPECT_EQ(source->raw(), std::nullopt);
  EXPECT_EQ(source->companion(), &s.info);
}

// Views whose blocks are the tensor's are read as they are stored: the same bytes, and the scales beside them.
TEST(Assemble, rows_of_blocks_are_as_stored_where_a_views_blocks_are_the_tensors) {
  const std::vector<int64_t> shape = {2, 5, 7};
  const Owned w("w", "f8_e4m3", shape, random_bytes(70, 2, 127));
  std::vector<float> scales(2 * 3 * 3);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.3F + static_cast<float>(i);
  const Owned s("w_scale_inv", "f32", {2, 3, 3}, bytes_of(scales));
  const TensorSource whole = *TensorSource::block_scaled(w.info, s.info, 2, 3);
  const TensorSource matrix = *whole.select(1);
  EXPECT_EQ(whole.blocks(), std::nullopt);
  struct View {
    TensorSource source;
    int64_t row, col;  // of the matrix, that it begins with
  };
  for (const auto& [view, row, col] :
       {View{matrix, 0, 0}, View{*matrix.slice(0, 2, 2), 2, 0}, View{*matrix.slice(0, 4, 1), 4, 0},
        View{*matrix.slice(0, 2, 3)->slice(1, 3, 4), 2, 3}, View{*matrix.slice(1, 6, 1), 0, 6}}) {
    ASSERT_EQ(view.blocks(), (TensorSource::Blocks{"f8_e4m3", 2, 3}));
    const int64_t cols = view.row_elements();
    for (int64_t index = 0; index * 2 < view.n_rows(); ++index) {
      std::vector<std::byte> elements(2 * 9, std::byte{0xAA});
      std::vector<float> of_blocks(3, -1.0F);
      view.read_block_row(index, elements.data(), 9, of_blocks.data());
      for (int64_t i = 0; i < 2; ++i) {
        const bool there = index * 2 + i < view.n_rows();
        for (int64_t c = 0; c < 9; ++c) {
          const auto stored = static_cast<size_t>(35 + (row + index * 2 + i) * 7 + col + c);
          ASSERT_EQ(elements[static_cast<size_t>(i * 9 + c)], there && c < cols ? w.bytes[stored] : std::byte{0xAA});
        }
      }
      for (int64_t b = 0; b < 3; ++b) {
        const auto stored = static_cast<size_t>(9 + (row / 2 + index) * 3 + col / 3 + b);
        ASSERT_EQ(of_blocks[static_cast<size_t>(b)], b * 3 < cols ? scales[stored] : -1.0F);
      }
    }
  }
  for (const TensorSource& other : {*matrix.slice(0, 1, 2), *matrix.slice(1, 1, 3), *matrix.slice(0, 0, 2, 2),
                                    *matrix.transposed(), *TensorSource::plain(w.info)->select(1)})
    EXPECT_EQ(other.blocks(), std::nullopt);
}

TEST(Assemble, mxfp4_pair_is_one_tensor) {
  const Owned blocks("w_blocks", "u8", {2, 3, 4, 16}, random_bytes(size_t{2} * 3 * 4 * 16, 3));
  const Owned scales("w_scales", "u8", {2, 3, 4}, random_bytes(size_t{2} * 3 * 4, 4, 200));
  const auto source = TensorSource::mxfp4(blocks.info, scales.info);
  ASSERT_TRUE(source.ok()) << source.error().message;
  EXPECT_EQ(dims(*source), (std::vector<int64_t>{2, 3, 128}));
  std::vector<float> want(768);
  moe::decode_mxfp4(reinterpret_cast<const uint8_t*>(blocks.bytes.data()),
                    reinterpret_cast<const uint8_t*>(scales.bytes.data()), 24, want.data());
  EXPECT_TRUE(same_bits(all(*source), want));
  const std::vector<float> odd = all(*source->select(1)->slice(0, 1, 1)->slice(1, 1, 64, 2));
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(odd[i], want[384 + 128 + 1 + 2 * i]) << i;
  EXPECT_EQ(source->raw(), std::nullopt);
}

TEST(Assemble, bytes_are_handed_out_only_where_they_lie_as_asked) {
  const auto w = numbered({2, 4, 3});
  const std::byte* base = w->info.data;
  const TensorSource s = *TensorSource::plain(w->info);
  EXPECT_EQ(s.raw(), base);
  EXPECT_EQ(s.select(1)->raw(), base + 48);
  EXPECT_EQ(s.select(1)->slice(0, 2, 2)->raw(), base + 48 + 24);
  EXPECT_EQ(s.select(1)->slice(0, 0, 2, 2)->raw(), std::nullopt);
  EXPECT_EQ(s.slice(1, 0, 2)->raw(), std::nullopt);
  EXPECT_EQ(s.transposed()->raw(), std::nullopt);
  EXPECT_EQ(s.select(0)->slice(1, 1, 1)->raw(), std::nullopt);
  EXPECT_EQ(s.select(0)->slice(0, 0, 1)->transposed()->raw(), base);  // a row as a column is the same bytes
  TensorInfo odd = w->info;
  odd.data += 1;
  odd.bytes = 4;
  const int64_t one = 1;
  odd.shape = {&one, 1};
  EXPECT_EQ(TensorSource::plain(odd)->raw(), std::nullopt);
  const Owned q("q", "q8_0", {2, 64}, random_bytes(size_t{4} * 34, 5));
  const TensorSource quantised = *TensorSource::plain(q.info);
  EXPECT_EQ(quantised.slice(0, 1, 1)->raw(), q.bytes.data() + 68);
  EXPECT_EQ(quantised.slice(0, 1, 1)->slice(1, 32, 32)->raw(), q.bytes.data() + 102);
  EXPECT_EQ(quantised.slice(0, 1, 1)->slice(1, 16, 32)->raw(), std::nullopt);
}

TEST(Assemble, extent_is_what_lies_together_in_whichever_order_it_is_read) {
  const auto w = numbered({2, 4, 3});
  const auto place = [&w](const moe::Result<TensorSource>& s) {
    const auto e = s->extent();
    return std::pair(e.empty() ? -1 : e.data() - w->info.data, e.size());
  };
  const TensorSource s = *TensorSource::plain(w->info);
  EXPECT_EQ(place(s), std::pair(0L, size_t{96}));
  EXPECT_EQ(place(s.select(1)), std::pair(48L, size_t{48}));
  EXPECT_EQ(place(s.select(1)->transposed()), std::pair(48L, size_t{48}));
  EXPECT_EQ(place(s.select(1)->slice(0, 2, 2)), std::pair(72L, size_t{24})) << "the second half";
  EXPECT_EQ(place(s.select(1)->slice(0, 0, 2, 2)), std::pair(-1L, size_t{0})) << "every other row";
  EXPECT_EQ(place(s.select(0)->slice(0, 1, 0)), std::pair(-1L, size_t{0})) << "nothing";
  const Owned q("q", "q8_0", {2, 64}, random_bytes(size_t{4} * 34, 5));
  EXPECT_EQ(TensorSource::plain(q.info)->slice(0, 1, 1)->extent().data(), q.bytes.data() + 68);
  EXPECT_EQ(TensorSource::plain(q.info)->slice(0, 1, 1)->extent().size(), 68U);
  const Owned blocks("b", "u8", {3, 4, 2, 16}, random_bytes(384, 7));
  const Owned scales("s", "u8", {3, 4, 2}, random_bytes(24, 8));
  const auto pair = TensorSource::mxfp4(blocks.info, scales.info)->select(2);
  EXPECT_EQ(pair->extent().data(), blocks.bytes.data() + 256);
  EXPECT_EQ(pair->extent().size(), 128U);
}

TEST(Assemble, narrow_rows_are_the_values_rounded) {
  const Owned w("w", "bf16", {300, 33}, random_bytes(size_t{300} * 66, 6, 128));
  const TensorSource s = *TensorSource::plain(w.info);
  std::vector<uint16_t> bf16(size_t{300} * 33);
  s.read_bf16(0, 300, bf16.data());
  EXPECT_EQ(std::memcmp(bf16.data(), w.bytes.data(), w.bytes.size()), 0);
  std::vector<uint16_t> f16(size_t{10} * 33);
  s.read_f16(7, 10, f16.data());
  for (size_t i = 0; i < f16.size(); ++i)
    ASSERT_EQ(f16[i], moe::f32_to_f16(moe::bf16_to_f32(bf16[size_t{7} * 33 + i])));
}

TEST(Assemble, scalars_and_empty_tensors_can_be_read) {
  const auto scalar = numbered({});
  EXPECT_EQ(all(*TensorSource::plain(scalar->info)), (std::vector<float>{0}));
  const auto empty = numbered({0, 3});
  EXPECT_TRUE(all(*TensorSource::plain(empty->info)).empty());
  EXPECT_TRUE(all(*TensorSource::plain(empty->info)->transposed()).empty());
}

TEST(Assemble, what_does_not_fit_is_refused_when_it_is_put_together) {
  const auto w = numbered({2, 4, 3});
  const TensorSource s = *TensorSource::plain(w->info);
  EXPECT_EQ(s.select(2).error().message, "tensor \"w\": expected an index into dimension 0 of [2, 4, 3], got 2");
  EXPECT_FALSE(s.select(-1).ok());
  EXPECT_FALSE(TensorSource::plain(numbered({})->info)->select(0).ok());
  EXPECT_EQ(s.slice(1, 1, 4).error().message,
            "tensor \"w\": expected a slice within dimension 1 of [2, 4, 3], got 4 elements from 1 in steps of 1");
  for (const auto& [begin, count, step] : std::vector<std::array<int64_t, 3>>{{-1, 1, 1},
                                                                              {0, -1, 1},
                                                                              {0, 1, 0},
                                                                              {0, 1, -1},
                                                                              {5, 0, 1},
                                                                              {4, 1, 1},
                                                                              {0, 3, 2},
                                                                              {1, 2, INT64_MAX},
                                                                              {0, INT64_MAX, INT64_MAX}}) {
    EXPECT_FALSE(s.slice(1, begin, count, step).ok()) << begin << " " << count << " " << step;
  }
  EXPECT_FALSE(s.slice(3, 0, 1).ok());
  EXPECT_TRUE(s.slice(1, 4, 0).ok());
  EXPECT_TRUE(s.slice(1, 3, 1, INT64_MAX).ok());
  EXPECT_FALSE(s.select(0)->select(0)->transposed().ok());
  const Owned i32("ids", "i32", {2}, random_bytes(8, 7));
  EXPECT_EQ(TensorSource::plain(i32.info).error().code, MOE_UNIMPLEMENTED);
  EXPECT_EQ(TensorSource::plain(i32.info).error().message,
            "tensor \"ids\": expected an encoding that has a codec, got \"i32\"");
  const auto scales = numbered({1, 1});
  EXPECT_FALSE(TensorSource::block_scaled(w->info, scales->info).ok());
  const auto wide = numbered({129, 257});
  EXPECT_EQ(TensorSource::block_scaled(wide->info, scales->info).error().message,
            "tensor \"w\": expected shape [2, 3], one scale for 128 x 128 elements of \"w\", got [1, 1]");
  EXPECT_FALSE(TensorSource::block_scaled(wide->info, numbered({2, 3})->info, 0, 128).ok());
  EXPECT_FALSE(TensorSource::mxfp4(w->info, scales->info).ok());
  const Owned blocks("b", "u8", {2, 16}, random_bytes(32, 8));
  const Owned three("s", "u8", {3}, random_bytes(3, 9));
  EXPECT_EQ(TensorSource::mxfp4(blocks.info, three.info).error().message,
            "tensor \"s\": expected shape [2], one scale for a block of \"b\", got [3]");
  EXPECT_FALSE(TensorSource::mxfp4(three.info, three.info).ok());
}

}  // namespace
}  // namespace patchbay
