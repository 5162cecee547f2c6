// A sequence in segments against the whole: loss, the gradient of every parameter, of the state and
// rows that enter, and the states that leave; over ranks, chunks, overlaps, exchanges and document
// starts. Then mistakes, each of which must show.
#include "core/model/sequence_runner.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/plan/param_table.h"
#include "tests/support/emulator/emulator_backend.h"
#include "tests/support/sequence_run.h"
#include "tests/support/tolerance.h"

namespace rwkv {
namespace {

using namespace test;

constexpr int64_t kTokens = 39;

SequenceCase case_with(const std::vector<int64_t>& starts, int64_t tokens = kTokens) {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.head_size = 16;
  config.vocab = 29;
  return {resolve_model(config, 29), tokens, starts};
}

// No document start, one at an edge of a segment and beside it, several in one segment.
std::vector<std::vector<int64_t>> starts_around(int64_t chunk) {
  return {{}, {chunk - 1}, {chunk}, {chunk + 1}, {2, chunk + 1, chunk + 3, 2 * chunk - 1}};
}

const ModelRun kInDouble{reference_backend(), kDouble, false, 1, 1e-4};

// Segments against the whole. A state enters, but where the overlap is as long as a segment.
class Parity {
 public:
  Parity(const ModelRun& how, double most_all, double most)
      : how_(how), most_all_(most_all), most_(most) {}
  ~Parity() {
    std::printf("%d layouts; the largest distances are %.2g of all, %.2g of %s\n", layouts_,
                worst_all_, worst_.distance, worst_.name.c_str());
  }

  // Every layout of the grid against the whole.
  void expect(const std::vector<int>& ranks, const std::vector<int64_t>& chunks) {
    for (const int64_t chunk : chunks) {
      for (const auto& starts : starts_around(chunk)) {
        for (const int64_t overlap : {int64_t{0}, int64_t{1}, chunk / 2, chunk}) {
          for (const int p : ranks) expect(p, chunk, overlap, starts);
        }
      }
    }
  }

 private:
  void expect(int ranks, int64_t chunk, int64_t overlap, const std::vector<int64_t>& starts) {
    SequenceCase c = case_with(starts);
    c.enters = overlap < chunk;
    for (const char* exchange : {"gather", "ring", "two_level"}) {
      const char* stash = ++layouts_ % 3 == 0 ? "sqrt" : "all";
      const SequenceLayout layout{ranks, chunk, overlap, exchange, stash};
      const SequenceResults results = run_in_segments(how_, c, layout);
      EXPECT_EQ(results.sent, results.planned) << to_string(layout);
      const Worst got = compare(results, whole(c));
      EXPECT_LE(got.distance, most_)
          << got.name << ": " << to_string(layout) << ", starts " << testing::PrintToString(starts);
      EXPECT_LE(got.all, most_all_) << to_string(layout);
      raise(worst_all_, got.all);
      if (got.distance > worst_.distance) worst_ = got;
    }
  }
  const SequenceResults& whole(const SequenceCase& c) {
    const auto [found, is_new] = wholes_.try_emplace({c.starts, c.enters});
    if (is_new) found->second = run_whole(how_, c);
    return found->second;
  }

