"""SSIM of a 512x768 RGB image: mlkit's time over scikit-image's, alternating in one process, and how far they differ.

    OMP_NUM_THREADS=1 python bench/ssim.py

Both compute the Gaussian SSIM of Wang et al. 2004 with population covariance. mlkit gets float32 tensors;
scikit-image gets the same pixels as float64, its fastest way to the same value. Beyond 0.5 the exit code
is 1.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from skimage.metrics import structural_similarity

from mlkit.metrics.image import ssim

ROUNDS = 15
GOAL = 0.5


def main() -> int:
    """Print the ratio of medians and return the exit code."""
    torch.set_num_threads(1)  # scikit-image's filters use one thread
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:512, 0:768]
    scene = 0.5 + 0.4 * np.sin(rows / 17.0) * np.cos(columns / 23.0)
    first = np.clip(scene[..., None] + 0.05 * rng.standard_normal((512, 768, 3)), 0, 1).astype(np.float32)
    second = np.clip(first + 0.05 * rng.standard_normal(first.shape), 0, 1).astype(np.float32)
    first_64, second_64 = first.astype(np.float64), second.astype(np.float64)
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() for image in (first, second)]

    def ours() -> float:
        return float(ssim(*tensors))

    def theirs() -> float:
        return float(
            structural_similarity(
                first_64,
                second_64,
                channel_axis=2,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )

    difference = abs(ours() - theirs())  # also warms both up
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        for name, function in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    ours_s, theirs_s = statistics.median(seconds["ours"]), statistics.median(seconds["theirs"])
    ratio = ours_s / theirs_s
    print(f"mlkit {ours_s * 1e3:.1f} ms, scikit-image {theirs_s * 1e3:.1f} ms, ratio {ratio:.3f} (goal {GOAL})")
    print(f"values differ by {difference:.1e}")
    return 0 if ratio <= GOAL and difference < 1e-4 else 1


if __name__ == "__main__":
    raise SystemExit(main())
