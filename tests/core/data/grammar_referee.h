// Reads generated text by the grammar alone, with no knowledge of how it was made: answers, what
// the towns of a story were, and the probability of every byte.
#pragma once

#include <cctype>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::testing {

// To a graded question.
struct Answer {
  std::string skill, text;
  size_t begin = 0;  // in the text
  // Towns before it, in order: in statements, in answers, in both.
  std::vector<std::string> stated, answered, mentioned;
};

struct Choice {
  std::string what, outcome;
};

struct Verdict {
  std::vector<double> nats;  // of each byte, up to the last byte of the last whole line
  std::vector<Answer> answers;
  std::vector<Choice> choices;
  std::string complaint;  // what breaks the grammar; empty when nothing does

  double total() const {
    double sum = 0;
    for (const double n : nats) sum += n;
    return sum;
  }
};

class Referee {
 public:
  Referee(std::string_view text, bool stories) : text_(text), stories_(stories) {}

  Verdict judge() {
    while (at_ < text_.size() && verdict_.complaint.empty()) {
      const size_t begin = at_;
      cost_.assign(text_.size() - begin, 0.0);
      begin_ = begin;
      cut_ = false;
      line();
      if (cut_) break;  // the text ends inside this line
      verdict_.nats.insert(verdict_.nats.end(), cost_.begin(),
                           cost_.begin() + static_cast<std::ptrdiff_t>(at_ - begin));
    }
    return verdict_;
  }

 private:
  struct Person {
    std::string name, town;
  };

  void line() {
    const bool story = stories_ && std::isupper(static_cast<unsigned char>(text_[at_]));
    if (stories_ && begin_ == 0) {
      charge(0.5);
      note("first line", story ? "story" : "reversal");
    } else if (stories_ && story == last_was_story_) {
      complain("a line of the wrong kind");
    }
    last_was_story_ = story;
    story ? tell_story() : tell_reversal();
  }

  void tell_reversal() {
    std::string digits;
    while (!done() && std::isdigit(static_cast<unsigned char>(text_[at_]))) {
      const auto count = digits.size();
      if (count == 0) {
        charge(1.0 / 9);
        note("first digit", std::string(1, text_[at_]));
      } else {
        // Lengths 3, 4, 5 and 6 have 1/4 each.
        charge(count < 3 ? 0.1
                         : static_cast<double>(6 - count) / static_cast<double>(7 - count) / 10);
        note("digit", std::string(1, text_[at_]));
      }
      digits += text_[at_++];
    }
    if (done()) return cut();
    if (digits.size() < 3 || digits.size() > 6) return complain("a number of the wrong length");
    charge(1.0 / static_cast<double>(7 - digits.size()));
    note("digits", std::to_string(digits.size()));
    expect(" reversed is ");
    answer("reverse", std::string(digits.rbegin(), digits.rend()));
    expect(".\n");
  }

  void tell_story() {
    people_.clear();
    stated_.clear();
    answered_.clear();
    mentioned_.clear();
    introduce();
    while (another()) introduce();
    for (size_t rounds = people_.size() + 2; rounds > 0 && going(); --rounds) {
      questions();
      if (rounds == 1) {
        if (going()) note("last answer", answered_.back());
        expect("\n");
      } else {
        expect(" ");
        move();
      }
    }
  }

  void introduce() {
    const auto count = people_.size();
    charge(1.0 / static_cast<double>(6 - count));
    const std::string name = word();
    if (count == 0) note("first name", name);
    for (const Person& person : people_) {
      if (person.name == name) complain("two people of one name");
    }
    expect(" is in ");
    charge(1.0 / static_cast<double>(8 - count));
    const std::string town = word();
    if (count == 0) note("first town", town);
    check_free(town);
    people_.push_back({name, town});
    mention(town);
    expect(". ");
  }