  const ModelRun& how_;
  double most_all_, most_, worst_all_ = 0;
  std::map<std::pair<std::vector<int64_t>, bool>, SequenceResults> wholes_;
  int layouts_ = 0;
  Worst worst_;
};

TEST(SequenceParity, InDouble) {
  Parity(kInDouble, tolerance::kSegmentsDouble, tolerance::kSegmentsDouble)
      .expect({1, 2, 3, 4, 5, 6, 8}, {5, 13});
}

TEST(SequenceParity, InDoubleWithRecomputation) {
  ModelRun how = kInDouble;
  how.recompute = true;
  Parity(how, tolerance::kSegmentsDouble, tolerance::kSegmentsDouble).expect({1, 3}, {7});
}

TEST(SequenceParity, InFloat) {
  const ModelRun how{cpu_backend(), kSingle, false, 1, 1e-4};
  Parity(how, tolerance::kFloat, tolerance::kFloat).expect({1, 2, 3, 4, 5, 8}, {5, 13});
}

TEST(SequenceParity, InBf16) {
  if (!cpu_backend().bf16) GTEST_SKIP() << "this CPU has no bf16 arithmetic";
  const ModelRun how{cpu_backend(), kHalf, false, 1, 1e-4};
  Parity(how, tolerance::kSegmentsBf16, tolerance::kBf16ModelGradient)
      .expect({1, 2, 3, 5}, {5, 13});
}

TEST(SequenceParity, OfTheCudaKernelsOnTheEmulator) {
  const ModelRun how{emulator_backend(), kSingle, false, 1, 1e-4};
  const SequenceCase c = case_with({13, 15}, 26);
  const SequenceResults want = run_whole(how, c);
  for (const SequenceLayout& layout :
       {SequenceLayout{2, 13, 0, "gather", "all"}, SequenceLayout{1, 13, 4, "ring", "all"},
        SequenceLayout{3, 8, 0, "ring", "sqrt", 4}}) {
    const Worst got = compare(run_in_segments(how, c, layout), want);
    EXPECT_LE(got.distance, tolerance::kFloat) << got.name << ": " << to_string(layout);
  }
}

// Heads of 64 in bf16, as the kernels in chunks take them.
SequenceCase case_in_chunks(const std::vector<int64_t>& starts, int64_t tokens) {
  SequenceCase c = case_with(starts, tokens);
  c.config.layers = 1;
  c.config.width = c.config.head_size = 64;
  c.config = resolve_model(c.config, c.config.vocab);
  return c;
}

// Of the overlaps 16 is handed on between chunks, 5 by a first segment inside of one.
TEST(SequenceParity, InChunksOnTheEmulator) {
  const ModelRun how{emulator_backend(), kHalf, false, 1, 1e-4};
  const SequenceCase c = case_in_chunks({13, 40}, 70);
  const SequenceResults want = run_whole(how, c);
  for (const SequenceLayout& layout :
       {SequenceLayout{3, 32, 0, "gather", "all", 16}, SequenceLayout{2, 32, 16, "ring", "all"},
        SequenceLayout{1, 32, 5, "ring", "sqrt"}}) {
    const Worst got = compare(run_in_segments(how, c, layout), want);
    EXPECT_LE(got.all, tolerance::kSegmentsBf16) << to_string(layout);
    EXPECT_LE(got.distance, tolerance::kBf16TensorGradient)
        << got.name << ": " << to_string(layout);
  }
}

// Half the bytes where every segment of a rank runs in chunks.
TEST(SequenceMemory, StatesAreBf16WhereTheRecurrenceRunsInChunks) {
  const SequenceCase c = case_in_chunks({}, 70);
  const Model model(c.config);
  const auto bytes = [&](int64_t overlap, DType compute) {
    int64_t sum = 0;
    run_local(1, [&](Communicator& ranks) {
      SequencePlan plan;
      plan.model = {kHalf, SequenceCase::kBatch, c.tokens, 1};
      plan.model.precision.compute = compute;
      plan.segments = plan_segments(c.tokens, 1, 32, overlap, 0);
      const SequenceRunner runner(model, plan, ranks, emulator_backend(), false);
      for (const Arena::Entry& e : runner.entries()) {
        if (e.name == "states") sum += e.bytes;
      }
    });
    return sum;
  };
  const int64_t elements = c.config.layers * SequenceCase::kBatch * 64 * 64;
  EXPECT_EQ(bytes(0, DType::kBF16), elements * 2 * 2);   // 32 tokens
  EXPECT_EQ(bytes(16, DType::kBF16), elements * 3 * 2);  // 48
  EXPECT_EQ(bytes(5, DType::kBF16), elements * 3 * 4);   // 37
  EXPECT_EQ(bytes(0, DType::kF32), elements * 2 * 4);
}

TEST(SequenceParity, FoldedOverTiles) {
  for (const auto& starts : starts_around(8)) {
    const SequenceCase c = case_with(starts);
    const SequenceResults want = run_whole(kInDouble, c);
    for (const int ranks : {1, 2, 3, 5}) {
      for (const int64_t chunk : {8, 16}) {
        for (const char* exchange : {"gather", "ring", "two_level"}) {
          const SequenceLayout layout{ranks, chunk, 0, exchange, "all", 4};
          const SequenceResults results = run_in_segments(kInDouble, c, layout);
          EXPECT_EQ(results.sent, results.planned) << to_string(layout);
          const Worst got = compare(results, want);
          EXPECT_LE(got.distance, tolerance::kSegmentsDouble) << got.name << to_string(layout);
        }
      }
    }
  }
}

// Where gradients are cut, half is sent; where states are not handed on, nothing.
TEST(SequenceTraffic, FollowsTheGradient) {
  SequenceCase c = case_with({});
  c.enters = false;
  const auto sent = [&](Handing handing) {
    SequenceLayout layout{3, 5, 0, "ring", "all"};
    layout.handing = handing;
    const SequenceResults results = run_in_segments(kInDouble, c, layout);
    EXPECT_EQ(results.sent, results.planned);
    return std::accumulate(results.sent.begin(), results.sent.end(), int64_t{0});
  };
  // Eight segments, seven edges, two layers: a state of 2 heads of 16 x 16 and two rows of 32.
  const int64_t edge = 2 * 8 * SequenceCase::kBatch * (2 * 16 * 16 + 2 * 32);
  EXPECT_EQ(sent({true, true}), 7 * 2 * edge);
  EXPECT_EQ(sent({true, false}), 7 * edge);
  EXPECT_EQ(sent({false, false}), 0);
}

// Where every segment begins with a document nothing crosses an edge, so that cutting gradients, or
// handing nothing on, changes nothing; one edge without a start is enough to change it.
TEST(SequenceModes, CutWhereDocumentsStartLosesNothing) {
  for (const Handing handing : {Handing{true, false}, Handing{false, false}}) {
    for (const int ranks : {1, 2}) {
      for (const int64_t overlap : {0, 5}) {
        SequenceLayout layout{ranks, 13, overlap, "ring", "all"};
        layout.handing = handing;
        const auto off = [&](const std::vector<int64_t>& starts) {
          SequenceCase c = case_with(starts);
          c.enters = false;
          c.starts_in_both = true;
          return compare(run_in_segments(kInDouble, c, layout), run_whole(kInDouble, c)).distance;
        };
        EXPECT_LE(off({13, 26}), tolerance::kSegmentsDouble) << to_string(layout);
        EXPECT_GT(off({13}), 1e-6) << to_string(layout);
      }
    }
  }
}

// Mistakes: a backend of which one op is wrong.
class SequenceCanary : public testing::Test {
 protected:
  // How far the worst tensor is off, for two ranks, three groups, half a chunk of overlap.
  static double off(const Backend& wrong, const std::vector<int64_t>& starts = {}) {
    const SequenceCase c = case_with(starts);
    const SequenceResults want = run_whole(kInDouble, c);
    const SequenceLayout layout{2, 8, 4, "gather", "all"};
    ModelRun how{wrong, kDouble, false, 1, 1e-4};
    return compare(run_in_segments(how, c, layout), want).distance;
  }

