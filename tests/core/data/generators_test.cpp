#include "core/data/generators.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "tests/core/data/data_test_support.h"
#include "tests/core/data/grammar_referee.h"

namespace rwkv::testing {
namespace {

constexpr int64_t kVocab = 257;

TEST(Generators, SampleDependsOnNameSeedAndIndexAlone) {
  const auto source = make_generator("skills", 7, kVocab);
  std::vector<Sample> forward;
  for (int64_t i = 0; i < 20; ++i) forward.push_back(read_sample(*source, i, 256));
  const auto again = make_generator("skills", 7, kVocab);
  for (int64_t i = 19; i >= 0; --i) {
    EXPECT_EQ(read_sample(*again, i, 256), forward[static_cast<size_t>(i)]) << "sample " << i;
  }
  std::set<std::string> texts;
  for (const Sample& sample : forward) texts.insert(sample.text());
  EXPECT_EQ(texts.size(), forward.size()) << "samples repeat";
  EXPECT_NE(read_sample(*make_generator("skills", 8, kVocab), 0, 256).text(), forward[0].text());
  EXPECT_NE(read_sample(*make_generator("reverse", 7, kVocab), 0, 256).text(), forward[0].text());
}

TEST(Generators, LargeIndicesAreSamplesOfTheirOwn) {
  const auto source = make_generator("reverse", 1, kVocab);
  const int64_t last = std::numeric_limits<int64_t>::max() - 1;
  EXPECT_NE(read_sample(*source, last, 64).text(), read_sample(*source, last - 1, 64).text());
  EXPECT_EQ(source->size(), std::numeric_limits<int64_t>::max());
}

TEST(Generators, SampleStartsWithTheEndTokenAndEveryTargetWeighsOne) {
  for (const char* name : {"skills", "reverse", "needle"}) {
    const auto source = make_generator(name, 3, kVocab);
    for (int64_t context : {1, 2, 3, 31, 256}) {
      const Sample sample = read_sample(*source, 5, context);
      EXPECT_EQ(sample.tokens[0], 0);
      for (size_t i = 0; i < sample.weight.size(); ++i) {
        EXPECT_GT(sample.tokens[i + 1], 0);
        EXPECT_LT(sample.tokens[i + 1], 129) << "not ASCII";
        EXPECT_EQ(sample.weight[i], 1.0f);
      }
    }
  }
}

// Questions of a sample by index, as their bytes and the position of the first in the text.
struct Graded {
  int32_t skill = kUngraded;
  size_t begin = 0;
  std::string answer;
};

std::vector<Graded> graded(const Sample& sample) {
  std::map<int32_t, Graded> found;
  const std::string text = sample.text();
  for (size_t i = 0; i < sample.question.size(); ++i) {
    EXPECT_EQ(sample.question[i] == kUngraded, sample.skill[i] == kUngraded);
    if (sample.question[i] == kUngraded) continue;
    Graded& question = found[sample.question[i]];
    if (question.answer.empty()) question = {sample.skill[i], i, ""};
    EXPECT_EQ(question.skill, sample.skill[i]);
    EXPECT_EQ(question.begin + question.answer.size(), i) << "an answer has a gap";
    question.answer += text[i];
  }
  std::vector<Graded> out;
  for (const auto& [index, question] : found) {
    EXPECT_EQ(index, static_cast<int32_t>(out.size())) << "questions are not counted from 0";
    if (!out.empty()) {
      EXPECT_LT(out.back().begin, question.begin);
    }
    out.push_back(question);
  }
  return out;
}

TEST(Generators, GradedTargetsAreTheRightAnswersThatLieWhollyInTheWindow) {
  for (const char* name : {"skills", "reverse"}) {
    const auto source = make_generator(name, 11, kVocab);
    std::set<int32_t> met;
    for (int64_t index = 0; index < 300; ++index) {
      const int64_t context = 1 + index % 300;
      const Sample sample = read_sample(*source, index, context);
      // The referee works the answers out from the text of a longer window.
      const auto referee = judge(read_sample(*source, index, 700).text(), name);
      ASSERT_EQ(referee.complaint, "");
      std::vector<Answer> expected;
      for (const Answer& answer : referee.answers) {
        if (answer.begin + answer.text.size() <= static_cast<size_t>(context)) {
          expected.push_back(answer);
        }
      }
      const auto found = graded(sample);
      ASSERT_EQ(found.size(), expected.size()) << name << " sample " << index;
      for (size_t q = 0; q < found.size(); ++q) {
        EXPECT_EQ(found[q].answer, expected[q].text);
        EXPECT_EQ(found[q].begin, expected[q].begin);
        EXPECT_EQ(source->skills().at(static_cast<size_t>(found[q].skill)), expected[q].skill);
        met.insert(found[q].skill);
      }
    }
    EXPECT_EQ(met.size(), source->skills().size()) << "a skill is never asked for";
  }
}

// Facts first; every answer is the fact's digit; where questions stand tells their skill.
TEST(Generators, NeedleAsksForFactsNearFarAndAtTheEnd) {
  const auto source = make_generator("needle", 5, kVocab);
  for (int64_t index = 0; index < 40; ++index) {
    const int64_t context = index < 20 ? 2048 : 300 + 37 * index;
    const Sample sample = read_sample(*source, index, context);
    const std::string text = sample.text();
    std::map<char, char> fact;
    for (size_t i = 0; i < 4; ++i) fact[text[3 * i]] = text[3 * i + 1];
    ASSERT_EQ(fact.size(), 4u);
    std::array<int, 3> asked{};
    std::set<char> later;
    for (const Graded& question : graded(sample)) {
      ASSERT_EQ(text[question.begin - 1], '?');
      const char letter = text[question.begin - 2];
      EXPECT_EQ(question.answer, std::string(1, fact.at(letter)));
      ++asked.at(static_cast<size_t>(question.skill));
      const auto at = 8 * static_cast<int64_t>(question.begin) / context;
      if (question.skill == 0) {
        EXPECT_LE(at, 1);
      } else {
        EXPECT_GE(at, 2);
        later.insert(letter);
      }
      if (question.skill == 2) {
        EXPECT_EQ(question.begin + 1, text.size());
      }
    }
    EXPECT_GT(asked[0], 4);
    EXPECT_EQ(asked[1], 3);
    EXPECT_EQ(asked[2], 1);
    EXPECT_EQ(later.size(), 4u) << "an answer is repeated, and need not be kept";
  }
  for (int64_t context = 1; context < 60; ++context) read_sample(*source, 1, context);
}

// The longest story, of four people, and a reversal of six digits: 340 + 27 bytes.
TEST(Generators, SkillsSampleOf367TargetsHoldsAStoryAndAReversalWhole) {
  const auto source = make_generator("skills", 1, kVocab);
  const auto holds_both = [](const std::string& text) {
    bool story = false, reversal = false;
    for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      (std::isdigit(static_cast<unsigned char>(text[begin])) ? reversal : story) = true;
    }
    return story && reversal;
  };
  int short_of_one = 0;
  for (int64_t index = 0; index < 5000; ++index) {
    const std::string text = read_sample(*source, index, 367).text();
    EXPECT_TRUE(holds_both(text)) << text;
    short_of_one += !holds_both(text.substr(0, 366));
  }
  EXPECT_GT(short_of_one, 0) << "a shorter sample would do";
}

// Stories of every size are equally many, each with one graded question a person and two more.
TEST(Generators, SkillsAreAskedInTheRatioOfTheirStories) {
  const auto source = make_generator("skills", 1, kVocab);
  EXPECT_EQ(source->skills(), (std::vector<std::string>{"reverse", "recall", "pair", "where"}));
  std::vector<double> asked(4);
  for (int64_t index = 0; index < 500; ++index) {
    for (const Graded& question : graded(read_sample(*source, index, 6000))) {
      ++asked.at(static_cast<size_t>(question.skill));
    }
  }
  // About 2,800 stories of each size and as many reversals as stories.
  EXPECT_NEAR(asked[2] / asked[1], 4.0 / 3, 0.1);
  EXPECT_NEAR(asked[3] / asked[1], 6.0 / 3, 0.15);
  EXPECT_NEAR(asked[0] / asked[1], 4.0 / 3, 0.1);
}

TEST(Generators, FloorIsTheIndependentlyScoredProbabilityInEveryWindow) {
  for (const char* name : {"skills", "reverse"}) {
    const auto source = make_generator(name, 21, kVocab);
    for (int64_t index = 0; index < 40; ++index) {
      const auto referee = judge(read_sample(*source, index, 900).text(), name);
      ASSERT_EQ(referee.complaint, "");
      ASSERT_GE(referee.nats.size(), 256u);
      double expected = 0, before = 0;
      for (int64_t context = 1; context <= 256; ++context) {
        const double cost = referee.nats[static_cast<size_t>(context - 1)];
        expected += cost;
        const double nats = read_sample(*source, index, context).nats;
        ASSERT_NEAR(nats, expected, 1e-9) << name << " sample " << index << " context " << context;
        if (cost == 0) {
          ASSERT_EQ(nats, before) << "a certain byte has a cost";
        }
        before = nats;
      }
    }
  }
}

TEST(Generators, AnswersAreFree) {
  for (const char* name : {"skills", "reverse"}) {
    const auto source = make_generator(name, 2, kVocab);
    int checked = 0;
    for (int64_t index = 0; index < 30; ++index) {
      for (const Graded& question : graded(read_sample(*source, index, 256))) {
        const auto begin = static_cast<int64_t>(question.begin);
        const auto length = static_cast<int64_t>(question.answer.size());
        EXPECT_EQ(read_sample(*source, index, begin).nats,
                  read_sample(*source, index, begin + length).nats);
        ++checked;
      }
    }
    EXPECT_GT(checked, 100);
  }
}

TEST(Generators, ShorterWindowIsAPrefix) {
  const auto source = make_generator("skills", 5, kVocab);
  const std::string whole = read_sample(*source, 3, 500).text();
  for (int64_t context : {1, 40, 256, 499}) {
    EXPECT_EQ(read_sample(*source, 3, context).text(),
              whole.substr(0, static_cast<size_t>(context)));
  }
}

// Mean cost of a line of `reverse`: first digit of 9, the other 3.5 of 10, one of 4 lengths.
TEST(Generators, ReverseFloorIsTheEntropyOfItsLines) {
  const auto source = make_generator("reverse", 4, kVocab);
  double nats = 0, lines = 0;
  for (int64_t index = 0; index < 4000; ++index) {
    const std::string text = read_sample(*source, index, 1000).text();
    const size_t whole_lines = text.rfind('\n') + 1;
    nats += read_sample(*source, index, static_cast<int64_t>(whole_lines)).nats;
    lines += static_cast<double>(std::ranges::count(text, '\n'));
  }
  const double entropy = std::log(9.0) + 3.5 * std::log(10.0) + std::log(4.0);
  EXPECT_NEAR(nats / lines, entropy, 0.03);
}

// Frequencies of what the referee takes as probabilities, each within five standard deviations.
TEST(Generators, DecisionsFallAsOftenAsTheFloorSays) {
  const auto source = make_generator("skills", 31, kVocab);
  std::map<std::string, std::map<std::string, double>> counts;
  std::map<std::string, double> totals;
  for (int64_t index = 0; index < 3000; ++index) {
    for (const Choice& choice : judge(read_sample(*source, index, 1500).text(), "skills").choices) {
      ++counts[choice.what][choice.outcome];
      ++totals[choice.what];
    }
  }
  const auto expect = [&](const std::string& what, const std::string& outcome, double p) {
    const double n = totals[what];
    ASSERT_GT(n, 2500) << what;
    EXPECT_NEAR(counts[what][outcome] / n, p, 5 * std::sqrt(p * (1 - p) / n))
        << what << ": " << outcome;
  };
  expect("first line", "story", 0.5);
  for (const char* digits : {"3", "4", "5", "6"}) expect("digits", digits, 0.25);
  for (char d = '1'; d <= '9'; ++d) expect("first digit", std::string(1, d), 1.0 / 9);
  for (char d = '0'; d <= '9'; ++d) expect("digit", std::string(1, d), 0.1);
  expect("after person 1", "another", 3.0 / 4);
  expect("after person 2", "another", 2.0 / 3);
  expect("after person 3", "another", 1.0 / 2);
  for (const char* name : {"Ann", "Ben", "Dan", "Eve", "Gus", "Sam"}) {
    expect("first name", name, 1.0 / 6);
  }
  for (const char* town : {"Cork", "Kyiv", "Lima", "Nice", "Oslo", "Pisa", "Rome", "York"}) {
    expect("first town", town, 0.125);
    expect("last answer", town, 0.125);
  }
  for (int people = 1; people <= 4; ++people) {
    for (int person = 0; person < people; ++person) {
      const std::string who = std::to_string(person), of = " of " + std::to_string(people);
      expect("mover" + of, who, 1.0 / people);
      for (int second = 0; second < people; ++second) {
        expect("asked" + of, who + " and " + std::to_string(second), 1.0 / (people * people));
      }
    }
  }
}

// How often the guesses that need no tracking are right: a fixed town, and the town mentioned k-th
// from last or k-th from the start of the story, in statements, in answers, and in either.
struct Guesses {
  double questions = 0;
  std::map<std::string, double> right;

