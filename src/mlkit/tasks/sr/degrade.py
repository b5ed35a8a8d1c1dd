"""From a high-resolution image to a low-resolution one: plain bicubic, or blur, resize, noise and JPEG, twice.

A degradation is drawn first, as a list of operations in plain numbers, and then carried out: `apply_record` gives the
same low-resolution image again from the list alone. The second-order model and its ranges are those of Real-ESRGAN
(Wang et al. 2021, arXiv 2107.10833, section 3; the x4 settings that it was trained with), without its sharpening of the
high-resolution image, and with antialiased bilinear and bicubic resizing.

Images are float32 [H, W, 3] in [0, 1], display-referred sRGB.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.seeding import generator

Floats = NDArray[np.float32]
Kind = Literal["bicubic", "real"]
Operation = dict[str, Any]
Record = dict[str, Any]

KERNELS = {  # probability of each when a blur is not a sinc
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}
KERNEL_SIDES_PX = tuple(range(7, 22, 2))
RESIZE_FILTERS = ("area", "bilinear", "bicubic")
SINC_SHARE, LAST_SINC_SHARE = 0.1, 0.8
SECOND_BLUR_SHARE = 0.8
GAUSSIAN_NOISE_SHARE, GREY_NOISE_SHARE = 0.5, 0.4
BETA_GENERALIZED, BETA_PLATEAU = (0.5, 4.0), (1.0, 2.0)
JPEG_QUALITY = (30, 95)
# of the first and the second pass
BLUR_SIGMA_PX = ((0.2, 3.0), (0.2, 1.5))
RESIZE_UP_DOWN_KEEP = ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
RESIZE_RANGE = ((0.15, 1.5), (0.3, 1.2))  # of the image's side; of the low-resolution side
NOISE_SIGMA_255 = ((1.0, 30.0), (1.0, 25.0))
POISSON_SCALE = ((0.05, 3.0), (0.05, 2.5))


def degrade(image_hwc: Floats, rng: np.random.Generator, scale: int, kind: Kind) -> tuple[Floats, Record]:
    """Return the low-resolution image, in whole 255ths, and the record that `apply_record` makes it from.

    Args:
        image_hwc: [H, W, 3] in [0, 1]; H and W are multiples of `scale`.
        rng: draws the record; a bicubic one needs nothing of it.
        scale: how many times smaller a side becomes.
        kind: `bicubic` or `real`.
    """
    record = draw_record(rng, image_hwc.shape[0], image_hwc.shape[1], scale, kind)
    return apply_record(image_hwc, record), record


def draw_record(rng: np.random.Generator, height: int, width: int, scale: int, kind: Kind) -> Record:
    """Return {"kind", "scale", "operations"} for an image of this size: numbers and words that JSON keeps exactly."""
    assert height % scale == 0 and width % scale == 0, f"{width} x {height} px is not {scale} times a whole size"
    low = (height // scale, width // scale)
    if kind == "bicubic":
        return {"kind": kind, "scale": scale, "operations": [_resize(low, "bicubic")]}
    operations = [
        _draw_blur(rng, 0),
        _draw_resize(rng, 0, (height, width)),
        _draw_noise(rng, 0),
        _draw_jpeg(rng),
    ]
    if rng.random() < SECOND_BLUR_SHARE:
        operations.append(_draw_blur(rng, 1))
    operations += [_draw_resize(rng, 1, low), _draw_noise(rng, 1)]
    last = [_resize(low, str(rng.choice(RESIZE_FILTERS)))]
    if rng.random() < LAST_SINC_SHARE:
        side = int(rng.choice(KERNEL_SIDES_PX))
        last.append(_sinc(side, rng.uniform(math.pi / 3, math.pi)))
    jpeg = _draw_jpeg(rng)
    operations += [*last, jpeg] if rng.random() < 0.5 else [jpeg, *last]
    return {"kind": kind, "scale": scale, "operations": operations}


def apply_record(image_hwc: Floats, record: Mapping[str, Any]) -> Floats:
    """Return the low-resolution image that a record describes; nothing is drawn but noise from the recorded seeds."""
    image = np.asarray(image_hwc, dtype=np.float32)
    for operation in record["operations"]:
        image = np.clip(_apply(image, operation), 0.0, 1.0, dtype=np.float32)
    levels: Floats = np.rint(image * np.float32(255.0))
    return levels / np.float32(255.0)


def _apply(image_hwc: Floats, operation: Mapping[str, Any]) -> Floats:
    match operation["op"]:
        case "blur":
            return blurred(image_hwc, kernel_of(operation))
        case "resize":
            return resized(image_hwc, operation["height"], operation["width"], operation["filter"])
        case "noise":
            return noisy(image_hwc, operation)
        case "jpeg":
            return compressed(image_hwc, operation["quality"])
    raise AssertionError(f"unknown operation {operation['op']}")


# ---- drawing ------------------------------------------------------------------------------------------------------


def _draw_blur(rng: np.random.Generator, again: int) -> Operation:
    side = int(rng.choice(KERNEL_SIDES_PX))
    if rng.random() < SINC_SHARE:
        return _sinc(side, rng.uniform(math.pi / (3 if side < 13 else 5), math.pi))
    kernel = str(rng.choice(list(KERNELS), p=list(KERNELS.values())))
    sigma_x = float(rng.uniform(*BLUR_SIGMA_PX[again]))
    drawn: Operation = {"op": "blur", "kernel": kernel, "side": side, "sigma_x_px": sigma_x, "sigma_y_px": sigma_x}
    drawn |= {"angle_rad": 0.0, "beta": 1.0}
    if kernel.endswith("aniso"):
        drawn["sigma_y_px"] = float(rng.uniform(*BLUR_SIGMA_PX[again]))
        drawn["angle_rad"] = float(rng.uniform(-math.pi, math.pi))
    if kernel.startswith(("generalized", "plateau")):
        low, high = BETA_GENERALIZED if kernel.startswith("generalized") else BETA_PLATEAU
        drawn["beta"] = float(rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high))
    return drawn


def _sinc(side: int, cutoff_rad: float) -> Operation:
    return {"op": "blur", "kernel": "sinc", "side": side, "cutoff_rad": float(cutoff_rad)}


def _resize(size: tuple[int, int], name: str) -> Operation:
    return {"op": "resize", "height": size[0], "width": size[1], "filter": name}


def _draw_resize(rng: np.random.Generator, again: int, size: tuple[int, int]) -> Operation:
    low, high = RESIZE_RANGE[again]
    way = rng.choice(3, p=RESIZE_UP_DOWN_KEEP[again])
    factor = (rng.uniform(1.0, high), rng.uniform(low, 1.0), 1.0)[way]
    height, width = (max(1, int(side * factor)) for side in size)
    return _resize((height, width), str(rng.choice(RESIZE_FILTERS)))


def _draw_noise(rng: np.random.Generator, again: int) -> Operation:
    is_gaussian = rng.random() < GAUSSIAN_NOISE_SHARE
    drawn: Operation = {"op": "noise", "kind": "gaussian" if is_gaussian else "poisson"}
    if is_gaussian:
        drawn["sigma_255"] = float(rng.uniform(*NOISE_SIGMA_255[again]))
    else:
        drawn["strength"] = float(rng.uniform(*POISSON_SCALE[again]))
    return drawn | {"grey": bool(rng.random() < GREY_NOISE_SHARE), "seed": int(rng.integers(2**53))}


def _draw_jpeg(rng: np.random.Generator) -> Operation:
    return {"op": "jpeg", "quality": int(rng.integers(*JPEG_QUALITY, endpoint=True))}


# ---- carrying out -------------------------------------------------------------------------------------------------


def kernel_of(operation: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the blur kernel [side, side] of an operation, with the sum 1.

    With q = x' S^-1 x, S the covariance: Gaussian exp(-q/2), generalised exp(-q^beta/2), plateau 1/(1 + q^beta); and
    the circular sinc w J1(w r) / (2 pi r) of the cut-off w (Wang et al. 2021, equations 2 and 6).
    """
    half = operation["side"] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    if operation["kernel"] == "sinc":
        from scipy import special

        r, w = np.hypot(x, y), operation["cutoff_rad"]
        r[half, half] = 1.0
        kernel = w * special.j1(w * r) / (2.0 * math.pi * r)
        kernel[half, half] = w * w / (4.0 * math.pi)
    else:
        cos, sin = math.cos(operation["angle_rad"]), math.sin(operation["angle_rad"])
        along, across = cos * x + sin * y, cos * y - sin * x
        q = (along / operation["sigma_x_px"]) ** 2 + (across / operation["sigma_y_px"]) ** 2
        powered = q ** operation["beta"]
        kernel = 1.0 / (1.0 + powered) if operation["kernel"].startswith("plateau") else np.exp(-0.5 * powered)
    normalised: NDArray[np.float64] = kernel / kernel.sum()
    return normalised