  // Whether one more is introduced. Sizes 1, 2, 3 and 4 have 1/4 each.
  bool another() {
    const auto count = people_.size();
    if (!going() || count == 4) return false;
    if (done()) {
      cut();
      return false;
    }
    const bool more = text_[at_] != 'W';
    charge((more ? static_cast<double>(4 - count) : 1.0) / static_cast<double>(5 - count));
    note("after person " + std::to_string(count), more ? "another" : "question");
    return more;
  }

  void questions() {
    expect("Where is ");
    const size_t first = question(false);
    expect(" ");
    const size_t second = question(true);
    note("asked of " + std::to_string(people_.size()),
         std::to_string(first) + " and " + std::to_string(second));
  }

  // Returns who is asked for.
  size_t question(bool second) {
    const size_t asked = someone();
    expect("? ");
    if (!going()) return asked;
    const std::string& town = people_[asked].town;
    if (second || people_.size() == 3) {
      expect(town);
    } else {
      answer(people_.size() == 1 ? "recall" : people_.size() == 2 ? "pair" : "where", town);
    }
    answered_.push_back(town);
    mentioned_.push_back(town);
    expect(".");
    return asked;
  }

  void move() {
    const size_t mover = someone();
    note("mover of " + std::to_string(people_.size()), std::to_string(mover));
    expect(" went to ");
    charge(1.0 / static_cast<double>(8 - people_.size()));
    const std::string town = word();
    check_free(town);
    if (going()) people_[mover].town = town;
    mention(town);
    expect(". ");
  }

  // Reads the name of one of the people, each equally likely.
  size_t someone() {
    charge(1.0 / static_cast<double>(people_.size()));
    return who(word());
  }

  bool done() const { return at_ >= text_.size(); }
  bool going() const { return !cut_ && verdict_.complaint.empty(); }
  void cut() { cut_ = true; }
  void complain(const std::string& why) {
    if (!cut_ && verdict_.complaint.empty()) {
      verdict_.complaint = why + " at byte " + std::to_string(at_) + " of: " + std::string(text_);
    }
  }
  // Multiplies the probability of the next byte.
  void charge(double p) {
    if (at_ < text_.size()) cost_[at_ - begin_] -= std::log(p);
  }
  void note(const std::string& what, const std::string& outcome) {
    if (going()) verdict_.choices.push_back({what, outcome});
  }
  void mention(const std::string& town) {
    stated_.push_back(town);
    mentioned_.push_back(town);
  }
  void expect(std::string_view words) {
    if (!going()) return;
    const std::string_view there = text_.substr(at_, words.size());
    if (there != words.substr(0, there.size()))
      return complain("not \"" + std::string(words) + '"');
    at_ += there.size();
    if (there.size() < words.size()) cut();
  }
  std::string word() {
    std::string out;
    while (going() && !done() && std::isalpha(static_cast<unsigned char>(text_[at_]))) {
      out += text_[at_++];
    }
    if (done()) cut();
    if (out.empty()) complain("a word is missing");
    return out;
  }
  void answer(const std::string& skill, const std::string& text) {
    if (!going()) return;
    Answer found{skill, text, at_, stated_, answered_, mentioned_};
    expect(text);
    if (going()) verdict_.answers.push_back(std::move(found));
  }
  size_t who(const std::string& name) {
    for (size_t i = 0; i < people_.size(); ++i) {
      if (people_[i].name == name) return i;
    }
    complain("nobody of that name");
    return 0;
  }
  void check_free(const std::string& town) {
    for (const Person& person : people_) {
      if (person.town == town) complain("two people in one town");
    }
  }

  std::string_view text_;
  bool stories_;
  size_t at_ = 0, begin_ = 0;
  bool cut_ = false, last_was_story_ = false;
  std::vector<double> cost_;  // of the line being read
  std::vector<Person> people_;
  std::vector<std::string> stated_, answered_, mentioned_;
  Verdict verdict_;
};

inline Verdict judge(std::string_view text, std::string_view generator) {
  return Referee(text, generator == "skills").judge();
}

}  // namespace rwkv::testing
