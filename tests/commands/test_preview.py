"""Claims of commands/preview.py: a picture in half blocks, and a pace that adds up."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from mlkit.commands import preview
from mlkit.commands.preview import Pace, half_blocks, shows_pictures


def printed(image: np.ndarray, columns: int, lines: int) -> list[str]:
    """Return the lines that a terminal of true colours gets."""
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=True, color_system="truecolor", width=200, legacy_windows=False)
    console.print(half_blocks(image, columns, lines), end="")
    return buffer.getvalue().splitlines()


def test_each_character_is_two_pixels_one_above_the_other() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 3))
    lines = printed((levels / 255).astype(np.float32), columns=5, lines=3)
    assert len(lines) == 3
    for row, line in enumerate(lines):
        colours = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m\u2580", line)
        assert [[int(value) for value in pixel] for pixel in colours] == [
            [*levels[2 * row, column], *levels[2 * row + 1, column]] for column in range(5)
        ]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((400, 800), (20, 40)), ((800, 400), (32, 16)), ((10, 12), (10, 12)), ((300, 300), (32, 32)), ((9, 9), (8, 9))],
)
def test_pictures_fit_and_keep_their_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    lines = half_blocks(np.full((*size, 3), 0.5, np.float32), columns=40, lines=16).plain.splitlines()
    assert (2 * len(lines), len(lines[0])) == expected


def test_colours_beyond_the_range_are_cut() -> None:
    image = np.stack([np.full((2, 2), value, np.float32) for value in (-0.2, 1.3, 0.5)], axis=2)
    assert "38;2;0;255;128;48;2;0;255;128m" in printed(image, 2, 1)[0]


@pytest.mark.parametrize("hidden_by", ["pipe", "NO_COLOR", "CI", "TERM"])
def test_pictures_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch, hidden_by: str) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return hidden_by != "pipe"

    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    if hidden_by == "pipe":
        assert not shows_pictures()
        return
    assert shows_pictures()
    monkeypatch.setenv(hidden_by, "dumb")
    assert not shows_pictures()


def test_the_pace_counts_megapixels_and_tells_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr(preview.time, "monotonic", lambda: now_s)
    pace = Pace(12.0)
    now_s = 107.0
    pace.begin()  # seven seconds went by before
    now_s = 109.0
    pace.update("a.png", 1.0)
    assert pace.line() == "1.0 of 12.0 MP, 0.50 MP/s, 22.0 s left"
    assert capsys.readouterr().err == ""  # not yet: fifteen seconds between lines
    pace.update("a.png", 3.0)
    pace.end_image()
    now_s = 127.0
    pace.update("b.png", 2.0)
    assert capsys.readouterr().err == "b.png: 5.0 of 12.0 MP, 0.25 MP/s, 28.0 s left\n"
    pace.drop_image(6.0)  # it broke; it would have been six
    assert pace.line() == "3.0 of 6.0 MP, 0.15 MP/s, 20.0 s left"
    pace.close()
