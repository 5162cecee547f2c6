#include "core/data/generators.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  for (const char* name : {"skills", "reverse"}) {
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
      }
    }
  }
}

TEST(Generators, EverySkillsSampleAsksBothSkills) {
  const auto source = make_generator("skills", 1, kVocab);
  EXPECT_EQ(source->skills(), (std::vector<std::string>{"reverse", "where"}));
  double questions = 0;
  for (int64_t index = 0; index < 5000; ++index) {
    const Sample sample = read_sample(*source, index, 220);
    std::set<int32_t> skills(sample.skill.begin(), sample.skill.end());
    EXPECT_TRUE(skills.contains(0) && skills.contains(1)) << sample.text();
    questions += 1 + *std::ranges::max_element(sample.question);
  }
  EXPECT_GT(questions / 5000, 3.5) << "questions are too rare";
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
  expect("line after one reversal", "story", 0.5);
  for (const char* digits : {"3", "4", "5", "6"}) expect("digits", digits, 0.25);
  for (char d = '1'; d <= '9'; ++d) expect("first digit", std::string(1, d), 1.0 / 9);
  for (char d = '0'; d <= '9'; ++d) expect("digit", std::string(1, d), 0.1);
  expect("moves", "2", 0.25);
  expect("asked", "last mover", 0.25);
  expect("asked", "first other", 0.375);
  for (const char* name : {"Ann", "Ben", "Dan", "Eve", "Gus", "Sam"}) {
    expect("first name", name, 1.0 / 6);
  }
  for (const char* town : {"Cork", "Kyiv", "Lima", "Nice", "Oslo", "Pisa", "Rome", "York"}) {
    expect("first town", town, 0.125);
    expect("where", town, 0.125);
  }
  for (const char* person : {"0", "1", "2"}) expect("mover", person, 1.0 / 3);
}

// All guesses that need no tracking: a fixed town, and the town mentioned k-th from last or k-th
// from the start of the story, with and without the answers given in between.
TEST(Generators, ChanceIsTheBestFixedOrRecencyGuess) {
  const auto source = make_generator("skills", 41, kVocab);
  std::map<std::string, double> right;
  double questions = 0, reversals = 0, palindromes = 0;
  for (int64_t index = 0; questions < 20000; ++index) {
    for (const Answer& answer : judge(read_sample(*source, index, 1500).text(), "skills").answers) {
      if (answer.skill == "reverse") {
        ++reversals;
        palindromes += std::equal(answer.text.begin(), answer.text.end(), answer.text.rbegin());
        continue;
      }
      ++questions;
      ++right["always " + answer.text];
      const auto vote = [&](const std::string& how, const std::vector<std::string>& towns) {
        for (size_t k = 0; k < towns.size(); ++k) {
          if (towns[k] == answer.text) ++right[how + " from start " + std::to_string(k)];
          if (towns[towns.size() - 1 - k] == answer.text) {
            ++right[how + " from end " + std::to_string(k)];
          }
        }
      };
      vote("stated", answer.stated);
      vote("mentioned", answer.mentioned);
    }
  }
  double best = 0;
  const double spread = 4 * std::sqrt(0.25 * 0.75 / questions);
  for (const auto& [guess, count] : right) {
    EXPECT_LE(count / questions, 0.25 + spread) << guess;
    best = std::max(best, count / questions);
  }
  EXPECT_NEAR(right["stated from end 0"] / questions, 0.25, spread);
  EXPECT_NEAR(best, source->chance().at(1), spread);
  EXPECT_NEAR(palindromes / reversals, source->chance().at(0),
              4 * std::sqrt(0.03 * 0.97 / reversals));
  EXPECT_EQ(make_generator("reverse", 1, kVocab)->chance(),
            std::vector<double>{source->chance().at(0)});
}

TEST(Generators, PromptBeginsAsASampleCould) {
  EXPECT_EQ(judge(make_generator("skills", 1, kVocab)->prompt() + " Oslo.", "skills").complaint,
            "");
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
