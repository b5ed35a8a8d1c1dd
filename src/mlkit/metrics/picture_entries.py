"""Entries of METRICS: scores of pictures."""

from __future__ import annotations

from mlkit.metrics.metric import Metric

PICTURES: tuple[Metric, ...] = (
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
)
