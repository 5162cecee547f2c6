// The rules of the house that a compiler does not check. Each rule takes a path relative to the
// project and the file's text, and returns its violations as "path:line: what": nothing is read
// here, so that a test can plant a violation.
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv::structure {

using Violations = std::vector<std::string>;

inline std::string at(std::string_view path, size_t line, std::string_view what) {
  return std::string(path) + ":" + std::to_string(line) + ": " + std::string(what);
}

inline bool is_header(std::string_view path) {
  return path.ends_with(".h") || path.ends_with(".cuh");
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

enum class Literals { kKeep, kBlank };

namespace detail {

// Is the quote at `i` one of 1'000'000, and not the start of a character?
inline bool separates_digits(const std::string& text, size_t i) {
  size_t start = i;
  while (start > 0 && (std::isalnum(static_cast<unsigned char>(text[start - 1])) != 0 ||
                       text[start - 1] == '\'')) {
    --start;
  }
  return start < i && std::isdigit(static_cast<unsigned char>(text[start])) != 0;
}

// One past the end of the literal whose opening quote is at `i`.
inline size_t literal_end(const std::string& text, size_t i) {
  const bool raw = text[i] == '"' && i > 0 && text[i - 1] == 'R';
  if (raw) {
    const size_t open = text.find('(', i);
    if (open == std::string::npos) return text.size();
    const std::string close = ")" + text.substr(i + 1, open - i - 1) + "\"";
    const size_t end = text.find(close, open);
    return end == std::string::npos ? text.size() : end + close.size();
  }
  const char quote = text[i];
  for (++i; i < text.size() && text[i] != quote && text[i] != '\n'; ++i) {
    if (text[i] == '\\') ++i;
  }
  return std::min(i + 1, text.size());
}

inline void blank(std::string& text, size_t begin, size_t end) {
  for (size_t i = begin; i < std::min(end, text.size()); ++i) {
    if (text[i] != '\n') text[i] = ' ';
  }
}

}  // namespace detail

// The text with comments, and literals if asked, replaced by blanks: lines keep their numbers.
inline std::string without_comments(std::string text, Literals literals) {
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = std::string_view(text).substr(i);
    size_t end = i + 1;
    if (rest.starts_with("//")) {
      end = std::min(text.find('\n', i), text.size());
      detail::blank(text, i, end);
    } else if (rest.starts_with("/*")) {
      end = std::min(text.find("*/", i + 2), text.size() - 2) + 2;
      detail::blank(text, i, end);
    } else if (text[i] == '"' || (text[i] == '\'' && !detail::separates_digits(text, i))) {
      end = detail::literal_end(text, i);
      if (literals == Literals::kBlank) detail::blank(text, i + 1, end - 1);
    }
    i = end;
  }
  return text;
}

struct Include {
  std::string path;
  bool quoted;  // "path", else <path>
  size_t line;
};

inline std::vector<Include> includes_of(const std::string& text) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*(["<])([^">]+)[">])");
  std::vector<Include> includes;
  size_t number = 0;
  for (const std::string& line : lines_of(without_comments(text, Literals::kKeep))) {
    ++number;
    std::smatch match;
    if (std::regex_search(line, match, kInclude)) {
      includes.push_back({match[2], match[1] == "\"", number});
    }
  }
  return includes;
}

// A layer may include itself and those of a lower rank; two of one rank do not know each other.
struct Layer {
  std::string_view folder;
  int rank;
};
inline constexpr std::array<Layer, 10> kLayers = {{{"core/base/", 0},
                                                   {"core/config/", 1},
                                                   {"core/plan/", 2},
                                                   {"kernels/", 3},
                                                   {"parallel/", 4},
                                                   {"core/model/", 5},
                                                   {"core/data/", 6},
                                                   {"core/io/", 6},
                                                   {"core/train/", 7},
                                                   {"launcher/", 8}}};

inline const Layer* layer_of(std::string_view path) {
  for (const Layer& layer : kLayers) {
    if (path.starts_with(layer.folder)) return &layer;
  }
  return nullptr;
}

// "cpu" for kernels/cpu/isa/wkv7.h, "" for kernels/wkv7.h and for what is no kernel.
inline std::string_view backend_of(std::string_view path) {
  constexpr std::string_view kKernels = "kernels/";
  if (!path.starts_with(kKernels)) return "";
  const std::string_view rest = path.substr(kKernels.size());
  const size_t slash = rest.find('/');
  return slash == std::string_view::npos ? "" : rest.substr(0, slash);
}

// Backends are reached through the table of kernels/backend.h; one backend builds on no other, save
// on the reference.
inline bool may_include_backend(std::string_view from, std::string_view included) {
  const std::string_view backend = backend_of(included);
  if (backend.empty() || backend == backend_of(from)) return true;
  if (!from.starts_with("kernels/")) return false;
  return backend_of(from).empty() ? !is_header(from) : backend == "reference";
}

inline Violations include_direction(std::string_view path, const std::string& text) {
  Violations found;
  const Layer* from = layer_of(path);
  if (from == nullptr) return {at(path, 1, "belongs to no layer")};
  for (const Include& include : includes_of(text)) {
    const Layer* to = layer_of(include.path);
    if (to == nullptr) {
      if (include.quoted) {
        found.push_back(at(path, include.line,
                           "\"" + include.path +
                               "\": our headers are named from the root, "
                               "others stand in <>"));
      }
      continue;
    }
    if (!include.quoted) found.push_back(at(path, include.line, "<> around a header of ours"));
    if (to != from && to->rank >= from->rank) {
      found.push_back(
          at(path, include.line, std::string(from->folder) + " may not include " + include.path));
    }
    if (!may_include_backend(path, include.path)) {
      found.push_back(at(path, include.line, include.path + " is a backend's own"));
    }
  }
  return found;
}

