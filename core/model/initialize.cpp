// Initial values. Orthogonal matrices: the Q of a Gaussian matrix's QR decomposition, signs fixed
// by R's diagonal, which makes them uniform over the orthogonal group (Mezzadri, arXiv
// math-ph/0609050).
#include <Eigen/QR>
#include <deque>
#include <future>

#include "core/base/rng.h"
#include "core/model/param_store.h"

namespace rwkv {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

template <class S>
void fill(const ParamSpec& spec, const Philox& random, S* to) {
  const int64_t n = spec.shape.elements();
  for (int64_t i = 0; i < n; ++i) {
    double value = spec.value;
    if (spec.init == Init::kUniform) {
      value = spec.value * (2 * random.uniform(static_cast<uint64_t>(i)) - 1);
    } else if (spec.init == Init::kPerChannel) {
      value = spec.channels[static_cast<size_t>(i) % spec.channels.size()];
    }
    to[i] = static_cast<S>(value);
  }
}

// Rows or columns, whichever are fewer, become orthonormal; then times the gain.
template <class S>
void fill_orthogonal(const ParamSpec& spec, const Philox& random, S* to) {
  const int64_t rows = spec.shape[0], columns = spec.shape[1];
  const bool tall = rows >= columns;
  Matrix gaussian(tall ? rows : columns, tall ? columns : rows);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double x = random.normal(static_cast<uint64_t>(i * columns + j));
      (tall ? gaussian(i, j) : gaussian(j, i)) = x;
    }
  }
  Eigen::HouseholderQR<Eigen::Ref<Matrix>> qr(gaussian);
  const int64_t n = gaussian.cols();
  const Eigen::VectorXd signs =
      qr.matrixQR().diagonal().unaryExpr([](double r) { return r < 0 ? -1.0 : 1.0; });
  Matrix q = Matrix::Identity(gaussian.rows(), n);
  q.applyOnTheLeft(qr.householderQ());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const double x = tall ? q(i, j) * signs(j) : q(j, i) * signs(i);
      to[i * columns + j] = static_cast<S>(spec.value * x);
    }
  }
}

template <class S>
void initialize_as(const ParamSpec& spec, uint64_t seed, S* to) {
  const Philox random(seed, spec.name);
  spec.init == Init::kOrthogonal ? fill_orthogonal(spec, random, to) : fill(spec, random, to);
}

}  // namespace

void initialize(const ParamSpec& spec, uint64_t seed, Tensor master) {
  master.dtype == DType::kF64 ? initialize_as(spec, seed, master.as<double>())
                              : initialize_as(spec, seed, master.as<float>());
}

// Values are made side by side; the caller alone talks to the store's memory, since a device is a
// thread's own choice.
void initialize(ParamStore& store, uint64_t seed, int threads) {
  const bool in_place = store.memory().host;
  const auto values_of = [&](size_t i) {
    const Tensor master = store.master(i);
    Buffer room = in_place ? Buffer() : Buffer(master.bytes());
    initialize(store.specs()[i], seed,
               in_place ? master : Tensor{room.data(), master.dtype, master.shape});
    return room;
  };
  std::deque<std::future<Buffer>> under_way;
  for (size_t next = 0, done = 0; done < store.size(); ++done) {
    for (; next < store.size() && std::ssize(under_way) < threads; ++next) {
      under_way.push_back(std::async(std::launch::async, values_of, next));
    }
    const Buffer room = under_way.front().get();
    under_way.pop_front();
    const Tensor master = store.master(done);
    if (!in_place) copy(store.memory(), {}, master, {room.data(), master.dtype, master.shape});
  }
}

}  // namespace rwkv