  void count(const Answer& answer) {
    ++questions;
    ++right["always " + answer.text];
    count("stated", answer.stated, answer.text);
    count("answered", answer.answered, answer.text);
    count("mentioned", answer.mentioned, answer.text);
  }
  double share(const std::string& guess) const { return right.at(guess) / questions; }

 private:
  void count(const std::string& how, const std::vector<std::string>& towns,
             const std::string& truth) {
    for (size_t k = 0; k < towns.size(); ++k) {
      if (towns[k] == truth) ++right[how + " from start " + std::to_string(k)];
      if (towns[towns.size() - 1 - k] == truth) ++right[how + " from end " + std::to_string(k)];
    }
  }
};

TEST(Generators, ChanceOfAStoryIsTheBestFixedOrRecencyGuess) {
  const auto source = make_generator("skills", 41, kVocab);
  std::map<std::string, Guesses> skills;
  for (int64_t index = 0; skills["recall"].questions < 20000; ++index) {
    for (const Answer& answer : judge(read_sample(*source, index, 1500).text(), "skills").answers) {
      skills[answer.skill].count(answer);
    }
  }
  for (size_t i = 1; i < 4; ++i) {
    const std::string skill = source->skills().at(i);
    const double chance = skill == "recall" ? 1.0 : skill == "pair" ? 0.5 : 0.25;
    EXPECT_EQ(source->chance().at(i), chance);
    const Guesses& guesses = skills[skill];
    EXPECT_GE(guesses.questions, 20000) << skill;
    const double spread = 4 * std::sqrt(chance * (1 - chance) / guesses.questions);
    for (const auto& [guess, count] : guesses.right) {
      EXPECT_LE(count / guesses.questions, chance + spread) << skill << ": " << guess;
    }
    EXPECT_NEAR(guesses.share("stated from end 0"), chance, spread) << skill;
  }
}

TEST(Generators, ChanceOfReverseIsTheShareOfPalindromes) {
  const auto source = make_generator("skills", 43, kVocab);
  double reversals = 0, palindromes = 0;
  for (int64_t index = 0; reversals < 20000; ++index) {
    for (const Answer& answer : judge(read_sample(*source, index, 1500).text(), "skills").answers) {
      if (answer.skill != "reverse") continue;
      ++reversals;
      palindromes += std::equal(answer.text.begin(), answer.text.end(), answer.text.rbegin());
    }
  }
  EXPECT_NEAR(palindromes / reversals, source->chance().at(0),
              4 * std::sqrt(0.03 * 0.97 / reversals));
  EXPECT_EQ(make_generator("reverse", 1, kVocab)->chance(),
            std::vector<double>{source->chance().at(0)});
}

TEST(Generators, PromptBeginsAsASampleCould) {
  const auto skills = judge(make_generator("skills", 1, kVocab)->prompt() + " Cork.", "skills");
  EXPECT_EQ(skills.complaint, "");
  ASSERT_EQ(skills.answers.size(), 2u);  // of three questions, the second is not graded
  EXPECT_EQ(skills.answers.back().skill, "pair");
  EXPECT_EQ(skills.answers.back().text, "Cork");
  EXPECT_EQ(make_generator("reverse", 1, kVocab)->prompt(), "40917 reversed is");
  EXPECT_EQ(make_generator("skills", 9, kVocab)->describe(), "skills mix (generated, seed 9)");
}

TEST(Generators, VocabularyBelowBytesIsRefused) {
  expect_words(input_error([] { make_generator("skills", 1, 256); }),
               {"model.vocab", "257", "256", "skills"});
  EXPECT_NO_THROW(make_generator("skills", 1, 65536));
}

TEST(Generators, ViewsOfAnotherLengthAreRefused) {
  const auto source = make_generator("skills", 1, kVocab);
  Sample sample(32);
  SampleView view = sample.view();
  view.skill = view.skill.first(31);
  EXPECT_THROW(source->read(0, view), Error);
}

}  // namespace
}  // namespace rwkv::testing
