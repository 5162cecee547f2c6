#include "core/io/pth_pickle.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "core/base/error.h"
#include "core/io/pth_state.h"
#include "tests/core/io/io_fixture.h"
#include "tests/core/io/pickle_maker.h"

namespace rwkv {
namespace {

using Place = PickleMaker::Place;

std::string pickle_refusal(const PickleMaker& pickle) {
  return message_of<InputError>([&] { read_state_dict(pickle.bytes(), "file.pth"); });
}

void expect_refused(const PickleMaker& pickle, const std::string& why) {
  const std::string message = pickle_refusal(pickle);
  EXPECT_TRUE(message.starts_with("file.pth: ")) << message;
  EXPECT_TRUE(contains(message, why)) << message;
  EXPECT_FALSE(contains(message, "\n")) << message;
}

StateDict read(const PickleMaker& pickle) { return read_state_dict(pickle.bytes(), "file.pth"); }

// The start of a state dict; ends with "u.".
PickleMaker open_dict() { return PickleMaker().ordered_dict().raw("("); }

TEST(Pickle, ReadsATensor) {
  const auto state =
      read(one_tensor({"BFloat16Storage", "17", 100, 10, {3, 4}, {1, 20}}, "blocks.0.att.w0"));
  ASSERT_EQ(state.tensors.size(), 1u);
  const StoredTensor& t = state.tensors[0];
  EXPECT_EQ(t.name, "blocks.0.att.w0");
  EXPECT_EQ(t.offset, 10);
  EXPECT_EQ(t.elements, 12);
  EXPECT_EQ(t.shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(t.strides, (std::vector<int64_t>{1, 20}));
  ASSERT_EQ(state.storages.size(), 1u);
  EXPECT_EQ(state.storages[0].key, "17");
  EXPECT_EQ(state.storages[0].kind, StorageKind::kBF16);
  EXPECT_EQ(state.storages[0].elements, 100);
}

TEST(Pickle, TensorsMayShareAStorage) {
  const auto state = read(open_dict().text("emb").tensor({}).text("head").tensor({}).raw("u."));
  EXPECT_EQ(state.tensors.size(), 2u);
  EXPECT_EQ(state.storages.size(), 1u);
}

TEST(Pickle, DropsTheWrapperOfNames) {
  EXPECT_EQ(read(one_tensor({}, "_forward_module.emb.weight")).tensors[0].name, "emb.weight");
  expect_refused(open_dict().text("_forward_module.a").tensor({}).text("a").tensor({}).raw("u."),
                 "there twice");
}

TEST(Pickle, ReadsParametersAndIgnoresAttributesOfTheDict) {
  PickleMaker p;
  p.ordered_dict().text("x").global("torch._utils", "_rebuild_parameter").raw("(").tensor({});
  p.raw("\x88").ordered_dict().raw("tRs");
  p.raw("}")
      .text("_metadata")
      .ordered_dict()
      .raw("(")
      .text("")
      .raw("}")
      .text("version")
      .raw("K\1s");
  p.raw("usb.");
  EXPECT_EQ(read(p).tensors.size(), 1u);
}

TEST(Pickle, AcceptsEmptyDictsScalarsAndEmptyTensors) {
  EXPECT_TRUE(read(PickleMaker().raw("}.")).tensors.empty());
  EXPECT_EQ(read(one_tensor({"FloatStorage", "0", 1, 0, {}, {}})).tensors[0].elements, 1);
  EXPECT_EQ(read(one_tensor({"FloatStorage", "0", 0, 0, {0, 5}, {5, 1}})).tensors[0].elements, 0);
}

TEST(Pickle, MakesIntegersOfAnyLength) {
  auto value = [](std::string_view bytes) {
    PickleMaker p;
    p.raw("\x8a").number(bytes.size(), 1).raw(bytes).raw(".");
    const Pickle out = run_pickle(p.bytes(), "f");
    return out[out.root].number;
  };
  EXPECT_EQ(value(""), 0);
  EXPECT_EQ(value("\x7f"), 127);
  EXPECT_EQ(value("\xff"), -1);
  EXPECT_EQ(value(std::string_view("\xff\x00", 2)), 255);
  EXPECT_EQ(value(std::string_view("\0\0\0\0\0\0\0\x80", 8)), INT64_MIN);
}

TEST(EvilPickle, CallsNothing) {
  expect_refused(PickleMaker().global("os", "system").raw("(").text("touch /tmp/owned").raw("tR."),
                 "os.system");
  expect_refused(PickleMaker().global("builtins", "eval").raw("."), "builtins.eval");
  expect_refused(PickleMaker().global("collections", "OrderedDict\nx"), "instruction 120");
  expect_refused(PickleMaker().global("torch", "FloatStorage2").raw("."), "FloatStorage2");
  expect_refused(PickleMaker().global("a\x1b[31m", std::string("b\r", 2)).raw("."), "'a?[31m.b?'");
  expect_refused(PickleMaker().text("os.system").raw(")R."), "calls something that is no global");
  expect_refused(PickleMaker().ordered_dict().raw(")R."), "calls something that is no global");
  expect_refused(PickleMaker().global("torch._utils", "_rebuild_tensor_v2").raw("NR."), "no tuple");
  expect_refused(PickleMaker().global("collections", "OrderedDict").raw("]\x85R."), "arguments");
  expect_refused(PickleMaker().global("torch", "FloatStorage").raw(")R."), "a tensor or parameter");
}

TEST(EvilPickle, InstructionsOutsideTheListAreRefused) {
  // INST, OBJ, EXT1, STACK_GLOBAL, NEWOBJ_EX, BINSTRING, PERSID, LONG4, INT, NEWOBJ, POP, DUP.
  for (char c : std::string("io\x82\x93\x92TP\x8bI\x81"
                            "02")) {
    expect_refused(PickleMaker().raw(")").raw(std::string(1, c)).raw("\1\0\0\0."),
                   "instruction " + std::to_string(static_cast<uint8_t>(c)) + " ");
  }
  expect_refused(PickleMaker().raw("\x8b").number(0x7fffffff, 4), "instruction 139");  // huge LONG4
  expect_refused(PickleMaker("\x80\x04").raw("}."), "protocol 4");
  expect_refused(PickleMaker("}."), "not a pickle of protocol 2");
  expect_refused(PickleMaker(""), "ends inside");
}

TEST(EvilPickle, LengthsAreBounded) {
  expect_refused(PickleMaker().raw("X").number(0xffffffff, 4), "65536 bytes");
  expect_refused(PickleMaker().raw("X").number(100, 4).raw("short"), "ends inside");
  expect_refused(PickleMaker().raw("\x8a\xff").raw(std::string(255, 'a')), "64 bits");
  expect_refused(PickleMaker().global(std::string(1000, 'm'), "x"), "does not end");
  expect_refused(PickleMaker().raw("}r").number(0xffffffff, 4).raw("."), "memo slot out of range");
}

TEST(EvilPickle, LimitsOfWorkHold) {
  expect_refused(PickleMaker().raw(std::string(2000, '(')), "nested too deep");
  expect_refused(PickleMaker().raw(std::string(1'500'000, ')')), "stack grows too deep");
  // A dict that empties the stack over and over: values without end.
  std::string loop = "](";
  for (int i = 0; i < 900'000; ++i) loop += ')';
  loop += 'e';
  PickleMaker values;
  for (int i = 0; i < 6; ++i) values.raw(loop);
  expect_refused(values, "too many values");
  // Nothing new is made, but it never ends.
  PickleMaker steps;
  steps.raw("}q").raw(std::string(1, '\0'));
  std::string puts;
  for (int i = 0; i < 11'000'000; ++i) puts += std::string_view("q\0", 2);
  expect_refused(steps.raw(puts), "too many instructions");
}

TEST(EvilPickle, DepthOfNestingIsNoRecursion) {
  PickleMaker p;
  p.raw(")").raw(std::string(3'000'000, '\x85')).raw(".");
  expect_refused(p, "holds a tuple");
  // A list that holds itself, as a value of the dict.
  expect_refused(open_dict().text("x").raw("]q\7h\7au."), "holds a list");
  // A dict that holds itself.
  expect_refused(PickleMaker().raw("}q\7").text("x").raw("h\7s."), "holds a dict");
}

TEST(EvilPickle, TheStackIsGuarded) {
  for (const char* code : {".", "R", "a", "s", "u", "e", "t", "\x85", "\x87", "q\1", "Q", "b", "(R",
                           "(a", "}(s", "](a.", "(.", "}}."}) {
    EXPECT_NE(pickle_refusal(PickleMaker().raw(code)), "nothing was thrown") << code;
  }
  expect_refused(PickleMaker().raw("h\5."), "never filled");
  expect_refused(PickleMaker().raw("}.."), "bytes follow");
}

TEST(EvilPickle, ItemsGoOnlyIntoTheirContainers) {
  expect_refused(PickleMaker().raw("]").text("a").raw("Ns."), "no dict");
  expect_refused(PickleMaker().raw("N").text("a").raw("Ns."), "no dict");
  expect_refused(PickleMaker().global("torch", "FloatStorage").raw("(").text("a").raw("Nu."),
                 "no dict");
  expect_refused(PickleMaker().raw("}(").text("a").raw("u."), "without a value");
  expect_refused(PickleMaker().raw("}Na."), "no list");
  expect_refused(PickleMaker().raw("}(Ne."), "no list");
  expect_refused(PickleMaker().raw("}Nb."), "no dict");
  expect_refused(PickleMaker().raw("]}b."), "no dict");
}

TEST(EvilPickle, OnlyTensorsAreValues) {
  expect_refused(PickleMaker().raw("]."), "holds a list; a state dict");
  expect_refused(PickleMaker().raw("}K\1").tensor({}).raw("s."), "a key that is an int");
  expect_refused(PickleMaker().raw("}").text("epoch").raw("K\1s."), "'epoch' holds an int");
  expect_refused(PickleMaker().raw("}").text("state_dict").raw("}s."), "'state_dict' holds a dict");
  expect_refused(PickleMaker().raw("}").text("s").storage("FloatStorage", "0", 1).raw("s."),
                 "'s' holds a storage");
  expect_refused(one_tensor({.type = "LongStorage"}),
                 "tensor 'x': lies in a LongStorage; only floating-point tensors are read");
}

TEST(EvilPickle, NamesArePlain) {
  for (std::string_view name : {"", "../x", "/etc/passwd", "a\\b", "a b", "a\nb", "\xff"}) {
    expect_refused(one_tensor({}, name), "no name of a tensor");
  }
  expect_refused(one_tensor({}, std::string(2000, 'a')), "no name of a tensor");
  expect_refused(open_dict().text("a").tensor({}).text("a").tensor({}).raw("u."), "there twice");
}

TEST(EvilPickle, StoragesAreDescribedOnceAndByNumber) {
  for (const char* key : {"../0", "", "x", "-1", "0/../1", "1234567890123456789"}) {
    expect_refused(one_tensor({.key = key}), "key is no number");
  }
  expect_refused(one_tensor({.elements = -4}), "negative size");
  expect_refused(one_tensor({.type = "Size"}), "no part of a state dict");
  PickleMaker p = open_dict();
  p.text("a").tensor({.elements = 4}).text("b").tensor({.elements = 5}).raw("u.");
  expect_refused(p, "described otherwise");
}

TEST(EvilPickle, PersistentIdsAreStorages) {
  auto with_id = [](const PickleMaker& id) {
    PickleMaker p;
    p.ordered_dict().text("x").global("torch._utils", "_rebuild_tensor_v2").raw("(");
    return p.raw(id.str()).integer(0).tuple({4}).tuple({1}).raw("\x89").ordered_dict().raw("tRs.");
  };
  expect_refused(with_id(PickleMaker("").text("0").raw("Q")), "no tuple");
  expect_refused(with_id(PickleMaker("").raw(")Q")), "no storage");
  expect_refused(with_id(PickleMaker("(").text("module").raw("NNNNtQ")), "no storage");
  expect_refused(with_id(PickleMaker("(").text("storage").raw("NNNNtQ")), "without a type");
  expect_refused(
      with_id(PickleMaker("(").text("storage").global("collections", "OrderedDict").raw("NNNtQ")),
      "without a type");
  expect_refused(with_id(PickleMaker("N")), "no storage");
}

TEST(EvilPickle, TensorsStayInsideTheirStorage) {
  expect_refused(one_tensor({.offset = 1}), "ends outside");
  expect_refused(one_tensor({.offset = -1}), "begins outside");
  expect_refused(one_tensor({.offset = INT64_MAX}), "begins outside");
  expect_refused(one_tensor({.shape = {5}}), "more elements");
  expect_refused(one_tensor({.shape = {-4}}), "negative size or stride");
  expect_refused(one_tensor({.strides = {-1}}), "negative size or stride");
  expect_refused(one_tensor({.strides = {2}}), "ends outside");
  expect_refused(one_tensor({.strides = {INT64_MAX}}), "ends outside");
  expect_refused(one_tensor({.shape = {2, 2}, .strides = {INT64_MAX, INT64_MAX}}), "ends outside");
  expect_refused(one_tensor({.shape = {INT64_MAX, 4}, .strides = {0, 0}}), "more elements");
  expect_refused(one_tensor({.shape = {1 << 30, 1 << 30, 1 << 30}, .strides = {0, 0, 0}}),
                 "more elements");
  expect_refused(one_tensor({.shape = {2, 2}, .strides = {1}}), "as many strides");
  expect_refused(one_tensor({.shape = std::vector<int64_t>(9, 1), .strides = {}}),
                 "more than 8 dimensions");
  expect_refused(one_tensor({.elements = 0, .shape = {}, .strides = {}}), "outside");
}

TEST(EvilPickle, SharingAStorageDoesNotMultiplyMemory) {
  PickleMaker p = open_dict();
  for (int i = 0; i < 100; ++i) p.text("t" + std::to_string(i)).tensor({});
  expect_refused(p.raw("u."), "share storages too often");
  PickleMaker q = open_dict();
  for (int i = 0; i < 3; ++i) {
    q.text("t" + std::to_string(i)).tensor({.key = std::to_string(i), .elements = INT64_MAX});
  }
  expect_refused(q.raw("u."), "more than 64 bits");
}

TEST(EvilPickle, AnyTruncationIsRefused) {
  const std::string whole = one_tensor({}).str();
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_NE(pickle_refusal(PickleMaker(whole.substr(0, n))), "nothing was thrown") << n;
  }
}

TEST(EvilPickle, AnyMutationEndsInAResultOrARefusal) {
  PickleMaker p = open_dict();
  p.text("a").tensor({.elements = 24, .shape = {2, 3, 4}, .strides = {12, 4, 1}});
  p.text("b").tensor({"HalfStorage", "1", 6, 2, {2, 2}, {1, 2}}).raw("u}").text("_metadata");
  const std::string whole = p.ordered_dict().raw("sb.").str();
  ASSERT_EQ(read(PickleMaker(whole)).tensors.size(), 2u);
  std::mt19937 random(1);
  auto below = [&](size_t n) { return random() % n; };
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = whole;
    for (size_t k = 1 + below(4); k > 0; --k) {
      const size_t at = below(bytes.size());
      switch (below(4)) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
          break;
        case 2:
          bytes.erase(at, 1 + below(4));
          break;
        default:
          bytes.insert(at, whole.substr(below(whole.size()), below(16)));
      }
      if (bytes.empty()) bytes = "x";
    }
    refused += pickle_refusal(PickleMaker(bytes)) != "nothing was thrown" ? 1 : 0;
  }
  EXPECT_GT(refused, 10000);
  EXPECT_LT(refused, 20000);
}

}  // namespace
}  // namespace rwkv
