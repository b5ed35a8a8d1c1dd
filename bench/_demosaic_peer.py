"""A peer of demosaic.py in a process of its own, which needs torch, numpy and demosaicnet alone.

Reads lines "IN OUT" (.npy, float32 [h, w, 3] with the measured colour of each pixel and 0 for the others, in the phase
of demosaicnet's cell, sides multiples of 6), writes OUT, 12 px smaller at each side, and answers "done".
"""

from __future__ import annotations

import sys
import warnings

import numpy as np

PHASE = (0, 3)  # of demosaicnet's cell in mlkit's pattern
BORDER = 12  # px that its convolutions without padding take off
PERIOD = 6


def main() -> None:
    warnings.simplefilter("ignore")  # pkg_resources says that it is going to be removed
    try:
        import torch
        from demosaicnet import XTransDemosaick
    except ImportError as error:
        print(f"left out: {error}", flush=True)
        return
    torch.set_num_threads(int(sys.argv[2]))
    network = XTransDemosaick(pretrained=True).eval()
    print("ready", flush=True)
    for line in sys.stdin:
        given, made = line.split()
        image = torch.from_numpy(np.load(given)).permute(2, 0, 1)[None].contiguous()
        with torch.inference_mode():
            np.save(made, network(image)[0].permute(1, 2, 0).numpy())
        print("done", flush=True)


if __name__ == "__main__":
    main()
