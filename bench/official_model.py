"""The official trainer's model (github.com/BlinkDL/RWKV-LM, RWKV-v7/train_temp, with its CUDA kernels), for
the scripts that measure beside it. Needs PyTorch with CUDA and nvcc."""
import argparse, ast, importlib, os, subprocess, sys

HEAD_SIZE = 64


def enter(folder, context, head_chunk=0):
    """Makes a checkout of train_temp the working directory, and sets what its model asks the environment."""
    os.environ.update(RWKV_MY_TESTING="x070", RWKV_KERNEL="@rwkv3", RWKV_JIT_ON="1",
                      RWKV_HEAD_SIZE=str(HEAD_SIZE), RWKV_FLOAT_MODE="bf16",
                      RWKV_HEAD_L2WRAP_CE_CHUNK=str(head_chunk), RWKV_CTXLEN=str(context))
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    os.chdir(folder)
    sys.path.insert(0, ".")


def extensions(head_chunk):
    """The keyword arguments of each load(...) of model.py that this setting comes by."""
    tree = ast.parse(open("src/model.py").read())
    names = {"HEAD_SIZE": HEAD_SIZE, "CHUNK_LEN": 16, "HEAD_L2WRAP_CE_CHUNK": head_chunk}
    flags = next(n for n in ast.walk(tree)
                 if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "flags")
    names["flags"] = eval(ast.unparse(flags.value), {}, names)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "load":
            given = {k.arg: eval(ast.unparse(k.value), {}, names) for k in call.keywords}
            unused = ["rwkv7_clampw"] + (["rwkv7_head_l2wrap_ce_bf16_v4"] if head_chunk == 0 else [])
            if given["name"] not in unused:
                yield given


def build(head_chunk):
    """Compiles all extensions side by side; the largest exit code."""
    running = [subprocess.Popen([sys.executable, "-c",
                                 f"from torch.utils.cpp_extension import load; load(**{given!r})"],
                                stdout=subprocess.DEVNULL) for given in extensions(head_chunk)]
    return max(p.wait() for p in running)


def make(layers, width, context, vocab, initial=False):
    """The model in bf16 on the GPU, and the module that it is from. initial: with the initial weights that its
    trainer gives it (slow), else with PyTorch's."""
    import torch
    module = importlib.import_module("src.model")
    args = argparse.Namespace(n_layer=layers, n_embd=width, dim_att=width, dim_ffn=4 * width, vocab_size=vocab,
                              ctx_len=context, head_size=HEAD_SIZE, grad_cp=0, my_testing="x070",
                              weight_decay=0.1, accelerator="gpu")
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = module.RWKV(args)
    if initial:  # orthogonal matrices are not made in bf16
        model.load_state_dict(model.generate_init_weight())
    return model.to(device="cuda", dtype=torch.bfloat16), module
