"""What a terminal shows of inference: pictures in half blocks, and megapixels per second with the time left."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlkit.commands.display import duration, is_live

if TYPE_CHECKING:
    from rich.text import Text

_PLAIN_EVERY_S = 15.0
_MAX_COLUMNS = 100
_UPPER_HALF = "\N{UPPER HALF BLOCK}"


def shows_pictures() -> bool:
    """Return whether stdout is a terminal with colours and block characters."""
    plain = os.environ.get("CI") or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain and "utf" in (sys.stdout.encoding or "").lower()


def half_blocks(image_hwc: NDArray[np.float32], columns: int, lines: int) -> Text:
    """Return an image as coloured text: each character is two pixels, one above the other.

    Args:
        image_hwc: [H, W, 3] in [0, 1].
        columns, lines: at most so many; the shape is kept, and nothing is enlarged.
    """
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    height, width = image_hwc.shape[:2]
    share = min(columns / width, 2 * lines / height, 1.0)
    size = (max(1, round(width * share)), max(2, 2 * round(height * share / 2)))
    image_u8 = np.rint(np.clip(image_hwc, 0.0, 1.0) * 255.0).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(image_u8).resize(size, Image.Resampling.BOX))
    text = Text(no_wrap=True, end="")
    for above, below in zip(pixels[0::2].tolist(), pixels[1::2].tolist(), strict=True):
        for upper, lower in zip(above, below, strict=True):
            text.append(_UPPER_HALF, Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
        text.append("\n")
    return text


def show(image_hwc: NDArray[np.float32]) -> None:
    """Print an image on the terminal, at most as wide as it and half as high."""
    from rich.console import Console

    room = shutil.get_terminal_size()
    Console().print(half_blocks(image_hwc, min(room.columns, _MAX_COLUMNS), max(8, room.lines // 2)), end="")


class Pace:
    """Megapixels done of all, their rate and the time left: a live line on a terminal, some plain lines elsewhere.

    Args:
        total_mp: of all results, as far as it is known.
    """

    def __init__(self, total_mp: float) -> None:
        self._total_mp = total_mp
        self._done_mp = self._image_mp = 0.0
        self._started_s = self._last_s = time.monotonic()
        self._live: Any = None
        self._task: Any = None

    def begin(self) -> None:
        """Count the time from here: opening the model is no work on images."""
        self._started_s = self._last_s = time.monotonic()

    def update(self, text: str, image_mp: float) -> None:
        """Say how much of the present image is done."""
        self._image_mp = image_mp
        now_s = time.monotonic()
        if is_live():
            self._draw(text)
        elif now_s - self._last_s > _PLAIN_EVERY_S:
            self._last_s = now_s
            print(f"{text}: {self.line()}", file=sys.stderr, flush=True)  # noqa: T201

    def end_image(self) -> None:
        """Count the present image as done."""
        self._done_mp += self._image_mp
        self._image_mp = 0.0

    def drop_image(self, expected_mp: float) -> None:
        """Count the present image as nothing to do: it is broken."""
        self._total_mp -= expected_mp
        self._image_mp = 0.0

    def line(self) -> str:
        """Return "3.2 of 12.0 MP, 1.85 MP/s, 4.8 s left"."""
        done = self._done_mp + self._image_mp
        rate = done / max(1e-9, time.monotonic() - self._started_s)
        left = f", {duration(max(0.0, self._total_mp - done) / rate)} left" if rate > 0 else ""
        return f"{done:.1f} of {max(self._total_mp, done):.1f} MP, {rate:.2f} MP/s{left}"

    def say(self, text: str) -> None:
        """Print a line above the moving one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Take the moving line away, so that other text can be printed."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, text: str) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[pace]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._live.add_task(text, total=self._total_mp, pace="")
            self._live.start()
        done = self._done_mp + self._image_mp
        self._live.update(self._task, description=text, completed=done, total=self._total_mp, pace=self.line())
