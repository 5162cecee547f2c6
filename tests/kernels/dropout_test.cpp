// Dropout: what is dropped depends on an element's place in training, and on all of it.
#include <algorithm>

#include "core/base/rng.h"
#include "tests/kernels/on_every_backend.h"

namespace rwkv {
namespace {

using namespace test;

const Shape kWhole{3, 20, 66};  // the last counter of a token is used in part
const Dropout kPlace{.x = {},
                     .out = {},
                     .rate = 0.3,
                     .key = 0x123456789abcdef0,
                     .step = 7,
                     .sample = 5,
                     .position = 4096,
                     .layer = 3,
                     .site = 1};

TEST(PhiloxWords, AreTheLibrarys) {
  for (const uint64_t i : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{0x0123456789abcdef}}) {
    const auto expected = Philox(i * 3).words(i, ~i);
    const PhiloxWords words = philox({{static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32),
                                       static_cast<uint32_t>(~i), static_cast<uint32_t>(~i >> 32)}},
                                     i * 3);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), words.x)) << i;
  }
}

class Dropping : public OnEveryBackend {
 protected:
  // Ones, after dropout, as the tested backend does it.
  static std::vector<double> dropped(const Shape& shape, Dropout op) {
    Buffer buffer(shape.elements() * bytes_of(GetParam().compute));
    const Tensor x{buffer.data(), GetParam().compute, shape};
    assign(x, std::vector<double>(static_cast<size_t>(shape.elements()), 1));
    op.x = op.out = x;
    GetParam().ops->dropout({GetParam().threads}, op);
    return doubles(x);
  }
};

TEST_P(Dropping, IsTheReferences) {
  TwoBackends b = bench();
  b.input("x", kWhole);
  b.output("out", kWhole);
  b.run<Dropout>(&Backend::dropout, [](const auto& t) {
    Dropout op = kPlace;
    op.x = t("x"), op.out = t("out");
    return op;
  });
  b.expect_close(1e-6, tolerance::kBf16Output);
}

TEST_P(Dropping, DropsAtItsRate) {
  for (const double rate : {0.0, 0.1, 0.9}) {
    Dropout op = kPlace;
    op.rate = rate;
    const auto x = dropped({4, 100, 64}, op);
    const auto count = static_cast<double>(x.size());
    const auto zeros = static_cast<double>(std::count(x.begin(), x.end(), 0.0));
    EXPECT_NEAR(zeros, rate * count, 5 * std::sqrt(rate * (1 - rate) * count)) << rate;
    for (const double value : x) {
      if (value != 0) {
        EXPECT_NEAR(value * (1 - rate), 1, 1e-2);
      }
    }
  }
}

// Rows of a batch and tokens of a segment that follow others have what they have beside them.
TEST_P(Dropping, PartsHaveTheBitsOfTheWhole) {
  const auto whole = dropped(kWhole, kPlace);
  for (int64_t row = 0; row < kWhole[0]; ++row) {
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 7}, {7, 20}}) {
      Dropout op = kPlace;
      op.sample += row;
      op.position += begin;
      const auto part = dropped({1, end - begin, kWhole[2]}, op);
      const auto* expected = whole.data() + (row * kWhole[1] + begin) * kWhole[2];
      EXPECT_TRUE(std::equal(part.begin(), part.end(), expected)) << row << " " << begin;
    }
  }
}

TEST_P(Dropping, EachPartOfThePlaceCounts) {
  const std::vector<std::pair<const char*, int64_t Dropout::*>> parts = {
      {"step", &Dropout::step},
      {"sample", &Dropout::sample},
      {"position", &Dropout::position},
      {"layer", &Dropout::layer},
      {"site", &Dropout::site}};
  const Shape one{1, 1, 256};
  std::vector<std::vector<double>> masks = {dropped(one, kPlace)};
  for (const auto& [name, part] : parts) {
    for (const int64_t more : {int64_t{1}, int64_t{2}}) {
      Dropout op = kPlace;
      op.*part += more;
      masks.push_back(dropped(one, op));
    }
  }
  Dropout other_run = kPlace;
  other_run.key += uint64_t{1} << 40;
  masks.push_back(dropped(one, other_run));
  // Independent masks differ at 2 * 0.3 * 0.7 of the channels.
  for (size_t i = 0; i < masks.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      int differ = 0;
      for (size_t c = 0; c < 256; ++c) differ += masks[i][c] != masks[j][c] ? 1 : 0;
      EXPECT_NEAR(differ, 0.42 * 256, 50) << i << " " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Dropping, testing::ValuesIn(op_cases()), op_case_name);

}  // namespace
}  // namespace rwkv