def blurred(image_hwc: Floats, kernel: NDArray[np.float64]) -> Floats:
    """Return the image convolved with a kernel, continued by reflection about its border pixels."""
    from scipy import signal

    half = kernel.shape[0] // 2
    # an image smaller than the kernel is reflected as often as needed
    padded = np.pad(image_hwc.astype(np.float64), ((half, half), (half, half), (0, 0)), mode="reflect")
    return np.asarray(signal.oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)), dtype=np.float32)


def resized(image_hwc: Floats, height: int, width: int, name: str) -> Floats:
    """Return the image at another size: `area` means, or antialiased `bilinear` or `bicubic` (Keys 1981, a = -0.5)."""
    from PIL import Image

    if image_hwc.shape[:2] == (height, width):
        return image_hwc
    resampling = {
        "area": Image.Resampling.BOX,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }[name]
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), resampling))
        for plane in np.ascontiguousarray(np.moveaxis(image_hwc, 2, 0), dtype=np.float32)
    ]
    return np.stack(planes, axis=2)


def noisy(image_hwc: Floats, operation: Mapping[str, Any]) -> Floats:
    """Return the image with Gaussian or signal-dependent Poisson noise, one for all channels where it is grey.

    Poisson noise counts as many photons at white as the image has grey levels, rounded up to a power of two, and is
    then multiplied by the strength.
    """
    rng = generator(operation["seed"], "noise")
    is_grey = operation["grey"]
    if operation["kind"] == "gaussian":
        shape = (*image_hwc.shape[:2], 1 if is_grey else image_hwc.shape[2])
        return np.asarray(image_hwc + rng.standard_normal(shape) * (operation["sigma_255"] / 255.0), dtype=np.float32)
    clean = np.clip(image_hwc, 0.0, 1.0).astype(np.float64)
    if is_grey:
        clean = clean @ np.array([[0.299], [0.587], [0.114]])  # BT.601 luma
    levels = len(np.unique(np.rint(clean * 255.0)))
    photons = 2.0 ** math.ceil(math.log2(levels))
    noise = rng.poisson(clean * photons) / photons - clean
    return np.asarray(image_hwc + noise * operation["strength"], dtype=np.float32)


def compressed(image_hwc: Floats, quality: int) -> Floats:
    """Return the image after JPEG, with chroma at half the resolution as cameras and the web do."""
    from PIL import Image

    levels = np.rint(np.clip(image_hwc, 0.0, 1.0) * 255.0).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(levels).save(held, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(held, formats=("JPEG",)) as decoded:
        return np.asarray(decoded, dtype=np.float32) / np.float32(255.0)