// Headers of others that one folder owns (an empty one: any), behind a header of ours.
struct Owner {
  std::string_view header;  // beginning of the name
  std::string_view folder;
};
inline constexpr std::array<Owner, 19> kOwners = {{{"mpi.h", "parallel/"},
                                                   {"nccl", "parallel/"},
                                                   {"cuda", "kernels/cuda/"},
                                                   {"cublas", "kernels/cuda/"},
                                                   {"cub/", "kernels/cuda/"},
                                                   {"cutlass/", "kernels/cuda/"},
                                                   {"cute/", "kernels/cuda/"},
                                                   {"hdf5", "core/io/"},
                                                   {"H5", "core/io/"},
                                                   {"zip.h", "core/io/"},
                                                   {"yaml-cpp/", "core/config/"},
                                                   {"oneapi/", "kernels/cpu/"},
                                                   {"dnnl", "kernels/cpu/"},
                                                   {"omp.h", "kernels/cpu/"},
                                                   {"Eigen/", "core/model/"},
                                                   {"Random123/", "core/base/"},
                                                   {"xxhash", "core/base/"},
                                                   {"CLI/", "launcher/"},
                                                   {"nlohmann/", ""}}};

inline Violations third_party_headers(std::string_view path, const std::string& text) {
  // Nobody else may include the headers of these folders, so what they include spreads no further.
  const bool kept_inside = path.starts_with("kernels/cuda/") || path.starts_with("launcher/");
  Violations found;
  for (const Include& include : includes_of(text)) {
    for (const Owner& owner : kOwners) {
      if (!include.path.starts_with(owner.header)) continue;
      if (!path.starts_with(owner.folder)) {
        found.push_back(at(path, include.line,
                           include.path + " is for " + std::string(owner.folder) + " alone"));
      } else if (is_header(path) && !kept_inside) {
        found.push_back(at(path, include.line, include.path + " belongs into a .cpp"));
      }
    }
  }
  return found;
}

namespace detail {

inline Violations matching_lines(std::string_view path, const std::string& text,
                                 const std::regex& pattern, std::string_view what) {
  Violations found;
  size_t number = 0;
  for (const std::string& line : lines_of(text)) {
    ++number;
    if (std::regex_search(line, pattern)) found.push_back(at(path, number, what));
  }
  return found;
}

inline void append(Violations& all, const Violations& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace detail

// Only main ends the process; a communicator's abort() is the one other way out.
inline Violations process_exits(std::string_view path, const std::string& text) {
  static const std::regex kExit(
      R"((^|[^\w.>])(_?exit|quick_exit|_Exit)\s*\(|\bstd::(abort|terminate)\s*\()");
  static const std::regex kExitButInAbort(
      R"((^|[^\w.>])(_?exit|quick_exit)\s*\(|\bstd::(abort|terminate)\s*\()");
  if (path == "launcher/main.cpp") return {};
  const bool aborts = path.starts_with("parallel/") && path.ends_with("_communicator.cpp");
  return detail::matching_lines(path, without_comments(text, Literals::kBlank),
                                aborts ? kExitButInAbort : kExit, "ends the process");
}

// Headers have no macros and no conditions. Where one source is compiled for several instruction
// sets or devices, conditions are what it is about.
inline Violations preprocessor_in_header(std::string_view path, const std::string& text) {
  static const std::regex kCondition(R"(^\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b)");
  static const std::regex kMacro(R"(^\s*#\s*(define|undef)\b)");
  static const std::regex kOnce(R"(^\s*#\s*pragma\s+once\b)");
  if (!is_header(path)) return {};
  const std::string code = without_comments(text, Literals::kBlank);
  Violations found;
  if (detail::matching_lines(path, code, kOnce, "").empty()) {
    found.push_back(at(path, 1, "no #pragma once"));
  }
  const bool device = path.starts_with("kernels/cuda/");
  const bool instruction_sets = path.starts_with("kernels/cpu/isa/");
  if (!device) {
    detail::append(found, detail::matching_lines(path, code, kMacro, "a macro in a header"));
  }
  if (!device && !instruction_sets) {
    detail::append(found,
                   detail::matching_lines(path, code, kCondition, "conditional code in a header"));
  }
  return found;
}

inline Violations using_namespace_in_header(std::string_view path, const std::string& text) {
  static const std::regex kUsing(R"(\busing\s+namespace\b)");
  if (!is_header(path)) return {};
  return detail::matching_lines(path, without_comments(text, Literals::kBlank), kUsing,
                                "using namespace in a header");
}

inline Violations file_length(std::string_view path, const std::string& text) {
  constexpr size_t kMost = 450;
  const size_t lines = lines_of(text).size();
  if (lines <= kMost) return {};
  return {at(path, kMost + 1, std::to_string(lines) + " lines, the most is 450")};
}

inline Violations unfinished_marks(std::string_view path, const std::string& text) {
  static const std::regex kMark(
      "\\b(TO"
      "DO|FIX"
      "ME)\\b");
  return detail::matching_lines(path, text, kMark, "unfinished");
}

}  // namespace rwkv::structure
