"""Entries of METRICS: scores of maps that correct lenses (`metrics/geometry.py`)."""

from __future__ import annotations

from mlkit.metrics.metric import HIGHER, LOWER, Metric

MAPS: tuple[Metric, ...] = (
    Metric(
        key="epe_px",
        name="End-point error",
        unit="px",
        better=LOWER,
        signature="epe_px|backward-map|whole-frame|width1000|mean-of-images|v1",
        summary="Mean distance between the map and the true one, in px of a picture 1000 px wide.",
        decimals=2,
    ),
    Metric(
        key="epe_corner_px",
        name="Corner error",
        unit="px",
        better=LOWER,
        signature="epe_corner_px|backward-map|4-corners|width1000|mean-of-images|v1",
        summary="The same in the four corners.",
        decimals=2,
    ),
    Metric(
        key="epe_shape_px",
        name="End-point error but for scale",
        unit="px",
        better=LOWER,
        signature="epe_shape_px|backward-map|whole-frame|least-squares-scale|width1000|mean-of-images|v1",
        summary="Mean distance between the map and the true one after it is enlarged as fits best: no picture tells "
        "the scale, since any leaves straight lines straight.",
        decimals=2,
    ),
    Metric(
        key="epe_param_px",
        name="Parametric end-point error",
        unit="px",
        better=LOWER,
        signature="epe_param_px|backward-map|whole-frame|without-residual-flow|width1000|mean-of-images|v1",
        summary="End-point error of the lens parameters alone, without the residual flow.",
        decimals=2,
        detail=True,
    ),
    Metric(
        key="epe_share",
        name="Error left",
        unit="",
        better=LOWER,
        signature="epe_share|backward-map|over-no-correction-floor0.2px|width1000|mean-of-images|v1",
        summary="End-point error over that of no correction (0.2 px at least): below 1 the correction helps.",
        decimals=3,
    ),
    Metric(
        key="bend_px",
        name="Bend",
        unit="px",
        better=LOWER,
        signature="bend_px|7+7-lines|total-least-squares-rms|width1000|mean-of-images|v1",
        summary="How far places that the corrected picture shows on a straight line really lie off one, root mean "
        "square, in px of a picture 1000 px wide; blind to position and scale.",
        decimals=3,
    ),
    Metric(
        key="negative_det_pct",
        name="Folded",
        unit="%",
        better=LOWER,
        signature="negative_det_pct|backward-map|forward-differences|det<=0|mean-of-images|v1",
        summary="Share of the picture where the map folds over: a determinant of its Jacobian of 0 or less.",
        decimals=3,
    ),
    Metric(
        key="det_min",
        name="Least determinant",
        unit="",
        better=HIGHER,
        signature="det_min|backward-map|forward-differences|mean-of-images|v1",
        summary="Smallest determinant of the map's Jacobian; 1 keeps areas, 0 folds.",
        decimals=3,
        detail=True,
    ),
    Metric(
        key="det_p01",
        name="Determinant, 1st percentile",
        unit="",
        better=HIGHER,
        signature="det_p01|backward-map|forward-differences|percentile1|mean-of-images|v1",
        summary="The determinant that 99 % of the picture exceeds.",
        decimals=3,
        detail=True,
    ),
    Metric(
        key="oob_ratio",
        name="Out of bounds",
        unit="",
        better=LOWER,
        signature="oob_ratio|backward-map|whole-frame|mean-of-images|v1",
        summary="Share of the corrected picture whose source lies outside the distorted one.",
        decimals=4,
        detail=True,
    ),
)
