"""Pictures side by side: the one place where comparison grids, colour scales and PNG files of them are made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

Role = Literal["given", "made", "detail"]

TRUTH_TITLES = ("Truth", "HR", "Original")  # of the given panel that a result is measured against
NUM_COLORS = 256
NOT_A_NUMBER_RGB = (0.10, 0.62, 0.72)  # cyan: in neither scale, so that a NaN cannot pass for a value


@dataclass(frozen=True, slots=True)
class ColorScale:
    """How values become colours; scales of equal label and range are one colour bar."""

    label: str
    vmin: float
    vmax: float
    colors_rgb: Floats = field(compare=False, repr=False)  # [N, 3] in [0, 1], display-referred sRGB, low to high


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of a comparison grid."""

    title: str  # "LR", "base SR", "LoRA SR", "HR", "|error| x8"
    image_hwc: Floats  # [H, W, 3] float32 in [0, 1], display-referred sRGB
    note: str = ""  # "31.2 dB"; several lines by "\n"
    scale: ColorScale | None = None  # what the colours mean; None for photographs
    role: Role = "detail"  # of the sample, so equal for all models; the result; the rest


def of_role(panels: Sequence[Panel], role: Role) -> list[Panel]:
    """Return the panels of one role, in order."""
    return [panel for panel in panels if panel.role == role]


def truth_of(panels: Sequence[Panel]) -> Panel | None:
    """Return what the result should be: the given panel that is called Truth, HR or Original; None without one."""
    named = {panel.title: panel for panel in of_role(panels, "given")}
    return next((named[title] for title in TRUTH_TITLES if title in named), None)


def grayscale(label: str, vmin: float, vmax: float) -> ColorScale:
    """Return black to white, for values whose picture is the image itself (amplitude in dB, luminance)."""
    ramp = np.linspace(0.0, 1.0, NUM_COLORS)
    return ColorScale(label, float(vmin), float(vmax), np.repeat(ramp[:, None], 3, axis=1))


def heat(label: str, vmin: float, vmax: float) -> ColorScale:
    """Return black over violet, red and orange to pale yellow, for errors and magnitudes; lightness rises evenly."""
    return ColorScale(label, float(vmin), float(vmax), _heat_colors().copy())


@lru_cache(maxsize=1)
def _heat_colors() -> Floats:
    """Return the heat table [256, 3]: a path of even lightness steps in OKLab (Ottosson 2020), as sRGB."""
    share = np.linspace(0.0, 1.0, NUM_COLORS)
    lightness = 0.06 + 0.91 * share
    hue = np.deg2rad(np.interp(share, (0.0, 0.25, 0.5, 0.75, 1.0), (285.0, 310.0, 385.0, 420.0, 468.0)))
    chroma = np.interp(share, (0.0, 0.25, 0.45, 0.6, 0.8, 1.0), (0.02, 0.14, 0.19, 0.19, 0.16, 0.08))
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cone_l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    cone_m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    cone_s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    rgb_linear = np.stack(
        (
            4.0767416621 * cone_l - 3.3077115913 * cone_m + 0.2309699292 * cone_s,
            -1.2684380046 * cone_l + 2.6097574011 * cone_m - 0.3413193965 * cone_s,
            -0.0041960863 * cone_l - 0.7034186147 * cone_m + 1.7076147010 * cone_s,
        ),
        axis=1,
    ).clip(0.0, 1.0)
    return np.where(rgb_linear <= 0.0031308, 12.92 * rgb_linear, 1.055 * rgb_linear ** (1 / 2.4) - 0.055)


def apply_scale(values_hw: Floats, scale: ColorScale) -> NDArray[np.float32]:
    """Return the colours of values as [H, W, 3] float32 in [0, 1]; beyond the range the end colours, cyan for NaN."""
    assert scale.vmax > scale.vmin, f"the scale '{scale.label}' is empty: {scale.vmin} to {scale.vmax}"
    values = np.asarray(values_hw, dtype=np.float64)
    missing = np.isnan(values)
    share = ((np.where(missing, scale.vmin, values) - scale.vmin) / (scale.vmax - scale.vmin)).clip(0.0, 1.0)
    # nearest entry of the table, as a value and its place on the colour bar then have the very same colour
    index = np.rint(share * (len(scale.colors_rgb) - 1)).astype(np.intp)
    image_hwc: NDArray[np.float32] = scale.colors_rgb[index].astype(np.float32)
    image_hwc[missing] = NOT_A_NUMBER_RGB
    return image_hwc


def comparison_grid(
    rows: Sequence[Sequence[Panel]], *, heading: str = "", labels: Sequence[str] = (), footer: str = ""
) -> NDArray[np.uint8]:
    """Return panels in rows and columns as one picture, uint8 [H, W, 3], sRGB.

    Small images are enlarged without smoothing (by a whole factor below 3), large ones reduced by averaging; within
    a row all come as close as that allows to one size. Titles that are equal over the rows stand once, on top. Each
    distinct colour scale is drawn once, at the bottom.

    Args:
        rows: panels left to right; rows may differ in length.
        heading: one line above all.
        labels: one name a row, at its left; or none.
        footer: small text at the very bottom; several lines by "\\n".
    """
    from mlkit.imaging.layout import draw_grid  # Pillow's fonts are needed only here

    assert rows and all(rows), "a grid needs at least one row, and each row a panel"
    assert len(labels) in (0, len(rows)), f"{len(labels)} labels for {len(rows)} rows"
    for panel in (panel for row in rows for panel in row):
        shape = panel.image_hwc.shape
        assert len(shape) == 3 and shape[2] == 3 and min(shape) > 0, f"panel '{panel.title}' has the shape {shape}"
    return draw_grid(rows, heading=heading, labels=labels, footer=footer)


def beside(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return grids side by side as one picture, uint8 [H, W, 3]; below a lower one the paper goes on."""
    from mlkit.imaging.layout import PAPER

    height = max(len(picture) for picture in pictures)
    made = np.full((height, sum(picture.shape[1] for picture in pictures), 3), PAPER, np.uint8)
    left = 0
    for picture in pictures:
        made[: len(picture), left : left + picture.shape[1]] = picture
        left += picture.shape[1]
    return made


def image_to_u8(image_hwc: Floats) -> NDArray[np.uint8]:
    """Return an image of [0, 1] as uint8, rounded; values outside are cut, NaN becomes cyan."""
    missing = np.any(np.isnan(image_hwc), axis=2, keepdims=True)
    shown = np.where(missing, np.asarray(NOT_A_NUMBER_RGB, dtype=image_hwc.dtype), image_hwc)
    image_u8: NDArray[np.uint8] = np.rint(shown.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    return image_u8


def write_png(path: Path, image_u8_hwc: NDArray[np.uint8], *copies: Path) -> None:
    """Write uint8 [H, W, 3] or [H, W] as PNG, atomically, and at the places of `copies` too: encoding takes longest.

    Raises:
        DataError: when the place cannot be written.
    """
    from PIL import Image

    from mlkit.files import atomic_file

    assert image_u8_hwc.dtype == np.uint8, f"write_png takes uint8, not {image_u8_hwc.dtype}"
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_u8_hwc)).save(encoded, format="PNG")
    for place in (path, *copies):
        with atomic_file(place) as partial:
            partial.write_bytes(encoded.getbuffer())
