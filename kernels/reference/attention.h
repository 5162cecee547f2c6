#pragma once

#include <algorithm>
#include <limits>
#include <numbers>
#include <vector>

#include "core/base/stream.h"
#include "kernels/attention.h"
#include "kernels/reference/scalar.h"

namespace rwkv::reference {

// Rows of the L + T tokens that are here, by their number among them.
template <class S>
class AttentionRows {
 public:
  explicit AttentionRows(const AttentionInput& in)
      : in_(in),
        left_(in.k_left.empty() ? 0 : in.k_left.shape[1]),
        tokens_(in.q.shape[1]),
        heads_(in.k.shape[2]),
        size_(in.q.shape[3]) {}

  int64_t left() const { return left_; }
  // The first row that token t of sequence b sees; its last is left() + t.
  int64_t first_seen(int64_t b, int64_t t) const {
    int64_t before = in_.positions.as<int32_t>()[b * tokens_ + t];
    if (in_.window > 0) before = std::min(before, in_.window - 1);
    return left_ + t - std::min(before, left_ + t);
  }
  // Of a query of head h.
  template <class Byte>
  static auto* at(const View<Byte>& x, int64_t b, int64_t t, int64_t h) {
    return x.template as<S>() + ((b * x.shape[1] + t) * x.shape[2] + h) * x.shape[3];
  }
  const S* key(int64_t b, int64_t row, int64_t query_head) const {
    return of_both(in_.k_left, in_.k, b, row, query_head);
  }
  const S* value(int64_t b, int64_t row, int64_t query_head) const {
    return of_both(in_.v_left, in_.v, b, row, query_head);
  }
  template <class Byte>
  auto* of_both(const View<Byte>& left, const View<Byte>& own, int64_t b, int64_t row,
                int64_t query_head) const {
    const int64_t h = query_head / (in_.q.shape[2] / heads_);
    return row < left_ ? at(left, b, row, h) : at(own, b, row - left_, h);
  }
  S dot(const S* a, const S* b) const {
    S sum = 0;
    for (int64_t n = 0; n < size_; ++n) sum += a[n] * b[n];
    return sum;
  }
  int64_t size() const { return size_; }

 private:
  const AttentionInput& in_;
  int64_t left_, tokens_, heads_, size_;
};

// visit(b, t, h) for every query.
template <class Visit>
void each_query(const ConstTensor& q, const Visit& visit) {
  for (int64_t b = 0; b < q.shape[0]; ++b) {
    for (int64_t t = 0; t < q.shape[1]; ++t) {
      for (int64_t h = 0; h < q.shape[2]; ++h) visit(b, t, h);
    }
  }
}

template <class S>
void attention_forward(const Stream&, const AttentionForward& op) {
  const AttentionRows<S> rows(op.in);
  each_query(op.in.q, [&](int64_t b, int64_t t, int64_t h) {
    const S* q = rows.at(op.in.q, b, t, h);
    const int64_t first = rows.first_seen(b, t), last = rows.left() + t;
    std::vector<S> score;
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t s = first; s <= last; ++s) {
      score.push_back(S(op.in.scale) * rows.dot(q, rows.key(b, s, h)));
      largest = std::max(largest, real_part(score.back()));
    }
    S sum = 0;
    for (S& x : score) sum += x = std::exp(x - S(largest));
    S* y = rows.at(op.y, b, t, h);
    std::fill(y, y + rows.size(), S(0));
    for (int64_t s = first; s <= last; ++s) {
      const S p = score[static_cast<size_t>(s - first)] / sum;
      for (int64_t n = 0; n < rows.size(); ++n) y[n] += p * rows.value(b, s, h)[n];
    }
    op.lse.as<S>()[(b * op.in.q.shape[1] + t) * op.in.q.shape[2] + h] = S(largest) + std::log(sum);
  });
}

