// A backend whose products come from a library with several algorithms a shape: which one it takes
// for each. Their times differ, and their bits: a run keeps to its choices, and so does one that
// goes on from its checkpoint.
#pragma once

#include <string>

namespace rwkv {

struct ProductChoices {
  // on: a product of a shape not seen before is run with each algorithm, and the fastest is taken.
  // What such a product adds to is wrong then: the caller throws the results away. off: the first
  // that the library offers is taken.
  void (*measure)(bool on);
  // All choices made so far, as lines of text.
  std::string (*write)();
  // Takes written choices, those of its own that they do not name stay. Returns in a few words why
  // it cannot (another library, another GPU, not such a text, an algorithm that does not run), and
  // changes nothing then; empty: taken.
  std::string (*read)(const std::string& text);
};

}  // namespace rwkv
