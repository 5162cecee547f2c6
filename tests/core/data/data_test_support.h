// What the tests of data share: a folder of their own, files in it, and a sample's memory.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/data/source.h"

namespace rwkv::testing {

// A fresh folder, removed with all that is in it.
class TempFolder {
 public:
  TempFolder() {
    path_ = (std::filesystem::temp_directory_path() / "rwkv-data-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + path_);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  // Writes the file and returns its path.
  std::string write(const std::string& name, std::string_view content) const {
    std::string path = path_ + "/" + name;
    std::ofstream file(path, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
    return path;
  }
  std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Memory of one sample. Filled with marks that no source writes, so that what was left out shows.
struct Sample {
  std::vector<int32_t> tokens, question, skill;
  std::vector<float> weight;
  double nats = 0;

  explicit Sample(int64_t context)
      : tokens(static_cast<size_t>(context) + 1, -77),
        question(static_cast<size_t>(context), -77),
        skill(static_cast<size_t>(context), -77),
        weight(static_cast<size_t>(context), -77) {}
  SampleView view() { return {tokens, weight, question, skill}; }

  // The bytes of tokens 1 ... context.
  std::string text() const {
    std::string out;
    for (size_t i = 1; i < tokens.size(); ++i) out += static_cast<char>(tokens[i] - 1);
    return out;
  }
  bool operator==(const Sample&) const = default;
};

inline Sample read_sample(const SampleSource& source, int64_t index, int64_t context) {
  Sample sample(context);
  sample.nats = source.read(index, sample.view());
  return sample;
}

// The InputError's words; a test failure and "" when there is none.
inline std::string input_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no InputError was thrown";
  return "";
}

inline void expect_words(const std::string& message, const std::vector<std::string>& words) {
  for (const auto& word : words) {
    EXPECT_NE(message.find(word), std::string::npos) << '"' << word << "\" is not in: " << message;
  }
  EXPECT_EQ(message.find('\n'), std::string::npos) << "more than one line: " << message;
}

}  // namespace rwkv::testing
