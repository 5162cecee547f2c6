#!/usr/bin/env python3
"""The WKV-7 recurrence of other projects, forward and backward, at the shapes of `gpu_ops cuda wkv`: the
official kernel (bench/official_model.py), and flash-linear-attention's chunk_rwkv7 where it can be imported
(PYTHONPATH).

usage: peer_recurrence.py FOLDER
FOLDER is a checkout of RWKV-LM's train_temp whose extensions are built. Milliseconds, the least of some calls.
"""
import argparse

import official_model

ap = argparse.ArgumentParser()
ap.add_argument("folder")
ap.add_argument("--first", action="store_true", help="the first shape alone")
a = ap.parse_args()

official_model.enter(a.folder, 4096)
import torch  # noqa: E402


SHAPES = ((8, 64, 4096), (4, 32, 4096), (4, 12, 4096), (1, 12, 16384))


def official():
    _, module = official_model.make(2, 64, 4096, 256)
    return lambda r, w, k, v, a, b: module.RWKV7_CLAMPW_CUDA_OP.apply(r, w, k, v, a, b)


def fla():
    from fla.ops.rwkv7 import chunk_rwkv7
    # It takes the logarithm of the decay, which the official kernel works out itself.
    return lambda r, w, k, v, a, b: chunk_rwkv7(r, -0.6065306597126334 * torch.sigmoid(w.float()), k, v, a, b,
                                                scale=1.0)[0]


def least(call, repeat=8):
    """Milliseconds of a call."""
    best = float("inf")
    for _ in range(repeat):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end))
    return best


def operands(batch, heads, tokens):
    torch.manual_seed(1)
    r, w, k, v, kk, dy = (torch.randn(batch, tokens, heads, 64, device="cuda") for _ in range(6))
    kk = torch.nn.functional.normalize(kk, dim=-1)
    rate = torch.sigmoid(torch.randn_like(kk))
    made = [x.bfloat16().requires_grad_() for x in (r, w, k, v, -kk, kk * rate)]
    return made, dy.bfloat16()


for name, get in (("official", official), ("fla", fla)):
    try:
        run = get()
    except Exception as error:  # a peer that is not here is said, not hidden
        print(f"{name}: not measured: {error}")
        continue
    for shape in SHAPES[:1] if a.first else SHAPES:
        inputs, dy = operands(*shape)
        y = run(*inputs)
        forward = least(lambda: run(*inputs))
        backward = least(lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True))
        print(f"{name} {shape}: forward {forward:.3f} ms  backward {backward:.3f} ms  "
              f"both {forward + backward:.3f} ms", flush=True)
        del y, inputs, dy
