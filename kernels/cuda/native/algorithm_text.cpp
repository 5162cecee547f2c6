#include <algorithm_text.h>

#include <array>
#include <bit>
#include <sstream>

namespace rwkv::cuda {
namespace {

using Words = std::array<uint64_t, sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t)>;
static_assert(sizeof(Words) == sizeof(cublasLtMatmulAlgo_t));

bool read_type(std::istream& in, DType& type) {
  std::string name;
  in >> name;
  for (const DType known : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name != name_of(known)) continue;
    type = known;
    return true;
  }
  return false;
}

bool read_line(const std::string& line, ProductShape& s, cublasLtMatmulAlgo_t& algorithm) {
  std::istringstream in(line);
  Words words{};
  in >> s.m >> s.n >> s.k >> s.b_stride >> s.trans_a >> s.trans_b >> s.adds >> s.whole;
  if (!read_type(in, s.in) || !read_type(in, s.out)) return false;
  in >> std::hex;
  for (uint64_t& word : words) in >> word;
  algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(words);
  std::string rest;
  return !in.fail() && !(in >> rest) && s.m > 0 && s.n > 0 && s.k > 0;
}

}  // namespace

std::string write_algorithms(const std::string& id, const AlgorithmTable& table) {
  std::ostringstream text;
  text << id << "\n";
  for (const auto& [s, algorithm] : table) {
    text << std::dec << s.m << " " << s.n << " " << s.k << " " << s.b_stride << " " << s.trans_a
         << " " << s.trans_b << " " << s.adds << " " << s.whole << " " << name_of(s.in) << " "
         << name_of(s.out) << std::hex;
    for (const uint64_t word : std::bit_cast<Words>(algorithm)) text << " " << word;
    text << "\n";
  }
  return text.str();
}

std::string read_algorithms(const std::string& text, const std::string& id, AlgorithmTable& table) {
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  if (line != id) return "they are of '" + line + "', this is '" + id + "'";
  for (int number = 2; std::getline(lines, line); ++number) {
    ProductShape shape{};
    cublasLtMatmulAlgo_t algorithm{};
    if (!read_line(line, shape, algorithm)) {
      return "line " + std::to_string(number) + " is no algorithm of a product";
    }
    table[shape] = algorithm;
  }
  return "";
}

}  // namespace rwkv::cuda
