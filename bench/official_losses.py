#!/usr/bin/env python3
"""Losses of the first steps beside the official model's (bench/official_model.py), from the same weights (its
own initial ones) on the same tokens (this project's sources, byte by byte): AdamW over float32 masters, a
constant rate, no decay of weights. Fails when any loss differs by more than --limit.

usage: official_losses.py FOLDER PROGRAM [--layers 12 --width 768 --batch 4 --steps 20 --context 4096]
FOLDER is a checkout of train_temp whose extensions are built (official_step.py --head_chunk 0 --build);
PROGRAM is rwkv-dist.
"""
import argparse, array, json, pathlib, struct, subprocess, sys, tempfile

import official_model

ap = argparse.ArgumentParser()
ap.add_argument("folder")
ap.add_argument("program")
ap.add_argument("--limit", type=float, default=0.01)
for name, value in dict(layers=12, width=768, batch=4, steps=20, context=4096, vocab=65536).items():
    ap.add_argument("--" + name, type=int, default=value)
a = ap.parse_args()
LR = 1e-4

root = pathlib.Path(__file__).resolve().parent.parent
program = pathlib.Path(a.program).resolve()
work = pathlib.Path(tempfile.mkdtemp())


def source_bytes(count):
    found = sorted(p for end in ("md", "h", "cpp") for p in root.glob(f"*/**/*.{end}") if "build" not in p.parts)
    text = b"".join(p.read_bytes() for p in found)
    return (text * (count // len(text) + 1))[:count]


def write_binidx(prefix, tokens):
    """One document of uint16 tokens in Megatron's layout (core/data/binidx_index.h)."""
    with open(f"{prefix}.bin", "wb") as out:
        array.array("H", list(tokens)).tofile(out)
    with open(f"{prefix}.idx", "wb") as idx:
        idx.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 1, 2))
        idx.write(struct.pack("<iqqq", len(tokens), 0, 0, 1))


def ours():
    (work / "recipe.yaml").write_text("model: {}\n")
    settings = {
        "run.dir": work / "run", "run.init_from": work / "init.pth", "data.source": "binidx",
        "data.path": work / "data", "data.sampler": "sequential", "data.validation": "none",
        "train.context": a.context, "train.batch": a.batch, "train.steps": a.steps, "precision": "bf16",
        "optimizer.lr": LR, "optimizer.lr_final": LR, "optimizer.schedule": "constant", "optimizer.warmup": 0,
        "optimizer.weight_decay": 0, "parallel.device": "auto"}
    subprocess.run([program, work / "recipe.yaml"] + [f"{k}={v}" for k, v in settings.items()], check=True)
    rows = [json.loads(line) for line in open(work / "run" / "metrics.jsonl")]
    return [row["loss"] for row in rows if "loss" in row]


def official(tokens):
    import torch
    official_model.enter(a.folder, a.context)
    model, _ = official_model.make(a.layers, a.width, a.context, a.vocab, initial=True)
    torch.save({name: w.cpu() for name, w in model.state_dict().items()}, work / "init.pth")
    params = dict(model.named_parameters())
    masters = {name: p.detach().float() for name, p in params.items()}
    twice = [name for name in masters if "att.w0" in name]
    groups = [{"params": [masters[n] for n in twice], "lr": 2 * LR},
              {"params": [masters[n] for n in masters if n not in twice], "lr": LR}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-18, weight_decay=0)
    data, losses = torch.tensor(list(tokens), device="cuda"), []
    for step in range(a.steps):
        starts = [(step * a.batch + i) * a.context for i in range(a.batch)]
        rows = torch.stack([data[s:s + a.context + 1] for s in starts])
        loss = model.training_step((rows[:, :-1].contiguous(), rows[:, 1:].contiguous()), step)
        loss.backward()
        # Some parameters of the first layer have no use and no gradient.
        for name, p in params.items():
            masters[name].grad = torch.zeros_like(masters[name]) if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
        optimizer.step()
        for name, p in params.items():
            p.data.copy_(masters[name])
        losses.append(loss.item())
    return losses


all_tokens = source_bytes(a.steps * a.batch * a.context + 1)
write_binidx(work / "data", all_tokens)
theirs = official(all_tokens)
mine = ours()
worst = max(abs(x - y) for x, y in zip(mine, theirs))
for step, (x, y) in enumerate(zip(mine, theirs), 1):
    print(f"step {step:3}: ours {x:.5f}, official {y:.5f}, {x - y:+.5f}")
print(json.dumps({"peer": "official", "layers": a.layers, "width": a.width, "steps": len(mine),
                  "largest_difference": round(worst, 5), "limit": a.limit}))
sys.exit(0 if len(mine) == len(theirs) == a.steps and worst <= a.limit else 1)
