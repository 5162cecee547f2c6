#include "core/data/generators.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/data/needle.h"
#include "core/data/sample_writer.h"

namespace rwkv {
namespace {

constexpr int32_t kReverse = 0, kRecall = 1, kPair = 2, kWhere = 3;  // indices into skills()

// Every name and every town starts with a letter of its own, and none with 'W' of "Where": the
// first byte tells which was chosen.
constexpr std::array<std::string_view, 6> kNames = {"Ann", "Ben", "Dan", "Eve", "Gus", "Sam"};
constexpr std::array<std::string_view, 8> kTowns = {"Cork", "Kyiv", "Lima", "Nice",
                                                    "Oslo", "Pisa", "Rome", "York"};

constexpr int kMinDigits = 3, kMaxDigits = 6;

// The share of palindromes: half of the digits, rounded down, must repeat the other half.
constexpr double kReverseChance = (0.1 + 0.01 + 0.01 + 0.001) / 4;
// Whoever guesses without looking at who is asked for is right for one person at most, and all are
// asked for equally often.
constexpr double kRecallChance = 1.0, kPairChance = 1.0 / 2, kWhereChance = 1.0 / 4;

constexpr double kDigitChance = 0.1;

constexpr size_t kMaxPeople = 4;
// By the number of people, less one. Three are there to bridge the step from two to four.
constexpr std::array<int32_t, kMaxPeople> kStorySkill = {kRecall, kPair, kUngraded, kWhere};

void tell_reversal(SampleWriter& out) {
  std::array<char, kMaxDigits> digits{};
  int count = 0;
  do {
    const int digit = count == 0 ? 1 + out.choose(9) : out.choose(10);
    digits[static_cast<size_t>(count++)] = static_cast<char>('0' + digit);
    out.say({&digits[static_cast<size_t>(count - 1)], 1});
    // Going on with k of k + 1 lengths still open makes all lengths equally likely.
  } while (count < kMinDigits || out.decide(kMaxDigits - count, kMaxDigits - count + 1));
  out.say(" reversed is ");
  std::reverse(digits.begin(), digits.begin() + count);
  out.answer({digits.data(), static_cast<size_t>(count)}, kReverse);
  out.say(".\n");
}

// Takes one of the entries that are free, each equally likely, and marks it as taken.
template <size_t kSize>
size_t take_free(SampleWriter& out, std::array<bool, kSize>& taken) {
  auto left = out.choose(static_cast<int>(std::ranges::count(taken, false)));
  size_t i = 0;
  while (taken[i] || left-- > 0) ++i;
  taken[i] = true;
  return i;
}

// Towns stay distinct, so an answer points at one statement alone.
class Story {
 public:
  explicit Story(SampleWriter& out) : out_(out) {}

  void tell() {
    gather();
    for (size_t round = 0; round <= count_; ++round) {
      ask();
      out_.say(" ");
      move();
    }
    ask();
    out_.say("\n");
  }

 private:
  struct Person {
    size_t name = 0, town = 0;
  };

  void gather() {
    int left = kMaxPeople;
    do {
      introduce(people_[count_++]);
      --left;
      // Going on with `left` of left + 1 sizes still open makes all sizes equally likely. A name's
      // letter or the 'W' of "Where" tells.
    } while (left > 0 && out_.decide(left, left + 1));
  }

  void introduce(Person& person) {
    person.name = take_free(out_, named_);
    out_.say(kNames[person.name]);
    out_.say(" is in ");
    person.town = take_free(out_, occupied_);
    out_.say(kTowns[person.town]);
    out_.say(". ");
  }

  Person& anyone() { return people_[static_cast<size_t>(out_.choose(static_cast<int>(count_)))]; }

  void move() {
    Person& person = anyone();
    out_.say(kNames[person.name]);
    out_.say(" went to ");
    const size_t from = person.town;
    person.town = take_free(out_, occupied_);
    occupied_[from] = false;
    out_.say(kTowns[person.town]);
    out_.say(". ");
  }

