#!/usr/bin/env python3
"""The algebra of one sequence in segments, from its definition, without any code of the project.

One head of RWKV-7: G_t = diag(w_t) + a_t^T b_t,  S_t = S_{t-1} G_t + v_t^T k_t,  y_t = S_t r_t, where a
document's start makes G_t zero; w_t = exp(-e^{-1/2} sigmoid(w_raw)). Loss: sum of <gy_t, y_t> and
<gS, S_T>.

Segments s = j P + p in J groups of P ranks, each a map S_out = S_in M + B; an overlap o runs the last o
tokens of the left neighbour again, uncounted, from the state before them. Forward group by group, what
enters each segment stashed; backward through the groups in reverse, from the stash.

  sequence_oracle.py            checks all of it: the whole against complex step, every split against the
                                whole, planted mistakes against both; then the golden file against what
                                is computed here
  sequence_oracle.py --write    writes the golden file
Standard library alone.
"""
import cmath
import json
import math
import os
import random
import sys

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "sequence_oracle.json")
NAMES = ("r", "w_raw", "k", "v", "a", "b")
N = 4


# ---- small matrices: lists of rows ---------------------------------------------------------------
def zeros():
    return [[0.0] * N for _ in range(N)]


def identity():
    return [[float(i == j) for j in range(N)] for i in range(N)]


def product(x, y):
    return [[sum(x[i][m] * y[m][j] for m in range(N)) for j in range(N)] for i in range(N)]


def transposed(x):
    return [list(row) for row in zip(*x)]


def plus(x, y):
    return [[p + q for p, q in zip(a, b)] for a, b in zip(x, y)]


def outer(x, y):
    return [[p * q for q in y] for p in x]


def dot(x, y):
    return sum(p * q for p, q in zip(x, y))


def times(x, y):  # matrix by column
    return [dot(row, y) for row in x]


def decay(raw):
    exp = cmath.exp if isinstance(raw, complex) else math.exp
    return exp(-math.exp(-0.5) / (1 + exp(-raw)))


def gate(case, t):  # G_t
    w, a, b = [decay(x) for x in case["w_raw"][t]], case["a"][t], case["b"][t]
    return [[(w[j] if i == j else 0) + a[i] * b[j] for j in range(N)] for i in range(N)]


# ---- the recurrence --------------------------------------------------------------------------------
def forward(case, begin, end, state):
    """States before each of the tokens and after the last one, outputs."""
    states, outputs = [state], []
    for t in range(begin, end):
        carried = zeros() if t in case["starts"] else product(states[-1], gate(case, t))
        states.append(plus(carried, outer(case["v"][t], case["k"][t])))
        outputs.append(times(states[-1], case["r"][t]))
    return states, outputs


def loss(case):
    states, outputs = forward(case, 0, case["tokens"], case["s_in"])
    last = sum(dot(x, y) for x, y in zip(case["ds_out"], states[-1]))
    return last + sum(dot(g, y) for g, y in zip(case["dy"], outputs))


def backward(case, begin, end, states, dstate, counted):
    """Gradients by name, those of tokens below `counted` are not their own outputs'."""
    grads = {name: [] for name in NAMES}
    for t in reversed(range(begin, end)):
        before, after = states[t - begin], states[t - begin + 1]
        dy = case["dy"][t] if t >= counted else [0.0] * N
        grads["r"].insert(0, times(transposed(after), dy))
        dstate = plus(dstate, outer(dy, case["r"][t]))
        grads["v"].insert(0, times(dstate, case["k"][t]))
        grads["k"].insert(0, times(transposed(dstate), case["v"][t]))
        starts = t in case["starts"]
        dgate = zeros() if starts else product(transposed(before), dstate)
        w = [decay(x) for x in case["w_raw"][t]]
        sigmoid = [1 / (1 + math.exp(-x)) for x in case["w_raw"][t]]
        slope = [-math.exp(-0.5) * s * (1 - s) for s in sigmoid]
        grads["w_raw"].insert(0, [dgate[i][i] * w[i] * slope[i] for i in range(N)])
        grads["a"].insert(0, times(dgate, case["b"][t]))
        grads["b"].insert(0, times(transposed(dgate), case["a"][t]))
        dstate = zeros() if starts else product(dstate, transposed(gate(case, t)))
    return grads, dstate