  Backend wrong_ = reference_backend();
};

constexpr double kShows = 1e-6;  // a million times what is allowed

TEST_F(SequenceCanary, NothingPlantedIsRight) {
  EXPECT_LE(off(wrong_), tolerance::kSegmentsDouble);
  EXPECT_LE(off(wrong_, {13}), tolerance::kSegmentsDouble);
}

TEST_F(SequenceCanary, DroppedExchangeOfStates) {
  wrong_.wkv7_fold = [](const Stream&, const Wkv7Fold& op) {
    std::fill_n(op.out.as<double>(), op.out.elements(), 0.0);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, DroppedGradientOfStates) {
  wrong_.wkv7_fold = [](const Stream& stream, const Wkv7Fold& op) {
    if (!op.transposed) return reference_backend().wkv7_fold(stream, op);
    std::fill_n(op.out.as<double>(), op.out.elements(), 0.0);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, OverlapCountedTwice) {
  wrong_.cross_entropy = [](const Stream& stream, const CrossEntropy& op) {
    CrossEntropy counted = op;
    std::vector<float> ones(static_cast<size_t>(op.weight.elements()));
    for (size_t i = 0; i < ones.size(); ++i) {  // what was silenced counts
      const float given = op.weight.as<float>()[i];
      ones[i] = given == 0 ? 1.0f : given;
    }
    counted.weight = view_of(ones.data(), op.weight.shape);
    reference_backend().cross_entropy(stream, counted);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, StateHandedOverAtTheWrongPosition) {
  wrong_.wkv7_map = [](const Stream& stream, const Wkv7Map& op) {
    Wkv7Map later = op;
    later.in.overlap -= op.in.overlap > 0 ? 1 : 0;
    reference_backend().wkv7_map(stream, later);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, HaloFromTheWrongPosition) {
  wrong_.halo_forward = [](const Stream& stream, const HaloForward& op) {
    HaloForward earlier = op;
    earlier.at -= 1;
    reference_backend().halo_forward(stream, earlier);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, LostHaloGradient) {
  wrong_.halo_backward = [](const Stream&, const HaloBackward& op) {
    std::fill_n(op.dhalo.as<double>(), op.dhalo.elements(), 0.0);
  };
  EXPECT_GT(off(wrong_), kShows);
}

TEST_F(SequenceCanary, ResetIgnoredByMaps) {
  wrong_.wkv7_map = [](const Stream& stream, const Wkv7Map& op) {
    Wkv7Map without = op;
    without.in.starts = {};
    reference_backend().wkv7_map(stream, without);
  };
  EXPECT_LE(off(wrong_), tolerance::kSegmentsDouble);
  EXPECT_GT(off(wrong_, {13}), kShows);
}

TEST_F(SequenceCanary, ResetIgnoredByTheShift) {
  wrong_.token_shift_forward = [](const Stream& stream, const TokenShiftForward& op) {
    TokenShiftForward without = op;
    without.starts = {};
    reference_backend().token_shift_forward(stream, without);
  };
  EXPECT_LE(off(wrong_), tolerance::kSegmentsDouble);
  EXPECT_GT(off(wrong_, {13}), kShows);
}

TEST_F(SequenceCanary, NoHandOffAtAll) {
  SequenceCase c = case_with({});
  c.enters = false;
  const SequenceResults want = run_whole(kInDouble, c);
  const SequenceLayout none{1, 13, 0, "gather", "all", 0, {.state = false, .gradient = false}};
  EXPECT_GT(compare(run_in_segments(kInDouble, c, none), want).distance, kShows);
}

}  // namespace
}  // namespace rwkv
