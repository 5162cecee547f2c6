#!/usr/bin/env python3
"""The official trainer's model (github.com/BlinkDL/RWKV-LM, RWKV-v7/train_temp, with its CUDA kernels)
in a plain loop with a fused AdamW on bf16 weights, to be measured beside bench/train_step.

usage: official_step.py FOLDER [--build] [--layers 12 --width 768 --batch 4 --steps 5 --context 4096]
FOLDER is a checkout of train_temp. --build compiles all its extensions side by side and ends.
Prints one JSON line: median and best tokens/s, peak memory. Needs PyTorch with CUDA and nvcc.
"""
import argparse, ast, importlib, importlib.util, json, os, statistics, subprocess, sys, time

ap = argparse.ArgumentParser()
ap.add_argument("folder")
ap.add_argument("--build", action="store_true")
for name, value in dict(layers=12, width=768, batch=4, steps=5, context=4096, vocab=65536, head_chunk=4096).items():
    ap.add_argument("--" + name, type=int, default=value)
a = ap.parse_args()

os.environ.update(RWKV_MY_TESTING="x070", RWKV_KERNEL="@rwkv3", RWKV_JIT_ON="1", RWKV_HEAD_SIZE="64",
                  RWKV_FLOAT_MODE="bf16", RWKV_HEAD_L2WRAP_CE_CHUNK=str(a.head_chunk), RWKV_CTXLEN=str(a.context))
os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
os.chdir(a.folder)
sys.path.insert(0, ".")


def extensions():
    """The keyword arguments of each load(...) of model.py that this setting comes by."""
    text = open("src/model.py").read()
    names = {"HEAD_SIZE": 64, "CHUNK_LEN": 16, "HEAD_L2WRAP_CE_CHUNK": a.head_chunk}
    flags = next(n for n in ast.walk(ast.parse(text))
                 if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "flags")
    names["flags"] = eval(ast.unparse(flags.value), {}, names)
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "load":
            given = {k.arg: eval(ast.unparse(k.value), {}, names) for k in call.keywords}
            if given["name"] != "rwkv7_clampw":
                yield given


if a.build:
    running = [subprocess.Popen([sys.executable, "-c",
                                 f"from torch.utils.cpp_extension import load; load(**{given!r})"],
                                stdout=subprocess.DEVNULL) for given in extensions()]
    sys.exit(max(p.wait() for p in running))

import torch  # noqa: E402

model_file = importlib.import_module("src.model")
args = argparse.Namespace(n_layer=a.layers, n_embd=a.width, dim_att=a.width, dim_ffn=4 * a.width,
                          vocab_size=a.vocab, ctx_len=a.context, head_size=64, grad_cp=0, my_testing="x070",
                          weight_decay=0.1)
torch.manual_seed(1)
with torch.device("cuda"):
    model = model_file.RWKV(args)
model = model.to(device="cuda", dtype=torch.bfloat16)
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
