#!/usr/bin/env python3
"""Prints name, shape and norm of every parameter of a checkpoint; needs h5py and numpy alone.

    scripts/examples/read_checkpoint.py runs/NAME/checkpoints/step-N [weights|moment1|moment2]
"""
import math
import os
import sys

import h5py
import numpy as np


def read_checkpoint(step_folder, kind="weights"):
    """Name -> array of every parameter, in the order of the model."""
    with h5py.File(os.path.join(step_folder, "index.h5"), "r") as index:
        if index.attrs["format_version"] > 2:
            raise SystemExit(f"{step_folder}: format {index.attrs['format_version']}, 1 and 2 are read")
        names = index.attrs["parameters"].split("\n")[:-1]
        dtype = {"f32": np.float32, "f64": np.float64}[index.attrs["dtype"]]
        shapes = [tuple(row[1 : 1 + row[0]]) for row in index["shapes"][:]]
        extents = index["extents"][:]
        files = index["files"].shape[0]
    flat = [np.full(math.prod(shape), np.nan, dtype) for shape in shapes]
    for number in range(files):
        with h5py.File(os.path.join(step_folder, f"rank-{number}.h5"), "r") as file:
            for _, param, begin, end in extents[extents[:, 0] == number]:
                flat[param][begin:end] = file[f"{kind}/{names[param]}"]
    return {name: f.reshape(shape) for name, f, shape in zip(names, flat, shapes)}


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    for name, array in read_checkpoint(*sys.argv[1:]).items():
        norm = np.linalg.norm(array.astype(np.float64))
        print(f"{name:32} {'x'.join(map(str, array.shape)):>12} {norm:.9g}")


if __name__ == "__main__":
    main()
