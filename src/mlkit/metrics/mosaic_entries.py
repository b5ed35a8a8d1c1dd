"""Entries of METRICS: scores of demosaicking (`metrics/mosaic.py`)."""

from __future__ import annotations

from mlkit.metrics.metric import Metric

MOSAICS: tuple[Metric, ...] = (
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
        detail=True,
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
            detail=True,
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
        detail=True,
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
        detail=True,
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