  // For two, drawn independently: the first says nothing about the second. Only the first is
  // graded: where the second asks for the same person, copying is enough.
  void ask() {
    out_.say("Where is ");
    ask_for_anyone(kStorySkill[count_ - 1]);
    out_.say(" ");
    ask_for_anyone(kUngraded);
  }

  void ask_for_anyone(int32_t skill) {
    const Person& person = anyone();
    out_.say(kNames[person.name]);
    out_.say("? ");
    const std::string_view town = kTowns[person.town];
    if (skill == kUngraded) {
      out_.say(town);
    } else {
      out_.answer(town, skill);
    }
    out_.say(".");
  }

  SampleWriter& out_;
  size_t count_ = 0;
  std::array<Person, kMaxPeople> people_;  // the first count_ are there
  std::array<bool, kNames.size()> named_{};
  std::array<bool, kTowns.size()> occupied_{};
};

void fill_reverse(SampleWriter& out) {
  while (!out.full()) tell_reversal(out);
}

// Stories and reversals take turns: neither kind can fill a sample. A digit or a capital letter,
// its first byte, tells which came first.
void fill_skills(SampleWriter& out) {
  for (bool story = out.decide(1, 2); !out.full(); story = !story) {
    if (story) {
      Story(out).tell();
    } else {
      tell_reversal(out);
    }
  }
}

struct Generator {
  std::string_view name, title, prompt;
  void (*fill)(SampleWriter&);
  std::vector<std::string> skills;
  std::vector<double> chance;
};

const Generator* find_generator(std::string_view name) {
  static const std::array<Generator, 3> kGenerators = {{
      {"skills",
       "skills mix",
       "Ann is in Rome. Ben is in Oslo. Where is Ben? Oslo. Ann? Rome. Ann went to Cork. Where is "
       "Ann?",
       fill_skills,
       {"reverse", "recall", "pair", "where"},
       {kReverseChance, kRecallChance, kPairChance, kWhereChance}},
      {"reverse",
       "digit reversal",
       "40917 reversed is",
       fill_reverse,
       {"reverse"},
       {kReverseChance}},
      {"needle",
       "facts at the start, questions to the end",
       "A7 B2 C9 D4. B?2 A?7 C?9 birds sing. a cat sat. D?",
       fill_needle,
       {"near", "far", "needle"},
       {kDigitChance, kDigitChance, kDigitChance}},
  }};
  const auto found = std::ranges::find(kGenerators, name, &Generator::name);
  return found == kGenerators.end() ? nullptr : &*found;
}

class GeneratedSource final : public SampleSource {
 public:
  GeneratedSource(const Generator& generator, uint64_t seed)
      : generator_(generator), seed_(seed), random_(seed, generator.name) {}

  int64_t size() const override { return std::numeric_limits<int64_t>::max(); }
  double read(int64_t index, const SampleView& view) const override {
    require(index >= 0, "a sample's index is not negative");
    SampleWriter out(random_, index, view);
    generator_.fill(out);
    return out.nats();
  }
  std::vector<std::string> skills() const override { return generator_.skills; }
  std::vector<double> chance() const override { return generator_.chance; }
  std::string describe() const override {
    return fmt::format("{} (generated, seed {})", generator_.title, seed_);
  }
  std::string prompt() const override { return std::string(generator_.prompt); }

 private:
  const Generator& generator_;
  uint64_t seed_;
  Philox random_;
};

}  // namespace

bool is_generator(std::string_view name) { return find_generator(name) != nullptr; }

std::unique_ptr<SampleSource> make_generator(std::string_view name, uint64_t seed, int64_t vocab) {
  const Generator* generator = find_generator(name);
  require(generator != nullptr, "no generator of that name");
  constexpr int64_t kByteTokens = 257;
  if (vocab < kByteTokens) {
    throw InputError(
        fmt::format("model.vocab: data.source {} needs at least {} (bytes and the end "
                    "token), got {}",
                    name, kByteTokens, vocab));
  }
  return std::make_unique<GeneratedSource>(*generator, seed);
}

}  // namespace rwkv
