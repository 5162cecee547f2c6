// Every tolerance of the tests, once, with its reason.
#pragma once

namespace rwkv::tolerance {

// Golden files hold float32: double results agree to its rounding.
inline constexpr double kGolden = 1e-6;
// Derivatives by complex step are exact to double rounding; sums over a few hundred terms lose
// digits.
inline constexpr double kComplexStep = 1e-10;
// Central differences in double: the truncation error h^2 and the rounding error eps/h meet there.
inline constexpr double kCentral = 1e-6;
// float32 against double, relative to the norm of a tensor: 6e-8 grown by sums and the recurrence.
inline constexpr double kFloat = 1e-5;
// bf16 against double with inputs rounded to bf16 first, by norm: 2^-9 a rounding of the output;
// gradients pass through a few rounded intermediates.
inline constexpr double kBf16Output = 5e-3, kBf16Gradient = 1e-2;
// The recurrence's da, db with repeated keys: differences of nearly equal numbers.
inline constexpr double kBf16RepeatedKeys = 5e-2;
// Whole model in bf16: logits by norm, gradients by global norm and a tensor.
inline constexpr double kBf16Logits = 2e-2, kBf16ModelGradient = 3e-2, kBf16TensorGradient = 1e-1;
// A sequence in segments against the whole, in double: sums in another order, and maps of the state
// that take it over a segment at once.
inline constexpr double kSegmentsDouble = 1e-12;
// The same in bf16: rounded in other places to 8 bits. All gradients as one vector; a tensor whose
// sums cancel shows more (kBf16ModelGradient).
inline constexpr double kSegmentsBf16 = 5e-3;
// 40 AdamW steps in float32: every loss; every final tensor by norm (the sign-like first updates of
// AdamW amplify rounding where a gradient is nearly zero).
inline constexpr double kTrajectoryLoss = 3e-6, kTrajectoryTensor = 1e-3;
// Of them the gradient's norm, relative: its sum of squares in float32, of weights as far apart.
inline constexpr double kTrajectoryNorm = 3e-5;
// Numbers in double that differ in nothing but the order of their sums.
inline constexpr double kSameSums = 1e-12;

}  // namespace rwkv::tolerance
