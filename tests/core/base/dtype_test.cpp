// The 16-bit floats, over all of their values.
#include "core/base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rwkv {
namespace {

fp16 from_bits(uint32_t bits) {
  fp16 x;
  x.bits = static_cast<uint16_t>(bits);
  return x;
}
float value_of(uint32_t bits) { return static_cast<float>(from_bits(bits)); }

TEST(Fp16, EveryValueReadsBackToItsBits) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float value = value_of(bits);
    if ((bits & 0x7c00u) == 0x7c00u && (bits & 0x3ffu) != 0) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(static_cast<float>(fp16(value)))) << bits;
    } else {
      ASSERT_EQ(fp16(value).bits, bits) << value;
    }
  }
}

TEST(Fp16, ValuesAreThoseOfTheFormat) {
  EXPECT_EQ(value_of(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(value_of(0x03ff), std::ldexp(1023.0f, -24));
  EXPECT_EQ(value_of(0x0400), std::ldexp(1.0f, -14));
  EXPECT_EQ(value_of(0x3c00), 1.0f);
  EXPECT_EQ(value_of(0x3555), 0.333251953125f);
  EXPECT_EQ(value_of(0x7bff), 65504.0f);
  EXPECT_EQ(value_of(0xfc00), -std::numeric_limits<float>::infinity());
}

// Between any two neighbours: nearer ones, and the even one of two equally near.
TEST(Fp16, RoundsToNearestTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const float low = value_of(bits), high = value_of(bits + 1), middle = low + (high - low) / 2;
    ASSERT_EQ(fp16(std::nextafter(middle, 0.0f)).bits, bits) << low;
    ASSERT_EQ(fp16(std::nextafter(middle, INFINITY)).bits, bits + 1) << low;
    ASSERT_EQ(fp16(middle).bits, bits % 2 == 0 ? bits : bits + 1) << low;
    ASSERT_EQ(fp16(-middle).bits, (bits % 2 == 0 ? bits : bits + 1) | 0x8000u) << low;
  }
  EXPECT_EQ(fp16(65519.9f).bits, 0x7bffu);
  EXPECT_EQ(fp16(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(fp16(1e30f).bits, 0x7c00u);
}

}  // namespace
}  // namespace rwkv
