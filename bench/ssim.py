"""SSIM of a 512x768 RGB image: mlkit's time over scikit-image's, and how far the two values differ.

    python bench/ssim.py

Both compute the Gaussian SSIM of Wang et al. 2004 with population covariance, in turns in one process, with one
thread. mlkit gets float32 tensors; scikit-image gets the same pixels as float64, its fastest way to the same value.
"""

from __future__ import annotations

import statistics

import numpy as np

from _common import at_most, finish, in_turns, options_parser, ratio, show

GOAL = 0.5
SAME = 1e-4  # values that differ by more are of different definitions


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    import torch
    from skimage.metrics import structural_similarity

    from mlkit.metrics.image import ssim

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

    difference = abs(ours() - theirs())
    times = in_turns({"mlkit": ours, "scikit-image": theirs}, 2 if options.smoke else options.rounds)
    of_theirs = {name: ratio(taken, times["scikit-image"]) for name, taken in times.items()}
    listed = [(name, f"{statistics.median(taken) * 1e3:.1f} ms", str(of_theirs[name])) for name, taken in times.items()]
    show(("SSIM of 512x768 RGB", "median", "of scikit-image's time"), listed)
    figures = [
        at_most("time over scikit-image's", of_theirs["mlkit"].value, GOAL),
        at_most("difference of the values", difference, SAME, ""),
    ]
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())
