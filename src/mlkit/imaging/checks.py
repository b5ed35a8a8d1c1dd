"""Whether a result is an image at all: finite, and not black where the input was not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import NonFiniteError

_BLACK = 0.5 / 255.0  # what is rounded to 0 in 8 bits


class OutputCheck:
    """Looks at the rows of a result as they come.

    Args:
        name: of the result, for messages.
        black_is_right: the input is black too.
    """

    def __init__(self, name: str, *, black_is_right: bool = False) -> None:
        self._name, self._is_black = name, not black_is_right

    def add(self, pixels: NDArray[Any]) -> None:
        """Look at some rows, of any shape.

        Raises:
            NonFiniteError: when a value is NaN or infinite.
        """
        low, high = float(pixels.min()), float(pixels.max())  # NaN and infinity show in either
        if not (np.isfinite(low) and np.isfinite(high)):
            raise NonFiniteError(
                f"{self._name} has values that are NaN or infinite; try --precision fp32, or other weights"
            )
        self._is_black = self._is_black and high < _BLACK

    def finish(self) -> None:
        """Judge the whole.

        Raises:
            NonFiniteError: when it is all black.
        """
        if self._is_black:
            raise NonFiniteError(
                f"{self._name} is all black, which its input is not; try --precision fp32, or other weights"
            )


def is_black(pixels: NDArray[Any]) -> bool:
    """Return whether float values around [0, 1] would all be 0 in 8 bits."""
    return bool(pixels.max() < _BLACK)


def check_output(pixels: NDArray[Any], name: str, *, given: NDArray[Any] | None = None) -> None:
    """Look at a whole result.

    Args:
        pixels: float, around [0, 1].
        name: of the result, for messages.
        given: the input; black may become black.

    Raises:
        NonFiniteError: when a value is NaN or infinite, or all are black.
    """
    check = OutputCheck(name, black_is_right=given is not None and is_black(given))
    check.add(pixels)
    check.finish()
