// Attention, rotary positions and rows for the right neighbour: the reference by complex step,
// every backend against the reference, and cut sequences against whole ones.
#include "kernels/reference/attention.h"
#include "tests/kernels/on_every_backend.h"
#include "tests/support/gradcheck.h"
#include "tests/support/sanitized.h"

namespace rwkv {
namespace {

using namespace test;

struct AttentionCase {
  std::string name;
  int64_t tokens, left, heads, key_heads, size;
  int64_t first, window, right;
  std::vector<int64_t> starts = {};
  double score = 1;  // size of queries
};

// Of tokens that follow `first` others; a document starts at each of `starts`.
Owned<int32_t> positions_of(int64_t batch, int64_t tokens, int64_t first,
                            const std::vector<int64_t>& starts) {
  Owned<int32_t> positions({batch, tokens});
  for (int64_t b = 0; b < batch; ++b) {
    int64_t position = first;
    for (int64_t t = 0; t < tokens; ++t, ++position) {
      // The rows of a batch differ.
      if (std::count(starts.begin(), starts.end(), t - b) != 0) position = 0;
      positions[b * tokens + t] = static_cast<int32_t>(position);
    }
  }
  return positions;
}

constexpr int64_t kBatch = 2;

TEST(ComplexStep, Attention) {
  for (const AttentionCase& c : {AttentionCase{"all", 5, 0, 2, 1, 4, 0, 0, 2},
                                 AttentionCase{"window", 5, 3, 4, 2, 2, 70, 3, 6},
                                 AttentionCase{"documents", 6, 2, 2, 2, 2, 2, 0, 0, {1, 4}}}) {
    Owned<int32_t> positions = positions_of(kBatch, c.tokens, c.first, c.starts);
    OpUnderTest op;
    op.inputs = {{"q", {kBatch, c.tokens, c.heads, c.size}},
                 {"k", {kBatch, c.tokens, c.key_heads, c.size}},
                 {"v", {kBatch, c.tokens, c.key_heads, c.size}}};
    if (c.left > 0) {
      op.inputs["k_left"] = op.inputs["v_left"] = {kBatch, c.left, c.key_heads, c.size};
    }
    op.outputs = {{"y", {kBatch, c.tokens, c.heads, c.size}}};
    // What goes to the right is an output too: its gradient comes from there.
    if (c.right > 0) {
      op.outputs["k_out"] = op.outputs["v_out"] = {kBatch, c.right, c.key_heads, c.size};
    }
    const auto of = [](Tensors& from, const char* name) {
      const auto found = from.find(name);
      return found == from.end() ? Tensor{} : found->second.view();
    };
    const auto input = [&](Tensors& in) {
      return AttentionInput{.q = of(in, "q"),
                            .k = of(in, "k"),
                            .v = of(in, "v"),
                            .k_left = of(in, "k_left"),
                            .v_left = of(in, "v_left"),
                            .positions = positions.view(),
                            .first = c.first,
                            .window = c.window,
                            .scale = 0.7};
    };
    const Shape scalars{kBatch, c.tokens, c.heads};
    op.forward = [&](Tensors& in, Tensors& out) {
      Owned<Complex> lse(scalars);
      reference::attention_forward<Complex>({}, {input(in), of(out, "y"), lse.view()});
      if (c.right == 0) return;
      reference::attention_halo<Complex>({}, {of(in, "k_left"), of(in, "k"), of(out, "k_out")});
      reference::attention_halo<Complex>({}, {of(in, "v_left"), of(in, "v"), of(out, "v_out")});
    };
    op.backward = [&](Tensors& in, Tensors& up, Tensors& d) {
      Owned<Complex> y(op.outputs["y"]), lse(scalars), delta(scalars);
      reference::attention_forward<Complex>({}, {input(in), y.view(), lse.view()});
      reference::attention_backward<Complex>({}, {.in = input(in),
                                                  .y = y.view(),
                                                  .dy = of(up, "y"),
                                                  .lse = lse.view(),
                                                  .dk_right = of(up, "k_out"),
                                                  .dv_right = of(up, "v_out"),
                                                  .dq = of(d, "q"),
                                                  .dk = of(d, "k"),
                                                  .dv = of(d, "v"),
                                                  .dk_left = of(d, "k_left"),
                                                  .dv_left = of(d, "v_left"),
                                                  .delta = delta.view()});
    };
    std::string worst;
    EXPECT_LT(check_gradients(op, &worst), tolerance::kComplexStep) << c.name << ": " << worst;
  }
}

Owned<double> turns_of(int64_t size) {
  Owned<double> turns({size / 2});
  for (int64_t i = 0; i < size / 2; ++i) turns[i] = rope_turns(10000, size, i);
  return turns;
}

TEST(ComplexStep, Rope) {
  Owned<int32_t> positions = positions_of(kBatch, 3, 100, {});
  Owned<double> turns = turns_of(6);
  OpUnderTest op;
  op.inputs = op.outputs = {{"x", {kBatch, 3, 2, 6}}};
  op.forward = [&](Tensors& in, Tensors& out) {
    reference::rope<Complex>(
        {}, {in["x"].view(), positions.view(), turns.view(), false, out["x"].view()});
  };
  op.backward = [&](Tensors&, Tensors& up, Tensors& d) {
    reference::rope<Complex>({},
                             {up["x"].view(), positions.view(), turns.view(), true, d["x"].view()});
  };
  std::string worst;
  EXPECT_LT(check_gradients(op, &worst), tolerance::kComplexStep) << worst;
}

// A pair at angle a + p turns by p: q . k depends on the distance alone.
TEST(Rope, ProductsDependOnTheDistance) {
  Owned<double> turns = turns_of(8), q({1, 2, 1, 8}), k({1, 2, 1, 8});
  const std::vector<double> a = normals("a", 8), b = normals("b", 8);
  for (int64_t i = 0; i < 16; ++i) {
    q[i] = a[static_cast<size_t>(i % 8)];
    k[i] = b[static_cast<size_t>(i % 8)];
  }
  Owned<int32_t> at({1, 2}), before({1, 2});
  at[0] = 5, before[0] = 2, at[1] = 100'000'005, before[1] = 100'000'002;
  reference::rope<double>({}, {q.view(), at.view(), turns.view(), false, q.view()});
  reference::rope<double>({}, {k.view(), before.view(), turns.view(), false, k.view()});
  double product[2] = {0, 0}, unturned = 0;
  for (int64_t i = 0; i < 16; ++i) product[i / 8] += q[i] * k[i];
  for (size_t i = 0; i < 8; ++i) unturned += a[i] * b[i];
  EXPECT_NEAR(product[0], product[1], 1e-7);
  EXPECT_GT(std::abs(product[0] - unturned), 1e-3);
}

const std::vector<AttentionCase> kCases = {
    {"short", 5, 0, 2, 2, 64, 0, 0, 0},
    {"tiles", 150, 0, 2, 1, 64, 0, 0, 0},
    {"left", 70, 40, 4, 2, 64, 100, 41, 9},
    {"left of more than a tile", 40, 150, 1, 1, 64, 200, 151, 60},
    {"far left goes through", 10, 30, 2, 1, 64, 64, 31, 30},
    {"documents", 130, 10, 2, 1, 64, 74, 0, 0, {0, 3, 64, 65, 100}},
    {"wide head", 70, 7, 2, 1, 128, 7, 8, 7},
    {"odd head", 70, 7, 4, 2, 24, 7, 8, 7},
    {"steep", 66, 0, 1, 1, 64, 0, 0, 0, {}, 40},
};

class Attention : public OnEveryBackend {};

TEST_P(Attention, IsTheReferences) {
  for (const AttentionCase& c : kCases) {
    if (kSanitized && c.left + c.tokens > 100) continue;
    SCOPED_TRACE(c.name);
    Owned<int32_t> positions = positions_of(kBatch, c.tokens, c.first, c.starts);
    const Shape queries{kBatch, c.tokens, c.heads, c.size};
    const Shape keys{kBatch, c.tokens, c.key_heads, c.size};
    const Shape left{kBatch, c.left, c.key_heads, c.size};
    const Shape right{kBatch, c.right, c.key_heads, c.size};
    const Shape scalars{kBatch, c.tokens, c.heads};
    TwoBackends b = bench();
    b.input("q", queries, c.score);
    for (const char* name : {"k", "v"}) b.input(name, keys);
    for (const char* name : {"k_left", "v_left"}) b.input(name, left);
    for (const char* name : {"dk_right", "dv_right"}) b.acc_input(name, right);
    b.input("dy", queries);
    for (const char* name : {"y", "dq"}) b.output(name, queries);
    for (const char* name : {"dk", "dv"}) b.output(name, keys);
    for (const char* name : {"dk_left", "dv_left"}) b.acc_output(name, left);
    for (const char* name : {"lse", "delta"}) b.acc_output(name, scalars);
    for (const char* name : {"k_out", "v_out"}) b.output(name, right);
    using Lookup = TwoBackends::Lookup;
    const auto or_none = [](int64_t rows, const Tensor& t) { return rows == 0 ? Tensor{} : t; };
    const auto input = [&](const Lookup& t) {
      return AttentionInput{.q = t("q"),
                            .k = t("k"),
                            .v = t("v"),
                            .k_left = or_none(c.left, t("k_left")),
                            .v_left = or_none(c.left, t("v_left")),
                            .positions = positions.view(),
                            .first = c.first,
                            .window = c.window,
                            .scale = 1 / std::sqrt(static_cast<double>(c.size))};
    };
    b.run<AttentionForward>(&Backend::attention_forward, [&](const Lookup& t) {
      return AttentionForward{input(t), t("y"), t("lse")};
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
    b.run<AttentionBackward>(&Backend::attention_backward, [&](const Lookup& t) {
      return AttentionBackward{.in = input(t),
                               .y = t("y"),
                               .dy = t("dy"),
                               .lse = t("lse"),
                               .dk_right = or_none(c.right, t("dk_right")),
                               .dv_right = or_none(c.right, t("dv_right")),
                               .dq = t("dq"),
                               .dk = t("dk"),
                               .dv = t("dv"),
                               .dk_left = or_none(c.left, t("dk_left")),
                               .dv_left = or_none(c.left, t("dv_left")),
                               .delta = t("delta")};
    });
    if (c.right > 0) {
      for (const std::string name : {"k", "v"}) {
        b.run<AttentionHalo>(&Backend::attention_halo, [&](const Lookup& t) {
          return AttentionHalo{or_none(c.left, t(name + "_left")), t(name), t(name + "_out")};
        });
      }
    }
    b.expect_close(tolerance::kFloat, tolerance::kBf16Gradient);
  }
}

TEST_P(Attention, RopeIsTheReferences) {
  for (const bool back : {false, true}) {
    TwoBackends b = bench();
    Owned<int32_t> positions = positions_of(kBatch, 35, 134'000'000, {9});
    Owned<double> turns = turns_of(24);
    b.input("x", {kBatch, 35, 3, 24});
    b.output("out", {kBatch, 35, 3, 24});
    b.run<Rope>(&Backend::rope, [&](const auto& t) {
      return Rope{t("x"), positions.view(), turns.view(), back, t("out")};
    });
    b.expect_close(tolerance::kFloat, tolerance::kBf16Output);
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Attention, testing::ValuesIn(op_cases()), op_case_name);

// One sequence, whole or cut at multiples of a tile: the last rows of keys and values go to the
// right, their gradients come back.
template <class T>
class CutSequence {
 public:
  static constexpr int64_t kTokens = 192, kHeads = 2, kWindow = 100;
  using Results = std::map<std::string, std::vector<double>>;

  CutSequence(const Backend& ops, int64_t size) : ops_(ops), size_(size) {
    for (const char* name : {"q", "dy", "y", "dq"}) make(name, kHeads);
    for (const char* name : {"k", "v", "dk", "dv"}) make(name, 1);
    for (const char* name : {"q", "dy", "k", "v"}) {
      assign(tensors_[name].view(), normals(name, tensors_[name].size()));
    }
  }

  Results run(const std::vector<int64_t>& cuts) {
    std::vector<Piece> pieces;
    for (size_t i = 0; i <= cuts.size(); ++i) {
      pieces.push_back({i == 0 ? 0 : cuts[i - 1], i == cuts.size() ? kTokens : cuts[i]});
      prepare(pieces, i);
      ops_.attention_forward({}, {input(pieces, i), part("y", pieces[i]), pieces[i].lse.view()});
    }
    for (size_t i = pieces.size(); i-- > 0;) {
      Piece& p = pieces[i];
      const bool last = i + 1 == pieces.size();
      ops_.attention_backward({}, {.in = input(pieces, i),
                                   .y = part("y", p),
                                   .dy = part("dy", p),
                                   .lse = p.lse.view(),
                                   .dk_right = last ? Tensor{} : pieces[i + 1].dk_left.view(),
                                   .dv_right = last ? Tensor{} : pieces[i + 1].dv_left.view(),
                                   .dq = part("dq", p),
                                   .dk = part("dk", p),
                                   .dv = part("dv", p),
                                   .dk_left = i == 0 ? Tensor{} : p.dk_left.view(),
                                   .dv_left = i == 0 ? Tensor{} : p.dv_left.view(),
                                   .delta = p.delta.view()});
    }
    Results results;
    for (const char* name : {"y", "dq", "dk", "dv"}) {
      results[name] = doubles(tensors_[name].view());
      std::fill(tensors_[name].values().begin(), tensors_[name].values().end(), T{});
    }
    return results;
  }

 private:
  struct Piece {
    int64_t begin, end;
    Owned<T> k_left = {}, v_left = {};
    Owned<float> dk_left = {}, dv_left = {}, lse = {}, delta = {};
    Owned<int32_t> positions = {};
  };

  void make(const char* name, int64_t heads) {
    tensors_[name] = Owned<T>({1, kTokens, heads, size_});
  }
  Tensor part(const char* name, const Piece& p) {
    Tensor t = tensors_.at(name).view();
    const int64_t heads = t.shape[2], tokens = p.end - p.begin;
    return t.reshaped({kTokens, heads, size_})
        .rows(p.begin, p.end)
        .reshaped({1, tokens, heads, size_});
  }
  void prepare(std::vector<Piece>& pieces, size_t i) {
    Piece& p = pieces[i];
    const Shape scalars{1, p.end - p.begin, kHeads};
    p.lse = p.delta = Owned<float>(scalars);
    p.positions = positions_of(1, p.end - p.begin, p.begin, {});
    if (i == 0) return;
    const int64_t left = std::min(kWindow - 1, p.begin);
    const Shape edge{1, left, 1, size_};
    p.k_left = p.v_left = Owned<T>(edge);
    p.dk_left = p.dv_left = Owned<float>(edge);
    Piece& before = pieces[i - 1];
    ops_.attention_halo({}, {left_of(before, before.k_left), part("k", before), p.k_left.view()});
    ops_.attention_halo({}, {left_of(before, before.v_left), part("v", before), p.v_left.view()});
  }
  static Tensor left_of(const Piece& p, Owned<T>& rows) {
    return p.begin == 0 ? Tensor{} : rows.view();
  }
  AttentionInput input(std::vector<Piece>& pieces, size_t i) {
    Piece& p = pieces[i];
    return {.q = part("q", p),
            .k = part("k", p),
            .v = part("v", p),
            .k_left = left_of(p, p.k_left),
            .v_left = left_of(p, p.v_left),
            .positions = p.positions.view(),
            .first = p.begin,
            .window = kWindow,
            .scale = 0.125};
  }

  const Backend& ops_;
  int64_t size_;
  std::map<std::string, Owned<T>> tensors_;
};

template <class T>
void expect_pieces_equal(const Backend& ops, int64_t size) {
  CutSequence<T> sequence(ops, size);
  const auto whole = sequence.run({});
  for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{128}, {64, 128}}) {
    if (kSanitized && cuts.size() > 1) continue;
    const auto pieces = sequence.run(cuts);
    for (const auto& [name, values] : whole) {
      EXPECT_EQ(pieces.at(name), values)
          << ops.isa << " " << name << ", " << cuts.size() << " cuts";
    }
  }
}

class AttentionPieces : public PerBackend {};
INSTANTIATE_TEST_SUITE_P(All, AttentionPieces, testing::ValuesIn(tested_backends()), backend_name);

TEST_P(AttentionPieces, HaveTheBitsOfTheWhole) {
  expect_pieces_equal<float>(*GetParam(), 24);
  if (GetParam()->bf16) expect_pieces_equal<bf16>(*GetParam(), 64);
}

}  // namespace
}  // namespace rwkv
