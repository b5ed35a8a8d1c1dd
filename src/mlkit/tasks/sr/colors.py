"""Colours of restored images taken from the enlarged input: its low frequencies, or its mean and contrast.

Images pass as bands of rows, (first row, [3 S, rows, W] float32): S restorations of one image, three channels each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from mlkit.tasks.sr.infer_inputs import ColorFix

Floats = NDArray[np.float32]
Band = tuple[int, Floats]
Rows = Callable[[int, int], Floats]  # rows top to bottom (exclusive) of the reference: [3, bottom - top, W]

_LEVELS = 5
REACH_PX = 2**_LEVELS - 1  # of the low-pass: 1 + 2 + 4 + 8 + 16
_ROWS = 256


def fixed_colors(bands: Iterator[Band], reference: Rows, height: int, kind: ColorFix) -> Iterator[Band]:
    """Return the bands with colours of the reference; where they begin and end may change.

    Args:
        bands: from top to bottom.
        reference: rows of an image of the same size.
        height: of both.
        kind: "wavelet" gives the reference's low frequencies, in constant memory; "adain" its mean and standard
            deviation a channel, for which the whole image is held; "none" nothing.
    """
    if kind == "wavelet":
        return _with_low_frequencies(bands, reference, height)
    if kind == "adain":
        return _with_statistics(bands, reference, height)
    return bands


def low_pass(image_chw: Floats) -> Floats:
    """Return the residue of a five-level a-trous wavelet transform (Holschneider et al. 1989), same shape.

    Each level blurs by (1, 2, 1)/4 with holes of 2^level px along both axes; the border pixels are continued. This is
    the low-pass of the wavelet colour correction of StableSR (Wang et al. 2023).
    """
    low = image_chw
    for level in range(_LEVELS):
        for axis in (1, 2):
            low = _blurred(low, 2**level, axis)
    return low


def _blurred(image_chw: Floats, holes: int, axis: int) -> Floats:
    size = image_chw.shape[axis]
    place = np.arange(size)
    sides = image_chw.take(np.maximum(place - holes, 0), axis=axis)
    sides += image_chw.take(np.minimum(place + holes, size - 1), axis=axis)
    sides *= np.float32(0.25)
    sides += np.float32(0.5) * image_chw
    return sides


def _with_low_frequencies(bands: Iterator[Band], reference: Rows, height: int) -> Iterator[Band]:
    """Add the low-passed difference: image - low(image) + low(reference), since the low-pass is linear."""
    held: Floats | None = None  # rows from `first` on as they came; those above `done` are given out already
    first = done = 0
    for top, band in bands:
        held = band if held is None else np.concatenate([held, band], axis=1)
        end = top + band.shape[1]
        ready = height if end == height else end - REACH_PX  # rows below would see what is not there yet
        if ready <= done:
            continue
        count = held.shape[0] // 3
        change = low_pass(np.tile(reference(first, end), (count, 1, 1)) - held)
        yield done, held[:, done - first : ready - first] + change[:, done - first : ready - first]
        done = ready
        kept = max(first, done - REACH_PX)
        held, first = held[:, kept - first :].copy(), kept


def _with_statistics(bands: Iterator[Band], reference: Rows, height: int) -> Iterator[Band]:
    """Scale and shift each channel (AdaIN, Huang and Belongie 2017); a flat one is shifted."""
    image = np.concatenate([band for _, band in bands], axis=1)
    mean, deviation = _statistics(lambda top, bottom: image[:, top:bottom], height)
    meant, meant_deviation = (np.tile(value, len(image) // 3) for value in _statistics(reference, height))
    gain = np.where(deviation > 0, meant_deviation / np.where(deviation > 0, deviation, 1.0), 1.0)
    image *= gain.astype(np.float32)[:, None, None]
    image += (meant - mean * gain).astype(np.float32)[:, None, None]
    yield 0, image


def _statistics(rows: Rows, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each channel."""
    totals, squares, count = [], [], 0
    for top in range(0, height, _ROWS):
        band = rows(top, min(height, top + _ROWS)).astype(np.float64)
        totals.append(band.sum(axis=(1, 2)))
        squares.append(np.square(band).sum(axis=(1, 2)))
        count += band[0].size
    mean = np.sum(totals, axis=0) / count
    return mean, np.sqrt(np.maximum(np.sum(squares, axis=0) / count - mean**2, 0.0))
