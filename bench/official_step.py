#!/usr/bin/env python3
"""Training steps of the official model (bench/official_model.py) in a plain loop with a fused AdamW on bf16
weights, to be measured beside bench/train_step.

usage: official_step.py FOLDER [--build] [--layers 12 --width 768 --batch 4 --steps 5 --context 4096]
FOLDER is a checkout of train_temp. --build compiles all its extensions side by side and ends.
Prints one JSON line: median and best tokens/s, peak memory.
"""
import argparse, json, statistics, sys, time

import official_model

ap = argparse.ArgumentParser()
ap.add_argument("folder")
ap.add_argument("--build", action="store_true")
for name, value in dict(layers=12, width=768, batch=4, steps=5, context=4096, vocab=65536, head_chunk=4096).items():
    ap.add_argument("--" + name, type=int, default=value)
a = ap.parse_args()

official_model.enter(a.folder, a.context, a.head_chunk)
if a.build:
    sys.exit(official_model.build(a.head_chunk))

import torch  # noqa: E402

model, _ = official_model.make(a.layers, a.width, a.context, a.vocab)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), eps=1e-18, fused=True)
tokens = torch.randint(0, a.vocab, (a.batch, a.context + 1), device="cuda")
seconds, losses = [], []
for step in range(a.steps):
    torch.cuda.synchronize()
    start = time.perf_counter()
    loss = model.training_step((tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)
    losses.append(loss.item())
timed = seconds[2:] if a.steps > 2 else seconds
count = a.batch * a.context
print(json.dumps({"peer": "official", "layers": a.layers, "width": a.width, "tokens": count,
                  "tokens_per_s": round(count / statistics.median(timed)), "best": round(count / min(timed)),
                  "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
                  "first_loss": round(losses[0], 4)}))
