#include "core/io/pth_pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/base/error.h"
#include "core/io/zip_stored.h"

namespace rwkv {
namespace {

using Kind = PickleValue::Kind;

constexpr int64_t kMostInstructions = 10'000'000;
constexpr size_t kMostValues = 4'000'000, kDeepestStack = 1'000'000, kMostMarks = 1000;
constexpr size_t kMostMemo = 1'000'000, kLongestText = 65536, kLongestGlobal = 256;

constexpr std::array<std::string_view, 16> kGlobals = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage",
    "torch BFloat16Storage",
    "torch HalfStorage",
    "torch DoubleStorage",
    // Known, so that a tensor of them is refused by its name.
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
    "torch ComplexFloatStorage",
    "torch ComplexDoubleStorage",
    "torch QInt8Storage",
};

enum Opcode : uint8_t {
  kProto = 0x80,
  kStop = '.',
  kMark = '(',
  kPutNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kBinFloat = 'G',
  kBinUnicode = 'X',
  kShortBinString = 'U',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kEmptyDict = '}',
  kSetItem = 's',
  kSetItems = 'u',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kGlobal = 'c',
  kReduce = 'R',
  kBuild = 'b',
  kBinPersId = 'Q',
};

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& where)
      : text_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), where_(where) {}

  Pickle run();

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw InputError(where_ + ": byte " + std::to_string(begin_) + " of the pickle: " + what);
  }
  void expect(bool ok, const char* what) const {
    if (!ok) [[unlikely]]
      refuse(what);
  }

  std::string_view take(size_t count) {
    expect(count <= text_.size() - at_, "it ends inside an instruction (truncated?)");
    at_ += count;
    return text_.substr(at_ - count, count);
  }
  // A little-endian number.
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view line() {
    const size_t end = text_.substr(at_, kLongestGlobal).find('\n');
    expect(end != std::string_view::npos, "the name of a global does not end");
    return take(end + 1).substr(0, end);
  }

  void push(uint32_t value) {
    expect(stack_.size() < kDeepestStack, "the stack grows too deep");
    stack_.push_back(value);
  }
  void push_new(PickleValue value) {
    expect(out_.values.size() < kMostValues, "it holds too many values");
    out_.values.push_back(std::move(value));
    push(static_cast<uint32_t>(out_.values.size() - 1));
  }
  void push_new(Kind kind, int64_t value = 0) { push_new({kind, value, {}, {}}); }
  void push_text(std::string_view text) { push_new({Kind::kText, 0, text, {}}); }

  // The stack above the last mark; nothing reaches below that.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  uint32_t pop() {
    expect(stack_.size() > floor(), "it takes from an empty stack");
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  PickleValue& top(Kind wanted, const char* what) {
    expect(stack_.size() > floor(), "it takes from an empty stack");
    PickleValue& value = out_.values[stack_.back()];
    expect(value.kind == wanted, what);
    return value;
  }
  std::vector<uint32_t> pop_last(size_t count) {
    expect(stack_.size() - floor() >= count, "it takes from an empty stack");
    std::vector<uint32_t> items(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }
  std::vector<uint32_t> pop_to_mark() {
    expect(!marks_.empty(), "it looks for a mark that is not there");
    auto items = pop_last(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }

  // Each carries out `code` if it belongs to the group.
  bool do_constant(uint8_t code);
  bool do_container(uint8_t code);
  bool do_memo(uint8_t code);
  bool do_object(uint8_t code);

  void push_long();
  void fill_dict(const std::vector<uint32_t>& items);
  void fill_list(const std::vector<uint32_t>& items);
  void put(uint32_t slot);
  void get(uint32_t slot);
  void push_global();
  void reduce();

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0, begin_ = 0;  // next byte; first byte of this instruction
  Pickle out_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, uint32_t> memo_;
};

void Machine::push_long() {
  const auto size = number<uint8_t>();
  expect(size <= 8, "an integer of more than 64 bits");
  const std::string_view bytes = take(size);
  // Two's complement, little-endian, as many bytes as are needed.
  uint64_t value = size > 0 && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
  for (size_t i = size; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(bytes[i]);
  push_new(Kind::kInt, static_cast<int64_t>(value));
}

bool Machine::do_constant(uint8_t code) {
  switch (code) {
    case kPutNone:
      push_new(Kind::kNone);
      return true;
    case kNewTrue:
    case kNewFalse:
      push_new(Kind::kBool, code == kNewTrue);
      return true;
    case kBinInt:
      push_new(Kind::kInt, number<int32_t>());
      return true;
    case kBinInt1:
      push_new(Kind::kInt, number<uint8_t>());
      return true;
    case kBinInt2:
      push_new(Kind::kInt, number<uint16_t>());
      return true;
    case kLong1:
      push_long();
      return true;
    case kBinFloat:
      take(8);
      push_new(Kind::kFloat);
      return true;
    case kBinUnicode: {
      const auto size = number<uint32_t>();
      expect(size <= kLongestText, "a text of more than 65536 bytes");
      push_text(take(size));
      return true;
    }
    case kShortBinString:
      push_text(take(number<uint8_t>()));
      return true;
    default:
      return false;
  }
}

void Machine::fill_dict(const std::vector<uint32_t>& items) {
  auto& dict = top(Kind::kDict, "it sets an item of something that is no dict").items;
  expect(items.size() % 2 == 0, "a key without a value");
  dict.insert(dict.end(), items.begin(), items.end());
}

void Machine::fill_list(const std::vector<uint32_t>& items) {
  auto& list = top(Kind::kList, "it appends to something that is no list").items;
  list.insert(list.end(), items.begin(), items.end());
}

bool Machine::do_container(uint8_t code) {
  switch (code) {
    case kMark:
      expect(marks_.size() < kMostMarks, "its values are nested too deep");
      marks_.push_back(stack_.size());
      return true;
    case kEmptyTuple:
      push_new(Kind::kTuple);
      return true;
    case kTuple:
      push_new({Kind::kTuple, 0, {}, pop_to_mark()});
      return true;
    case kTuple1:
    case kTuple2:
    case kTuple3:
      push_new({Kind::kTuple, 0, {}, pop_last(size_t{1} + code - kTuple1)});
      return true;
    case kEmptyList:
      push_new(Kind::kList);
      return true;
    case kAppend:
      fill_list(pop_last(1));
      return true;
    case kAppends:
      fill_list(pop_to_mark());
      return true;
    case kEmptyDict:
      push_new(Kind::kDict);
      return true;
    case kSetItem:
      fill_dict(pop_last(2));
      return true;
    case kSetItems:
      fill_dict(pop_to_mark());
      return true;
    default:
      return false;
  }
}

void Machine::put(uint32_t slot) {
  expect(slot < kMostMemo, "a memo slot out of range");
  expect(stack_.size() > floor(), "it takes from an empty stack");
  memo_[slot] = stack_.back();
}

void Machine::get(uint32_t slot) {
  const auto found = memo_.find(slot);
  expect(found != memo_.end(), "a memo slot that was never filled");
  push(found->second);
}

bool Machine::do_memo(uint8_t code) {
  switch (code) {
    case kBinPut:
      put(number<uint8_t>());
      return true;
    case kLongBinPut:
      put(number<uint32_t>());
      return true;
    case kBinGet:
      get(number<uint8_t>());
      return true;
    case kLongBinGet:
      get(number<uint32_t>());
      return true;
    default:
      return false;
  }
}

void Machine::push_global() {
  const std::string module(line()), name(line());
  const std::string wanted = module + " " + name;
  const auto known = std::find(kGlobals.begin(), kGlobals.end(), wanted);
  if (known == kGlobals.end()) {
    refuse("it asks for " + in_quotes(module + "." + name) +
           ", which is no part of a state dict of tensors; nothing of it was run");
  }
  push_new({Kind::kGlobal, 0, *known, {}});
}

void Machine::reduce() {
  const uint32_t arguments = pop(), callable = pop();
  expect(out_.values[callable].kind == Kind::kGlobal, "it calls something that is no global");
  expect(out_.values[arguments].kind == Kind::kTuple, "it calls with something that is no tuple");
  if (out_.values[callable].text == kGlobals[0]) {
    expect(out_.values[arguments].items.empty(), "an OrderedDict made from arguments");
    push_new(Kind::kDict);
  } else {
    push_new({Kind::kCall, 0, {}, {callable, arguments}});
  }
}

bool Machine::do_object(uint8_t code) {
  switch (code) {
    case kGlobal:
      push_global();
      return true;
    case kReduce:
      reduce();
      return true;
    case kBuild: {
      // Attributes of an OrderedDict (torch keeps versions of modules there) mean nothing here.
      const uint32_t state = pop();
      expect(out_.values[state].kind == Kind::kDict, "attributes that are no dict");
      top(Kind::kDict, "attributes of something that is no dict");
      return true;
    }
    case kBinPersId:
      push_new({Kind::kPersistent, 0, {}, pop_last(1)});
      return true;
    default:
      return false;
  }
}

Pickle Machine::run() {
  expect(take(1)[0] == static_cast<char>(kProto), "not a pickle of protocol 2");
  const int protocol = number<uint8_t>();
  if (protocol != 2) refuse("protocol " + std::to_string(protocol) + "; only 2 is read");
  for (int64_t count = 0;; ++count) {
    begin_ = at_;
    expect(count < kMostInstructions, "too many instructions");
    const auto code = number<uint8_t>();
    if (code == kStop) break;
    if (!do_constant(code) && !do_container(code) && !do_memo(code) && !do_object(code)) {
      refuse("instruction " + std::to_string(code) + " is none of a state dict");
    }
  }
  expect(stack_.size() == 1 && marks_.empty(), "it ends with another number of values than one");
  expect(at_ == text_.size(), "bytes follow its end");
  out_.root = stack_.back();
  return std::move(out_);
}

}  // namespace

std::string_view name_of(PickleValue::Kind kind) {
  // In the order of Kind.
  constexpr std::array<std::string_view, 11> kNames = {
      "None",     "a bool", "an int", "a float", "a text",
      "a tuple",  "a list", "a dict", "a class", "a tensor or parameter",
      "a storage"};
  return kNames.at(static_cast<size_t>(kind));
}

Pickle run_pickle(std::span<const std::byte> bytes, const std::string& where) {
  return Machine(bytes, where).run();
}

}  // namespace rwkv