def whole(case):
    states, outputs = forward(case, 0, case["tokens"], case["s_in"])
    grads, dstate = backward(case, 0, case["tokens"], states, case["ds_out"], 0)
    return {"y": outputs, "s_out": states[-1], "ds_in": dstate, **{"d" + n: g for n, g in grads.items()}}


# ---- segments --------------------------------------------------------------------------------------
def segment_map(case, begin, end):
    m, b = identity(), zeros()
    for t in range(begin, end):
        g = zeros() if t in case["starts"] else gate(case, t)
        m, b = product(m, g), plus(product(b, g), outer(case["v"][t], case["k"][t]))
    return m, b


def segment_adjoint(case, begin, counted, handed):
    """The gradient of the entering state that the counted tokens up to `handed` cause."""
    d = zeros()
    for t in reversed(range(begin, handed)):
        if t >= counted:
            d = plus(d, outer(case["dy"][t], case["r"][t]))
        d = zeros() if t in case["starts"] else product(d, transposed(gate(case, t)))
    return d


class Split:
    """One rank after the other does what it would do in its turn; `mistake` is planted."""

    def __init__(self, case, ranks, chunk, overlap, mistake=None):
        self.case, self.ranks, self.mistake = case, ranks, mistake
        count = -(-case["tokens"] // chunk)
        self.groups = -(-count // ranks)
        self.segments = []
        for s in range(count):
            begin, end = s * chunk, min((s + 1) * chunk, case["tokens"])
            last = s + 1 == count
            self.segments.append({
                "run": begin - overlap if s else 0, "begin": begin, "end": end,
                "handed": end if last else end - overlap})

    def group(self, j):
        return self.segments[j * self.ranks:(j + 1) * self.ranks]

    def run(self):
        case, carry, stash = self.case, self.case["s_in"], []
        out = {"y": [], "ds_in": None}
        for j in range(self.groups):  # forward, by exchange of maps
            maps = []
            for s in self.group(j):
                handed = s["handed"] + (1 if self.mistake == "position" and s["handed"] < s["end"] else 0)
                maps.append(segment_map(case, s["run"], handed))
            for m, b in maps:
                stash.append(zeros() if self.mistake == "exchange" and stash else carry)
                carry = plus(product(carry, m), b)
        for s, state in zip(self.segments, stash):
            states, outputs = forward(case, s["run"], s["end"], state)
            out["y"] += outputs[s["begin"] - s["run"]:]
            out["s_out"] = states[-1]
        totals = {name: [[0.0] * N for _ in range(case["tokens"])] for name in NAMES}
        dcarry = case["ds_out"]
        for j in reversed(range(self.groups)):  # backward: again from the stash
            entered = stash[j * self.ranks:(j + 1) * self.ranks]
            for s, state in reversed(list(zip(self.group(j), entered))):
                self.backward(s, state, dcarry, totals)
                m, _ = segment_map(case, s["run"], s["handed"])
                counted = s["run"] if self.mistake == "counted" else s["begin"]
                c = segment_adjoint(case, s["run"], counted, s["handed"])
                later = self.later(s, counted)
                dcarry = plus(plus(product(dcarry, transposed(m)), c), later)
        out["ds_in"] = dcarry
        out.update({"d" + name: grad for name, grad in totals.items()})
        return out

    def later(self, s, counted):
        """What tokens behind the one where the state is handed on cause: they are in the right
        neighbour's overlap, which counts none of them."""
        states, _ = forward(self.case, s["run"], s["end"], zeros())
        inner = max(s["handed"], counted)
        if inner >= s["end"]:
            return zeros()
        d = zeros()
        for t in reversed(range(s["run"], s["end"])):
            if t >= inner:
                d = plus(d, outer(self.case["dy"][t], self.case["r"][t]))
            d = zeros() if t in self.case["starts"] else product(d, transposed(gate(self.case, t)))
        return d

    def backward(self, s, state, dhanded, totals):
        case = self.case
        states, _ = forward(case, s["run"], s["end"], state)
        counted = s["run"] if self.mistake == "counted" else s["begin"]
        # Behind `handed` only the own outputs; there the neighbour's gradient joins in.
        cut = s["handed"] - s["run"]
        tail, d = backward(case, s["handed"], s["end"], states[cut:], zeros(), counted)
        d = plus(d, dhanded)
        head, _ = backward(case, s["run"], s["handed"], states, d, counted)
        for name in NAMES:
            for t, grad in enumerate(head[name] + tail[name], s["run"]):
                totals[name][t] = [x + y for x, y in zip(totals[name][t], grad)]


# ---- cases and comparisons -----------------------------------------------------------------------
def make_case(seed, tokens, starts):
    rng = random.Random(seed)
    row = lambda scale, shift=0.0: [shift + scale * rng.gauss(0, 1) for _ in range(N)]
    case = {"tokens": tokens, "starts": starts}
    for name, scale, shift in (("r", 1, 0), ("w_raw", 1, -2), ("k", 0.7, 0), ("v", 1, 0), ("a", 0.5, 0),
                               ("b", 0.4, 0), ("dy", 1, 0)):
        case[name] = [row(scale, shift) for _ in range(tokens)]
    case["s_in"] = [row(1) for _ in range(N)]
    case["ds_out"] = [row(1) for _ in range(N)]
    return case


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, list) else [x]


def distance(got, want):
    worst = 0.0
    for name, values in want.items():
        g, w = flat(got[name]), flat(values)
        if len(g) != len(w):
            return math.inf
        norm = math.sqrt(sum(x * x for x in w))
        worst = max(worst, math.sqrt(sum((x - y) ** 2 for x, y in zip(g, w))) / norm)
    return worst


def complex_step(case, want):
    """The derivative in a random direction against the gradient."""
    rng, h, along = random.Random(1), 1e-30, 0.0
    moved = dict(case)
    for name, grad in [(n, want["d" + n]) for n in NAMES] + [("s_in", want["ds_in"])]:
        direction = [[rng.gauss(0, 1) for _ in range(N)] for _ in case[name]]
        moved[name] = [[x + 1j * h * d for x, d in zip(*rows)] for rows in zip(case[name], direction)]
        along += sum(dot(g, d) for g, d in zip(grad, direction))
    return abs(loss(moved).imag / h / along - 1)


def cases():
    return [make_case(1, 23, []), make_case(2, 23, [8, 15]), make_case(3, 23, [7, 9, 10, 17]),
            make_case(4, 23, [1, 22])]


def check(condition, what):
    if not condition:
        sys.exit("sequence_oracle: " + what)


def verify():
    splits = 0
    for number, case in enumerate(cases()):
        want = whole(case)
        check(complex_step(case, want) < 1e-12, f"case {number}: the gradient is not that of the loss")
        for ranks in (1, 2, 3, 5):
            for chunk in (4, 8, 23):
                for overlap in sorted({0, 1, chunk // 2, chunk} if chunk < 23 else {0}):
                    got = Split(case, ranks, chunk, overlap).run()
                    splits += 1
                    check(distance(got, want) < 1e-12,
                          f"case {number}: {ranks} ranks, chunk {chunk}, overlap {overlap}: "
                          f"off by {distance(got, want):.1e}")
        # A start at an edge hides what is wrong with the state there.
        for mistake in ("counted",) if case["starts"] else ("exchange", "position", "counted"):
            off = distance(Split(case, 2, 8, 4, mistake).run(), want)
            check(off > 1e-3, f"case {number}: the mistake '{mistake}' does not show ({off:.1e})")
        ignored = distance(whole(dict(case, starts=[])), want)
        check(not case["starts"] or ignored > 1e-3, f"case {number}: ignored starts do not show")
    return splits


def golden():
    return [dict(case, **whole(case)) for case in cases()]


def main():
    if sys.argv[1:] == ["--write"]:
        with open(GOLDEN, "w") as file:
            json.dump(golden(), file)
            file.write("\n")
        return
    splits = verify()
    with open(GOLDEN) as file:
        stored = json.load(file)
    for number, (there, here) in enumerate(zip(stored, golden(), strict=True)):
        numbers = {name: value for name, value in here.items() if name not in ("tokens", "starts")}
        check(there["starts"] == here["starts"] and distance(there, numbers) < 1e-13,
              f"case {number} of the golden file is not what is computed")
    print(f"{splits} splits, {len(stored)} cases of the golden file: as they should be")


if __name__ == "__main__":
    main()
