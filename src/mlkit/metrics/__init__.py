"""Every score mlkit knows, with unit, direction and protocol; importing this never imports torch.

How a score is computed stands in `metrics/image.py`, `metrics/photo.py`, `metrics/mosaic.py`, `metrics/labels.py`
and `metrics/sar.py`. A signature names everything that moves the number; scores are ranked against each other only
where their signatures are equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlkit.errors import MlkitError, did_you_mean, listing

Better = Literal["higher", "lower", "one"]

HIGHER: Better = "higher"
LOWER: Better = "lower"
BETTER_TEXT: dict[Better, str] = {"higher": "higher", "lower": "lower", "one": "closest to 1"}


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score means."""

    key: str
    name: str
    unit: str  # "" for a plain number
    better: Better  # "one": the closest to 1
    signature: str  # key|what is compared|border|range|how images are averaged|version of this protocol
    summary: str
    decimals: int  # digits worth printing


def _table(metrics: Iterable[Metric]) -> dict[str, Metric]:
    return {metric.key: metric for metric in metrics}


METRICS: dict[str, Metric] = _table(
    (
        Metric(
            key="loss",
            name="Loss",
            unit="",
            better="lower",
            signature="loss|training-objective|mean-of-images|v1",
            summary="The training objective on validation data; comparable only between runs with equal loss settings.",
            decimals=5,
        ),
        Metric(
            key="psnr",
            name="PSNR",
            unit="dB",
            better="higher",
            signature="psnr|gray|crop0|clip01|mean-of-images|v1",
            summary="Peak signal-to-noise ratio with peak 1. For `sar` of the dB image normalised to [0, 1], so it "
            "depends on the clip range vmin_db to vmax_db, and speckle bounds it near 20 dB.",
            decimals=2,
        ),
        Metric(
            key="rmse_db",
            name="RMSE",
            unit="dB",
            better="lower",
            signature="rmse_db|gray|crop0|clip01|mean-of-images|v1",
            summary="Root mean square error of the backscatter in dB: PSNR without its dependence on the clip range.",
            decimals=3,
        ),
        Metric(
            key="ssim",
            name="SSIM",
            unit="",
            better="higher",
            signature="ssim|gray|gauss11s1.5|crop5|mean-of-images|v1",
            summary="Structural similarity (Wang et al. 2004): Gaussian window 11, sigma 1.5, population covariance, "
            "averaged where the window fits into the image.",
            decimals=4,
        ),
        Metric(
            key="ms_ssim",
            name="MS-SSIM",
            unit="",
            better="higher",
            signature="ms_ssim|gray|gauss11s1.5|crop5|5scales|mean-of-images|v1",
            summary="Multi-scale structural similarity (Wang et al. 2003), five scales; needs 176 px or more a side.",
            decimals=4,
        ),
        Metric(
            key="psnr_y",
            name="PSNR-Y",
            unit="dB",
            better="higher",
            signature="psnr_y|luma-bt601-of-8bit|crop4|clip01|mean-of-images|v1",
            summary="PSNR of the luma as papers on super-resolution have it: 8-bit colours, MATLAB's rgb2ycbcr, a "
            "border of 4 px left out.",
            decimals=2,
        ),
        Metric(
            key="ssim_y",
            name="SSIM-Y",
            unit="",
            better="higher",
            signature="ssim_y|luma-bt601-of-8bit|gauss11s1.5|crop4+5|mean-of-images|v1",
            summary="SSIM of the same luma, a border of 4 px left out before.",
            decimals=4,
        ),
        Metric(
            key="gms",
            name="Gradient similarity",
            unit="",
            better="higher",
            signature="gms|luma-full-range|half|prewitt|c170|valid|mean-of-images|v1",
            summary="Gradient magnitude similarity (Xue et al. 2014), mean over the halved luma: falls where edges are "
            "softer, sharper or elsewhere, whatever the brightness.",
            decimals=4,
        ),
        Metric(
            key="enl_ratio",
            name="ENL ratio",
            unit="",
            better="one",
            signature="enl_ratio|linear-intensity|win25s12|cv20|clip2|median|mean-of-images|v1",
            summary="Equivalent number of looks of the reconstruction over that of the original, mean^2/variance of "
            "linear intensity in the same homogeneous windows: 1 keeps the speckle, above 1 smooths it away.",
            decimals=2,
        ),
        Metric(
            key="epi",
            name="EPI",
            unit="",
            better="higher",
            signature="epi|db|laplace4|centred|mean-of-images|v1",
            summary="Edge preservation index (Sattar et al. 1997): centred correlation of the Laplacian images. "
            "Independent speckle over one scene scores near 0, unlike indices from gradient magnitudes.",
            decimals=3,
        ),
        *(
            Metric(key, name, unit, better, f"{key}|{protocol}|z-mean|mean-of-grids|v1", summary, decimals)
            for key, name, unit, better, protocol, summary, decimals in (
                (
                    "accuracy",
                    "Accuracy",
                    "",
                    HIGHER,
                    "cells-without-padding",
                    "Share of a grid's cells that are right; to be read beside the majority share.",
                    4,
                ),
                (
                    "majority_share",
                    "Majority share",
                    "",
                    HIGHER,
                    "cells-without-padding|majority-of-training",
                    "Accuracy of always answering the class that is most frequent in training; a property of the data.",
                    4,
                ),
                (
                    "accuracy_gain",
                    "Accuracy - majority",
                    "",
                    HIGHER,
                    "cells-without-padding|majority-of-training",
                    "Accuracy less majority share: 0 for a model that knows nothing but the most frequent class.",
                    4,
                ),
                (
                    "object_accuracy",
                    "Non-background accuracy",
                    "",
                    HIGHER,
                    "cells-not-of-the-majority-class",
                    "Share of the cells that are not background (of the most frequent class) that are right.",
                    4,
                ),
                (
                    "balanced_accuracy",
                    "Balanced accuracy",
                    "",
                    HIGHER,
                    "classes-of-the-grid",
                    "Mean recall of the classes that a grid has: a large background counts once.",
                    4,
                ),
                (
                    "exact_match",
                    "Exact match",
                    "",
                    HIGHER,
                    "cells-without-padding",
                    "Share of the grids in which every cell is right.",
                    4,
                ),
                (
                    "ce_nat",
                    "Cross-entropy",
                    "nat",
                    LOWER,
                    "unweighted|sum-of-cells",
                    "Plain cross-entropy of a grid, whatever loss was trained on; no likelihood without the KL term.",
                    2,
                ),
                (
                    "kl_nat",
                    "KL",
                    "nat",
                    LOWER,
                    "sum-of-dimensions",
                    "KL divergence of the posterior from N(0, 1), what the latent tells of a grid; 0 is collapse.",
                    3,
                ),
                (
                    "kl_per_dim",
                    "KL per dimension",
                    "nat",
                    HIGHER,
                    "mean-of-dimensions",
                    "The same, mean over the latent dimensions.",
                    4,
                ),
                *(
                    (
                        f"recall_{index}",
                        f"Recall {index}",
                        "",
                        HIGHER,
                        "grids-with-this-class",
                        f"Share of the cells of class {index} that are right, mean of the grids that have some.",
                        3,
                    )
                    for index in range(10)
                ),
            )
        ),
        Metric(
            key="cpsnr",
            name="cPSNR",
            unit="dB",
            better="higher",
            signature="cpsnr|srgb-8bit|crop8|clip01|mean-of-images|v1",
            summary="PSNR over the three colours together as papers on demosaicking have it: sRGB-encoded values, "
            "clipped and rounded to 8 bit, a border of 8 px left out.",
            decimals=2,
        ),
        Metric(
            key="cpsnr_linear",
            name="cPSNR linear",
            unit="dB",
            better="higher",
            signature="cpsnr_linear|linear-light|crop8|noclip|mean-of-images|v1",
            summary="PSNR over the three colours together in linear light, peak 1, nothing clipped or rounded, a "
            "border of 8 px left out; dark images score higher than in sRGB.",
            decimals=2,
        ),
        *(
            Metric(
                key=f"psnr_{colour[0]}",
                name=f"PSNR {colour}",
                unit="dB",
                better="higher",
                signature=f"psnr_{colour[0]}|srgb-8bit|crop8|clip01|mean-of-images|v1",
                summary=f"PSNR of {colour} alone, values as in `cpsnr`.",
                decimals=2,
            )
            for colour in ("red", "green", "blue")
        ),
        Metric(
            key="texture",
            name="Texture",
            unit="",
            better="one",
            signature="texture|srgb-luma-bt601|laplace4|crop8|mean-of-images|v1",
            summary="Variance of the luma's Laplacian over that of the truth: below 1 is smoothed; noise, ringing "
            "and lattices raise it, so never alone.",
            decimals=3,
        ),
        Metric(
            key="highlight_error",
            name="Highlight error",
            unit="",
            better="lower",
            signature="highlight_error|linear-light|above1|crop8|noclip|mean-of-images|v1",
            summary="Mean absolute error in linear light where the truth is above 1, brighter than white; of images "
            "without such places there is none.",
            decimals=4,
        ),
        Metric(
            key="zipper",
            name="Zipper",
            unit="%",
            better="lower",
            signature="zipper|srgb-8bit|lab76-d65|8neighbours|2.3|crop8|mean-of-images|v1",
            summary="Share of pixels whose CIELAB distance to the most similar of the eight neighbours in the truth "
            "changes by more than 2.3 (Lu and Tan 2003): edges torn or washed out.",
            decimals=2,
        ),
        Metric(
            key="cfa_harmonic_db",
            name="CFA harmonics",
            unit="dB",
            better="lower",
            signature="cfa_harmonic_db|error|hann|17harmonics|3x3-over-ring4to10|crop8|mean-of-images|v1",
            summary="Power of the error at the frequencies of the 6 x 6 colour filter over that beside them: near 0 "
            "for noise, above 6 a lattice stands out. Blind to red and blue exchanged.",
            decimals=1,
        ),
        Metric(
            key="cfa_fold",
            name="CFA lattice",
            unit="/255",
            better="lower",
            signature="cfa_fold|error|6x6-means|rms|crop8|mean-of-images|v1",
            summary="Strength of the 6 x 6 lattice in the error: root mean square of its means at the 36 places of "
            "the pattern. Below 0.5 it is not seen.",
            decimals=3,
        ),
    )
)


def get_metric(key: str) -> Metric:
    """Return the metric of that key.

    Raises:
        MlkitError: for an unknown key; the sentence names the nearest one and all there are.
    """
    if key not in METRICS:
        raise MlkitError(f"unknown metric '{key}'{did_you_mean(key, METRICS)}; known: {listing(list(METRICS))}")
    return METRICS[key]


def goodness(key: str, value: float) -> float:
    """Return a number that rises as the score gets better: the value, its negative, or minus its distance from 1."""
    better = get_metric(key).better
    if better == "one":
        return -abs(value - 1.0)
    return value if better == "higher" else -value


def metric_table_markdown() -> str:
    """Return the table of docs/metrics.md: one row a metric."""
    lines = ["| key | name | unit | better | meaning | signature |", "| --- | --- | --- | --- | --- | --- |"]
    for metric in METRICS.values():
        signature = metric.signature.replace("|", "\\|")  # also inside code, a bar would end the cell
        lines.append(
            f"| `{metric.key}` | {metric.name} | {metric.unit or '-'} | {BETTER_TEXT[metric.better]} "
            f"| {metric.summary} | `{signature}` |"
        )
    return "\n".join(lines) + "\n"
