// What the reference kernels need of a scalar: double, float, or complex<double> (whose imaginary
// part carries a derivative: complex step). Comparisons look at the real part.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>

namespace rwkv::reference {

inline double real_part(float x) { return static_cast<double>(x); }
inline double real_part(double x) { return x; }
inline double real_part(const std::complex<double>& x) { return x.real(); }

template <class S>
S sigmoid(const S& x) {
  return S(1) / (S(1) + std::exp(-x));
}

inline constexpr double kDecayScale = 0.60653065971263342;  // e^-1/2

}  // namespace rwkv::reference
