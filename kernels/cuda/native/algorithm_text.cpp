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

constexpr const char* kReluSquared = "relu_squared";

// "relu_squared 16384 8192 2048 forward fused"
bool read_relu_squared(std::istream& in, ProductTable& table) {
  std::string name, way, how, rest;
  ReluSquaredShape s{};
  in >> name >> s.rows >> s.columns >> s.sum >> way >> how;
  s.backward = way == "backward";
  table.fused[s] = how == "fused";
  return !in.fail() && !(in >> rest) && s.rows > 0 && s.columns > 0 && s.sum > 0 &&
         (s.backward || way == "forward") && (table.fused[s] || how == "apart");
}

bool read_line(const std::string& line, ProductTable& table) {
  std::istringstream in(line);
  if (line.starts_with(kReluSquared)) return read_relu_squared(in, table);
  Words words{};
  ProductShape s{};
  in >> s.m >> s.n >> s.k >> s.b_stride >> s.trans_a >> s.trans_b >> s.adds >> s.whole;
  if (!read_type(in, s.in) || !read_type(in, s.out)) return false;
  in >> std::hex;
  for (uint64_t& word : words) in >> word;
  table.algorithms[s] = std::bit_cast<cublasLtMatmulAlgo_t>(words);
  std::string rest;
  return !in.fail() && !(in >> rest) && s.m > 0 && s.n > 0 && s.k > 0;
}

}  // namespace

std::string write_choices(const std::string& id, const ProductTable& table) {
  std::ostringstream text;
  text << id << "\n";
  for (const auto& [s, algorithm] : table.algorithms) {
    text << std::dec << s.m << " " << s.n << " " << s.k << " " << s.b_stride << " " << s.trans_a
         << " " << s.trans_b << " " << s.adds << " " << s.whole << " " << name_of(s.in) << " "
         << name_of(s.out) << std::hex;
    for (const uint64_t word : std::bit_cast<Words>(algorithm)) text << " " << word;
    text << "\n";
  }
  text << std::dec;
  for (const auto& [s, fused] : table.fused) {
    text << kReluSquared << " " << s.rows << " " << s.columns << " " << s.sum << " "
         << (s.backward ? "backward" : "forward") << " " << (fused ? "fused" : "apart") << "\n";
  }
  return text.str();
}

std::string read_choices(const std::string& text, const std::string& id, ProductTable& table) {
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  if (line != id) return "they are of '" + line + "', this is '" + id + "'";
  for (int number = 2; std::getline(lines, line); ++number) {
    if (!read_line(line, table)) {
      return "line " + std::to_string(number) + " is no choice for a product";
    }
  }
  return "";
}

}  // namespace rwkv::cuda
