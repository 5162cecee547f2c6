// What the tests of the console, of metrics and of the report look for in texts.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace rwkv::test {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Whether `text` holds `part`; shows both when it does not.
inline ::testing::AssertionResult has(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  auto result = found ? ::testing::AssertionSuccess() : ::testing::AssertionFailure();
  return result << "\"" << part << "\" in \"" << text.substr(0, 2000) << "\"";
}

inline ::testing::AssertionResult begins(const std::string& text, const std::string& part) {
  auto result =
      text.starts_with(part) ? ::testing::AssertionSuccess() : ::testing::AssertionFailure();
  return result << "\"" << part << "\" at the beginning of \"" << text << "\"";
}

}  // namespace rwkv::test
