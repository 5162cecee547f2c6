// Token shift forward, and its halos.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/token_shift.h"

namespace rwkv::cuda {

// Where the row before is not the one before in memory: at a segment's and at a document's start.
struct ShiftEdges {
  const float* halo = nullptr;
  const int32_t* starts = nullptr;  // nullptr: no document starts
  int64_t tokens = 0, width = 0;

  ShiftEdges() = default;
  template <class Op>
  explicit ShiftEdges(const Op& op)
      : halo(in<float>(op.halo)),
        starts(in<int32_t>(op.starts)),
        tokens(op.u.shape[1]),
        width(op.u.shape[2]) {}

  // A row's sequence and token. Divisions of 64 bits are slow: who goes through rows divides once.
  struct Place {
    int64_t row;
    int sequence, token;
  };
  RWKV_DEVICE Place place(int64_t row) const {
    return {row, static_cast<int>(row / tokens), static_cast<int>(row % tokens)};
  }
  RWKV_DEVICE Place after(const Place& p) const {
    const bool ends = p.token + 1 == static_cast<int>(tokens);
    return {p.row + 1, p.sequence + (ends ? 1 : 0), ends ? 0 : p.token + 1};
  }
  RWKV_DEVICE Place ahead_of(const Place& p) const {
    const bool begins = p.token == 0;
    return {p.row - 1, p.sequence - (begins ? 1 : 0),
            (begins ? static_cast<int>(tokens) : p.token) - 1};
  }

  RWKV_DEVICE bool starts_at(int64_t row) const { return starts != nullptr && starts[row] != 0; }
  RWKV_DEVICE bool is_edge(const Place& p) const { return p.token == 0 || starts_at(p.row); }
  // What an edge has in place of the row before.
  RWKV_DEVICE float before(const Place& p, int64_t c) const {
    return starts_at(p.row) ? 0 : halo[int64_t{p.sequence} * width + c];
  }
};

template <class T, int K>
struct TokenShiftRun {
  const T* u;
  ShiftEdges edges;
  int mixes;
  const float* mix[kMaxMixes];
  T* to[kMaxMixes];

  RWKV_DEVICE void operator()(int64_t run) const {
    const int64_t i = run * K, row = i / edges.width, c = i % edges.width;
    const ShiftEdges::Place place = edges.place(row);
    float own[K], difference[K];
    load_run(u + i, own);
    if (edges.is_edge(place)) {
      for (int j = 0; j < K; ++j) difference[j] = edges.before(place, c + j);
    } else {
      load_run(u + i - edges.width, difference);
    }
    for (int j = 0; j < K; ++j) difference[j] -= own[j];
    for (int m = 0; m < mixes; ++m) {
      float x[K];
      load_run(mix[m] + c, x);
      for (int j = 0; j < K; ++j) x[j] = own[j] + difference[j] * x[j];
      store_run(to[m] + i, x);
    }
  }
};
template <class T, int K>
struct RunTokenShift {
  static void run(const Stream& stream, const TokenShiftForward& op) {
    TokenShiftRun<T, K> kernel{in<T>(op.u), ShiftEdges(op), op.mixes, {}, {}};
    for (int m = 0; m < op.mixes; ++m) {
      kernel.mix[m] = in<float>(op.mix[static_cast<size_t>(m)]);
      kernel.to[m] = out<T>(op.out[static_cast<size_t>(m)]);
    }
    for_each(stream, op.u.elements() / K, kernel);
  }
};
template <class T>
struct TokenShiftForwardOp {
  static void run(const Stream& stream, const TokenShiftForward& op) {
    op.u.shape[2] % 4 == 0 ? RunTokenShift<T, 4>::run(stream, op)
                           : RunTokenShift<T, 1>::run(stream, op);
  }
};

template <class T>
struct HaloElement {
  const T* u;
  float* to;
  int64_t tokens, width, at;
  RWKV_DEVICE void operator()(int64_t i) const {
    to[i] = at < 0 ? 0.0f : load(u + (i / width * tokens + at) * width + i % width);
  }
};
template <class T>
struct HaloForwardOp {
  static void run(const Stream& stream, const HaloForward& op) {
    for_each(stream, op.out.elements(),
             HaloElement<T>{in<T>(op.u), out<float>(op.out), op.u.shape[1], op.u.shape[2], op.at});
  }
};

// Gradients of the mixes' outputs.
template <class T>
struct MixGradients {
  int mixes = 0;
  const float* mix[kMaxMixes] = {};
  const T* dout[kMaxMixes] = {};

  MixGradients() = default;
  template <class Op>
  explicit MixGradients(const Op& op) : mixes(op.mixes) {
    for (int m = 0; m < mixes; ++m) {
      mix[m] = in<float>(op.mix[static_cast<size_t>(m)]);
      dout[m] = in<T>(op.dout[static_cast<size_t>(m)]);
    }
  }
  // What element i gives to the row before it.
  RWKV_DEVICE float to_left(int64_t i, int64_t c) const {
    float sum = 0;
    for (int m = 0; m < mixes; ++m) sum += load(dout[m] + i) * mix[m][c];
    return sum;
  }
};

template <class T>
struct HaloBackElement {
  MixGradients<T> gradients;
  const int32_t* starts;
  float* dhalo;
  int64_t tokens, width;
  RWKV_DEVICE void operator()(int64_t i) const {
    const int64_t first = i / width * tokens;
    const bool none = starts != nullptr && starts[first] != 0;
    dhalo[i] = none ? 0 : gradients.to_left(first * width + i % width, i % width);
  }
};
template <class T>
struct HaloBackwardOp {
  static void run(const Stream& stream, const HaloBackward& op) {
    for_each(stream, op.dhalo.elements(),
             HaloBackElement<T>{MixGradients<T>(op), in<int32_t>(op.starts), out<float>(op.dhalo),
                                op.dout[0].shape[1], op.dout[0].shape[2]});
  }
};

}  // namespace rwkv::cuda
