// The exchanges under mpirun against MPI_Exscan over affine maps: an oracle that MPI itself carries
// out, by whatever algorithm it likes. Forward S <- S M + B from left to right; backward the same
// on (M^T, C) with the ranks reversed.
#include <mpi.h>

#include <cstdio>
#include <exception>

#include "parallel/state_exchange.h"
#include "tests/parallel/conformance.h"
#include "tests/support/tensors.h"

namespace {

using namespace rwkv;

constexpr int64_t kHeads = 2, kN = 4, kGroups = 3;
constexpr int kSquare = kHeads * kN * kN;
constexpr int kMap = 2 * kSquare;  // M, then B
using Square = std::vector<double>;

void check(int code, const char* what) {
  if (code != MPI_SUCCESS) throw CommError(what);
}

// a b, head by head.
Square product(const double* a, const double* b) {
  Square out(kSquare, 0.0);
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t i = 0; i < kN; ++i) {
      for (int64_t j = 0; j < kN; ++j) {
        for (int64_t m = 0; m < kN; ++m) {
          out[static_cast<size_t>((h * kN + i) * kN + j)] +=
              a[(h * kN + i) * kN + m] * b[(h * kN + m) * kN + j];
        }
      }
    }
  }
  return out;
}

// (Ma, Ba), then (Mb, Bb): (Ma Mb, Ba Mb + Bb). MPI gives the left one as `in`.
void compose(void* in, void* inout, int* count, MPI_Datatype*) {
  for (int i = 0; i < *count; ++i) {
    const double* left = static_cast<const double*>(in) + i * kMap;
    double* right = static_cast<double*>(inout) + i * kMap;
    const Square m = product(left, right), b = product(left + kSquare, right);
    std::copy(m.begin(), m.end(), right);
    for (int j = 0; j < kSquare; ++j) right[kSquare + j] += b[static_cast<size_t>(j)];
  }
}

class Exscan {
 public:
  explicit Exscan(bool reversed) {
    int rank = 0;
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "rank");
    check(MPI_Comm_split(MPI_COMM_WORLD, 0, reversed ? -rank : rank, &comm_), "split");
    check(MPI_Comm_rank(comm_, &rank_), "rank");
    check(MPI_Comm_size(comm_, &size_), "size");
    check(MPI_Type_contiguous(kMap, MPI_DOUBLE, &type_), "type");
    check(MPI_Type_commit(&type_), "commit");
    check(MPI_Op_create(compose, 0, &op_), "op");
  }
  Exscan(const Exscan&) = delete;
  Exscan& operator=(const Exscan&) = delete;
  ~Exscan() {
    MPI_Op_free(&op_);
    MPI_Type_free(&type_);
    MPI_Comm_free(&comm_);
  }

  // What enters this rank when `entering` enters the first; becomes what leaves the last.
  Square run(std::vector<double> map, Square& entering) {
    std::vector<double> before(kMap, 0.0);
    check(MPI_Exscan(map.data(), before.data(), 1, type_, op_, comm_), "exscan");
    const Square here = rank_ == 0 ? entering : apply(entering, before);
    entering = apply(here, map);
    check(MPI_Bcast(entering.data(), kSquare, MPI_DOUBLE, size_ - 1, comm_), "bcast");
    return here;
  }

 private:
  static Square apply(const Square& state, const std::vector<double>& map) {
    Square out = product(state.data(), map.data());
    for (size_t i = 0; i < out.size(); ++i) out[i] += map[kSquare + i];
    return out;
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
  MPI_Op op_ = MPI_OP_NULL;
  int rank_ = 0, size_ = 0;
};

// A segment's map as the reference kernels lay it out: each head's rows without gaps.
test::Owned<double> laid_out(const Square& square) {
  const int64_t stride = wkv7_state_stride(kN);
  test::Owned<double> out({1, 1, kHeads, kN, stride});
  for (int64_t i = 0; i < kSquare; ++i) {
    out[i / (kN * kN) * kN * stride + i % (kN * kN)] = square[static_cast<size_t>(i)];
  }
  return out;
}

Square random_square(const char* name, int64_t group, int rank) {
  return test::normals(std::string(name) + std::to_string(group) + "." + std::to_string(rank),
                       kSquare, 0.5);
}

void expect_near(const Tensor& got, const Square& want, const char* what) {
  conformance::expect(test::distance(test::doubles(got), want) < 1e-13, what);
}

void compare(Communicator& comm, const ExchangeKind& kind) {
  const ExchangeLayout layout{1, 1, kHeads * kN, kN, 1, DType::kF64};
  Arena measure;
  make_exchange(kind, comm, reference_backend(), layout, measure);
  const Buffer memory(measure.peak());
  Arena arena(memory.data(), memory.bytes());
  const auto exchange = make_exchange(kind, comm, reference_backend(), layout, arena);
  const GroupPlace inner{comm.size(), false, false, 1};
  Square state = random_square("S", 0, 0), gradient = random_square("dS", 0, 0);
  test::assign(exchange->carried(0)[1], state);
  test::assign(exchange->dcarried(0)[1], gradient);
  Exscan right(false), left(true);
  test::Owned<double> received({1, kHeads, kN, kN});
  const auto map_of = [&](int64_t group, const char* added, bool transposed) {
    const Square m = random_square("M", group, comm.rank()),
                 add = random_square(added, group, comm.rank());
    std::vector<double> map(kMap);
    for (int64_t i = 0; i < kSquare; ++i) {
      const int64_t h = i / (kN * kN), row = i / kN % kN, column = i % kN;
      const int64_t from = transposed ? (h * kN + column) * kN + row : i;
      map[static_cast<size_t>(i)] = m[static_cast<size_t>(from)];
      map[static_cast<size_t>(kSquare + i)] = add[static_cast<size_t>(i)];
    }
    return map;
  };
  for (int64_t group = 0; group < kGroups; ++group) {
    auto m = laid_out(random_square("M", group, comm.rank()));
    auto b = laid_out(random_square("B", group, comm.rank()));
    exchange->begin_group(inner);
    exchange->send_maps({}, 0, m.view(), b.view());
    exchange->receive_state({}, 0, received.view());
    expect_near(received.view(), right.run(map_of(group, "B", false), state), "the entering state");
  }
  for (int64_t group = kGroups; group-- > 0;) {
    auto m = laid_out(random_square("M", group, comm.rank()));
    auto c = laid_out(random_square("C", group, comm.rank()));
    exchange->begin_group(inner);
    exchange->send_adjoints({}, 0, m.view(), c.view());
    exchange->receive_gradient({}, 0, received.view());
    expect_near(received.view(), left.run(map_of(group, "C", true), gradient),
                "the gradient of the leaving state");
  }
  const Tensor of_first = exchange->dcarried(0)[1];
  if (comm.rank() + 1 == comm.size()) expect_near(of_first, gradient, "the first state's gradient");
}

}  // namespace

int main() {
  try {
    const auto comm = make_mpi();
    compare(*comm, {"gather", 1});
    compare(*comm, {"ring", 1});
    for (int node = 1; node <= comm->size(); ++node) {
      if (comm->size() % node == 0) compare(*comm, {"two_level", node});
    }
    if (comm->rank() == 0) std::printf("ok\n");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpi_exscan: %s\n", error.what());
    return 1;
  }
}
