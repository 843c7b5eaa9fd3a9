#include "moe/sdk/numeric.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moe {
namespace {

uint32_t bits(float x) { return std::bit_cast<uint32_t>(x); }
float from_bits(uint32_t b) { return std::bit_cast<float>(b); }

// The value of a float of that layout, from the definition.
double value_of(unsigned h, int exponent_bits, int fraction_bits) {
  const unsigned fraction = h & ((1U << fraction_bits) - 1);
  const int exponent = static_cast<int>(h >> fraction_bits & ((1U << exponent_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double significand = exponent == 0 ? fraction : fraction + std::ldexp(1.0, fraction_bits);
  const double magnitude = std::ldexp(significand, std::max(exponent, 1) - bias - fraction_bits);
  return h >> (exponent_bits + fraction_bits) != 0 ? -magnitude : magnitude;
}

TEST(Numeric, f16_widens_every_value_as_defined) {
  for (unsigned h = 0; h < 65536; ++h) {
    const float x = f16_to_f32(static_cast<uint16_t>(h));
    if ((h >> 10 & 31) != 31) {
      ASSERT_EQ(bits(x), bits(static_cast<float>(value_of(h, 5, 10)))) << h;
    } else if ((h & 1023) == 0) {
      ASSERT_EQ(x, h >> 15 != 0 ? -INFINITY : INFINITY);
    } else {
      ASSERT_TRUE(std::isnan(x)) << h;
      ASSERT_EQ(bits(x), (h & 0x8000U) << 16 | 0x7fc00000U | (h & 1023U) << 13) << h;
    }
  }
}

TEST(Numeric, f8_e4m3_widens_every_value_as_defined) {
  for (unsigned h = 0; h < 256; ++h) {
    const float x = f8_e4m3_to_f32(static_cast<uint8_t>(h));
    if ((h & 0x7f) == 0x7f) {
      ASSERT_TRUE(std::isnan(x)) << h;
    } else {
      ASSERT_EQ(bits(x), bits(static_cast<float>(value_of(h, 4, 3)))) << h;
    }
  }
  EXPECT_EQ(f8_e4m3_to_f32(0x7e), 448.0F);
}

TEST(Numeric, f8_e4m3_rounds_to_nearest_even_and_stops_at_its_largest) {
  for (unsigned h = 0; h < 256; ++h) ASSERT_EQ(f32_to_f8_e4m3(f8_e4m3_to_f32(static_cast<uint8_t>(h))), h);
  for (unsigned h = 0; h < 0x7e; ++h) {
    const float a = f8_e4m3_to_f32(static_cast<uint8_t>(h));
    const float middle = (a + f8_e4m3_to_f32(static_cast<uint8_t>(h + 1))) / 2;
    ASSERT_EQ(f32_to_f8_e4m3(middle), h + (h & 1U)) << h;
    ASSERT_EQ(f32_to_f8_e4m3(std::nextafter(middle, 0.0F)), h) << h;
    ASSERT_EQ(f32_to_f8_e4m3(std::nextafter(middle, INFINITY)), h + 1) << h;
    ASSERT_EQ(f32_to_f8_e4m3(-middle), (h + (h & 1U)) | 0x80U) << h;
  }
  for (const float large : {449.0F, 464.0F, 480.0F, 1e30F, INFINITY}) {
    EXPECT_EQ(f32_to_f8_e4m3(large), 0x7e) << large;
    EXPECT_EQ(f32_to_f8_e4m3(-large), 0xfe) << large;
  }
  EXPECT_EQ(f32_to_f8_e4m3(1e-30F), 0x00);
  EXPECT_EQ(f32_to_f8_e4m3(-1e-45F), 0x80);
}

TEST(Numeric, e8m0_is_a_power_of_two) {
  for (int s = 0; s < 255; ++s) ASSERT_EQ(e8m0_to_f32(static_cast<uint8_t>(s)), std::ldexp(1.0F, s - 127)) << s;
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(Numeric, narrowing_brings_every_value_back) {
  for (unsigned h = 0; h < 65536; ++h) {
    const auto narrow = static_cast<uint16_t>(h);
    const bool f16_nan = (h & 0x7fffU) > 0x7c00U;
    const bool bf16_nan = (h & 0x7fffU) > 0x7f80U;
    ASSERT_EQ(f32_to_f16(f16_to_f32(narrow)), f16_nan ? h | 0x200U : h);
    ASSERT_EQ(f32_to_bf16(bf16_to_f32(narrow)), bf16_nan ? h | 0x40U : h);
  }
}

// Between neighbours a < b of the narrow format, what lies below the middle goes to a, above to b, and the middle to
// the even one.
template <typename Widen, typename Narrow>
void check_rounding(unsigned last, Widen widen, Narrow narrow) {
  for (unsigned h = 0; h < last; ++h) {
    const float a = widen(static_cast<uint16_t>(h));
    const float b = widen(static_cast<uint16_t>(h + 1));
    const float middle =
        static_cast<float>((static_cast<double>(a) + static_cast<double>(b)) / 2);  // exact: one bit more
    ASSERT_EQ(narrow(middle), h + (h & 1U)) << h;
    ASSERT_EQ(narrow(std::nextafter(middle, 0.0F)), h) << h;
    ASSERT_EQ(narrow(std::nextafter(middle, INFINITY)), h + 1) << h;
    ASSERT_EQ(narrow(-middle), (h + (h & 1U)) | 0x8000U) << h;
  }
}

TEST(Numeric, f32_to_f16_rounds_to_nearest_even) { check_rounding(0x7bff, f16_to_f32, f32_to_f16); }
TEST(Numeric, f32_to_bf16_rounds_to_nearest_even) { check_rounding(0x7f7f, bf16_to_f32, f32_to_bf16); }

TEST(Numeric, overflow_is_infinity_and_underflow_zero_with_the_sign_kept) {
  EXPECT_EQ(f32_to_f16(65519.996F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(f32_to_f16(-1e30F), 0xfc00);
  EXPECT_EQ(f32_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25F), 0);
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25F, 1.0F)), 1);
  EXPECT_EQ(f32_to_f16(-0.0F), 0x8000);
  EXPECT_EQ(f32_to_f16(from_bits(0x80000001U)), 0x8000);
  EXPECT_EQ(f32_to_bf16(from_bits(0x7f7fffffU)), 0x7f80);
  EXPECT_EQ(f32_to_bf16(-0.0F), 0x8000);
}

TEST(Numeric, nan_stays_nan_whatever_its_payload) {
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const uint32_t payload = i < 23 ? 1U << i : (random() & 0x7fffffU) | 1U;
    for (const uint32_t sign : {0U, 0x80000000U}) {
      const float nan = from_bits(sign | 0x7f800000U | payload);
      ASSERT_TRUE(std::isnan(f16_to_f32(f32_to_f16(nan))));
      ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(nan))));
      ASSERT_EQ(f32_to_f16(nan) >> 15, sign >> 31);
      ASSERT_EQ(f32_to_bf16(nan) >> 15, sign >> 31);
    }
  }
}

static_assert(f32_to_f16(1.0F) == 0x3c00 && f16_to_f32(0x3c00) == 1.0F && f32_to_bf16(1.0F) == 0x3f80,
              "usable at compile time");

}  // namespace
}  // namespace moe