// Into the gradient of the rows that are here what right neighbours give; zero elsewhere.
template <class S>
void start_from_right(const AttentionInput& in, const ConstTensor& right, const Tensor& left,
                      const Tensor& own) {
  const int64_t row = own.shape[2] * own.shape[3], tokens = own.shape[1];
  const int64_t behind = in.k_left.empty() ? 0 : in.k_left.shape[1];
  const int64_t given = right.empty() ? 0 : right.shape[1], first = behind + tokens - given;
  for (int64_t b = 0; b < own.shape[0]; ++b) {
    for (int64_t r = 0; r < behind + tokens; ++r) {
      if (r < behind && left.empty()) continue;
      S* to = r < behind ? left.as<S>() + (b * behind + r) * row
                         : own.as<S>() + (b * tokens + r - behind) * row;
      for (int64_t i = 0; i < row; ++i) {
        to[i] = r < first ? S(0) : right.as<S>()[(b * given + r - first) * row + i];
      }
    }
  }
}

template <class S>
void attention_backward(const Stream&, const AttentionBackward& op) {
  const AttentionRows<S> rows(op.in);
  const S scale = static_cast<S>(op.in.scale);
  start_from_right<S>(op.in, op.dk_right, op.dk_left, op.dk);
  start_from_right<S>(op.in, op.dv_right, op.dv_left, op.dv);
  each_query(op.in.q, [&](int64_t b, int64_t t, int64_t h) {
    const S *q = rows.at(op.in.q, b, t, h), *dy = rows.at(op.dy, b, t, h);
    S* dq = rows.at(op.dq, b, t, h);
    std::fill(dq, dq + rows.size(), S(0));
    const int64_t place = (b * op.in.q.shape[1] + t) * op.in.q.shape[2] + h;
    const S delta = rows.dot(dy, rows.at(op.y, b, t, h)), lse = op.lse.as<S>()[place];
    op.delta.as<S>()[place] = delta;
    for (int64_t s = rows.first_seen(b, t); s <= rows.left() + t; ++s) {
      const S* k = rows.key(b, s, h);
      const S p = std::exp(scale * rows.dot(q, k) - lse);
      const S ds = scale * p * (rows.dot(dy, rows.value(b, s, h)) - delta);
      for (int64_t n = 0; n < rows.size(); ++n) dq[n] += ds * k[n];
      if (s < rows.left() && op.dk_left.empty()) continue;
      S* dk = rows.of_both(op.dk_left, op.dk, b, s, h);
      S* dv = rows.of_both(op.dv_left, op.dv, b, s, h);
      for (int64_t n = 0; n < rows.size(); ++n) {
        dk[n] += ds * q[n];
        dv[n] += p * dy[n];
      }
    }
  });
}

template <class S>
void attention_halo(const Stream&, const AttentionHalo& op) {
  const int64_t row = op.own.shape[2] * op.own.shape[3], wanted = op.out.shape[1];
  const int64_t left = op.left.empty() ? 0 : op.left.shape[1], tokens = op.own.shape[1];
  for (int64_t i = 0; i < op.out.elements(); ++i) {
    const int64_t b = i / row / wanted, r = left + tokens - wanted + i / row % wanted;
    op.out.as<S>()[i] = r < left ? op.left.as<S>()[(b * left + r) * row + i % row]
                                 : op.own.as<S>()[(b * tokens + r - left) * row + i % row];
  }
}

template <class S>
void rope(const Stream&, const Rope& op) {
  const int64_t size = op.x.shape[3], half = size / 2, heads = op.x.shape[2];
  for (int64_t i = 0; i < op.x.elements() / 2; ++i) {
    const int64_t pair = i % half, row = i / half;
    const int32_t position = op.positions.as<int32_t>()[row / heads];
    const double turn = position * op.turns.as<double>()[pair];
    const double angle = 2 * std::numbers::pi * (turn - std::floor(turn));
    const S cosine = static_cast<S>(std::cos(angle));
    const S sine = static_cast<S>(op.back ? -std::sin(angle) : std::sin(angle));
    const S low = op.x.as<S>()[row * size + pair], high = op.x.as<S>()[row * size + pair + half];
    op.out.as<S>()[row * size + pair] = low * cosine - high * sine;
    op.out.as<S>()[row * size + pair + half] = low * sine + high * cosine;
  }
}

}  // namespace rwkv::reference
