#include "core/data/needle.h"

#include <array>
#include <string>

namespace rwkv {
namespace {

constexpr size_t kFacts = 4;

// The first letter tells which was chosen.
constexpr std::array<std::string_view, 8> kFiller = {
    "a cat sat. ",         "birds sing. ", "clouds go by. ",   "deep snow fell. ",
    "every day is long. ", "fish swim. ",  "grass is green. ", "he went home. "};
constexpr size_t kLongestFiller = 19, kQuestion = 3;

class Needle {
 public:
  explicit Needle(SampleWriter& out) : out_(out) {}

  void tell() {
    const size_t all = out_.left();
    state();
    while (out_.left() > all - all / 8) {
      ask(static_cast<size_t>(out_.choose(static_cast<int>(kFacts))), kNear);
      out_.say(" ");
    }
    for (size_t quarter = 1; quarter < kFacts; ++quarter) {
      wander(all - quarter * all / kFacts);
      ask(next(), kFar);
      out_.say(" ");
    }
    wander(kLongestFiller + kQuestion);
    while (out_.left() > kQuestion) out_.say(".");
    ask(next(), kNeedle);
  }

 private:
  void state() {
    for (size_t i = 0; i < kFacts; ++i) {
      const char letter = static_cast<char>('A' + i);
      digits_[i] = static_cast<char>('0' + out_.choose(10));
      out_.say({&letter, 1});
      out_.say({&digits_[i], 1});
      out_.say(i + 1 < kFacts ? " " : ". ");
    }
  }

  // Sentences until no more than `left` bytes are left.
  void wander(size_t left) {
    while (out_.left() > left) {
      out_.say(kFiller[static_cast<size_t>(out_.choose(static_cast<int>(kFiller.size())))]);
    }
  }

  // A letter that was not taken yet.
  size_t next() {
    auto skip = out_.choose(static_cast<int>(kFacts - taken_count_++));
    size_t i = 0;
    while (taken_[i] || skip-- > 0) ++i;
    taken_[i] = true;
    return i;
  }

  void ask(size_t letter, NeedleSkill skill) {
    const char name = static_cast<char>('A' + letter);
    out_.say({&name, 1});
    out_.say("?");
    out_.answer({&digits_[letter], 1}, skill);
  }

  SampleWriter& out_;
  std::array<char, kFacts> digits_{};
  std::array<bool, kFacts> taken_{};
  size_t taken_count_ = 0;
};

}  // namespace

void fill_needle(SampleWriter& out) { Needle(out).tell(); }

}  // namespace rwkv
