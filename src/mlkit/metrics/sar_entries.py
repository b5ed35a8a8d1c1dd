"""Entries of METRICS: speckle, edges and rate of radar images."""

from __future__ import annotations

from mlkit.metrics.metric import Metric

RADAR: tuple[Metric, ...] = (
    Metric(
        key="psnr_truth",
        name="PSNR to truth",
        unit="dB",
        better="higher",
        signature="psnr_truth|gray|no-speckle|crop0|clip01|mean-of-images|v1",
        summary="PSNR against the scene without speckle, which only simulated data have: no wall bounds it, and coding "
        "speckle lowers it.",
        decimals=2,
    ),
    Metric(
        key="rate_bpp",
        name="Rate",
        unit="bit/px",
        better="lower",
        signature="rate_bpp|model-entropy|step1|mean-of-images|v1",
        summary="Bits per pixel of a quantised latent by the model's own probabilities; a coded file comes within a "
        "few per cent of it.",
        decimals=3,
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
    Metric(
        key="psnr_wall",
        name="Speckle wall",
        unit="dB",
        better="higher",
        signature="psnr_wall|enl-of-original|win25s12|cv20|clip2|mean-of-images|v1",
        summary="The PSNR that the scene without its speckle would have, -20 log10(sigma_dB / range) with the "
        "original's own ENL: of the data, not of a model. More than this means that speckle is coded.",
        decimals=2,
        detail=True,
    ),
    Metric(
        key="psnr_over_wall",
        name="PSNR over the wall",
        unit="dB",
        better="higher",
        signature="psnr_over_wall|psnr|psnr_wall|mean-of-images|v1",
        summary="PSNR minus the speckle wall of the same image.",
        decimals=2,
        detail=True,
    ),
    Metric(
        key="enl_ratio_pooled_db",
        name="ENL ratio, plan's",
        unit="",
        better="one",
        signature="enl_ratio_pooled_db|normalised-db|mask-cv0.3-win15|pooled|mean-of-images|v1",
        summary="The plan's own: mean^2/variance of the normalised dB image over one pooled mask. The levels of the "
        "scene drown the speckle in it: an ideal despeckler scores about 1.45 where `enl_ratio` is about 95.",
        decimals=3,
        detail=True,
    ),
    Metric(
        key="epi_sobel_cosine",
        name="EPI, plan's",
        unit="",
        better="higher",
        signature="epi_sobel_cosine|db|sobel-magnitude|uncentred|mean-of-images|v1",
        summary="The plan's own: cosine between the Sobel magnitudes, not centred. Two unrelated noises score pi/4, "
        "one scene under independent speckle about 0.8.",
        decimals=3,
        detail=True,
    ),
)
