"""What inference keeps of a scene of any size while its bands pass: error sums, and pictures reduced by averaging."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.grids import Panel, apply_scale, comparison_grid, grayscale, heat, write_png

_PREVIEW_PX = 800  # longest side of each picture in the comparison
_ERROR_SHARE = 0.3  # the difference panel ends at this share of the dB range: larger errors are rare


class Summary:
    """Sums over a scene, filled band by band; memory is that of the pictures.

    Args:
        shape: rows and columns of the scene.
        db_min: what the model takes for 0.
        db_max: what it takes for 1.
    """

    def __init__(self, shape: tuple[int, int], db_min: float, db_max: float) -> None:
        self.shape = shape
        self.db_min, self.db_max = db_min, db_max
        self.num_valid = self.num_clipped = 0
        self._squared_error = 0.0
        self.step = max(1, math.ceil(max(shape) / _PREVIEW_PX))
        small = (math.ceil(shape[0] / self.step), math.ceil(shape[1] / self.step))
        # originals, results, absolute differences: sums over squares of step x step pixels, and how many are valid
        self._sums = np.zeros((3, *small))
        self._counts = np.zeros(small)

    def add(self, top: int, db_hw: NDArray[np.float32], made_hw: NDArray[np.float32]) -> None:
        """Take in rows `top` and on of the scene and of its result, in dB; NaN where the scene is masked."""
        valid = np.isfinite(db_hw)
        within = np.clip(db_hw, self.db_min, self.db_max)
        # against the clipped scene: what lies outside the range was never offered to the model
        error = np.where(valid, made_hw - within, 0).astype(np.float64)
        self._squared_error += float(np.square(error).sum())
        self.num_valid += int(valid.sum())
        self.num_clipped += int(((db_hw != within) & valid).sum())
        rows = (top + np.arange(len(db_hw))) // self.step
        columns = np.arange(0, self.shape[1], self.step)
        shown = (np.where(valid, db_hw, 0), np.where(valid, made_hw, 0), np.abs(error))
        for sums, values in zip((*self._sums, self._counts), (*shown, valid), strict=True):
            np.add.at(sums, rows, np.add.reduceat(values.astype(np.float64), columns, axis=1))

    @property
    def rmse_db(self) -> float:
        """Root mean squared error in dB over valid pixels, the scene clipped to the model's range."""
        return math.sqrt(self._squared_error / self.num_valid)

    @property
    def psnr_db(self) -> float:
        """PSNR of the image that is 0 at db_min and 1 at db_max, over valid pixels."""
        return 20 * math.log10((self.db_max - self.db_min) / self.rmse_db) if self._squared_error else math.inf

    def pictures(self) -> NDArray[np.float64]:
        """Return original, result and absolute difference in dB, [3, h, w]; each pixel is a mean over valid ones.

        The difference is averaged as it is, not taken between averages, which would hide that speckle is lost.
        """
        with np.errstate(invalid="ignore"):
            return self._sums / self._counts  # 0/0, masked throughout, is NaN

    def draw(self, path: Path, name: str) -> None:
        """Write the picture: original, result, absolute difference, on colour bars in dB."""
        original, made, difference = self.pictures()
        db = grayscale("backscatter (dB)", self.db_min, self.db_max)
        error = heat("|difference| (dB)", 0.0, _ERROR_SHARE * (self.db_max - self.db_min))
        height, width = self.shape
        size = f"{width} x {height} px" + (f", shown at 1/{self.step}" if self.step > 1 else "")
        masked = height * width - self.num_valid
        panels = [
            Panel("Original", apply_scale(original, db), size + (f"; {masked:,} masked" if masked else ""), db),
            Panel("Reconstructed", apply_scale(made, db), f"PSNR {self.psnr_db:.2f} dB", db),
            Panel("|difference|", apply_scale(difference, error), f"RMSE {self.rmse_db:.2f} dB", error),
        ]
        write_png(path, comparison_grid([panels], heading=name))
