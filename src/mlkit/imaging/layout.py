"""Where each panel, title, note and colour bar of a comparison grid stands; called by `grids.comparison_grid` alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mlkit.imaging.grids import ColorScale, Panel, image_to_u8

# All in px of the finished picture; colours are sRGB.
MARGIN, GAP_X, GAP_Y = 28, 14, 22
PANEL_MIN, PANEL_MAX, PAGE_WIDTH = 192, 768, 2400
LABEL_MAX = 180
BAR_WIDTH, BAR_HEIGHT, BAR_GAP = 240, 12, 40
HEADING_SIZE, TITLE_SIZE, NOTE_SIZE, SMALL_SIZE = 22, 15, 13, 12
PAPER, FRAME = (250, 250, 251), (208, 211, 217)
INK, INK_SOFT = (31, 35, 40), (89, 96, 106)

# Pillow's own font has ASCII and little more; what it lacks would be drawn as an empty box.
PLAIN = str.maketrans({"\u00d7": "x", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00b5": "u", "\u03bc": "u"})


@dataclass(slots=True)
class Writer:
    """Measures, wraps and draws text."""

    draw: ImageDraw.ImageDraw
    fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = field(default_factory=dict)

    def font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        if size not in self.fonts:
            self.fonts[size] = ImageFont.load_default(size=size)
        return self.fonts[size]

    def width(self, text: str, size: int) -> int:
        return int(np.ceil(self.draw.textlength(text, font=self.font(size))))

    def wrap(self, text: str, size: int, width: int) -> list[str]:
        """Return lines no wider than `width`, broken at spaces and after "/" and "_"; a longer piece ends in "..."."""
        lines: list[str] = []
        for paragraph in _plain(text).split("\n") if text else []:
            line = ""
            for piece in re.split(r"(?<=[ /_])", paragraph):
                if line and self.width((line + piece).rstrip(), size) > width:
                    lines.append(self.cut(line.rstrip(), size, width))
                    line = ""
                line += piece
            lines.append(self.cut(line.rstrip(), size, width))
        return lines

    def cut(self, text: str, size: int, width: int) -> str:
        if self.width(text, size) <= width:
            return text
        while text and self.width(text + "...", size) > width:
            text = text[:-1]
        return text + "..."

    def write(self, lines: Sequence[str], x: int, y: int, size: int, color: tuple[int, int, int]) -> None:
        for index, line in enumerate(lines):
            self.draw.text((x, y + index * line_height(size)), line, font=self.font(size), fill=color)


@dataclass(slots=True)
class Cell:
    """One panel, ready to draw."""

    picture: Image.Image
    title: list[str]
    note: list[str]
    panel: Panel


def line_height(size: int) -> int:
    return round(size * 1.35)


def draw_grid(
    rows: Sequence[Sequence[Panel]], *, heading: str, labels: Sequence[str], footer: str
) -> NDArray[np.uint8]:
    """Return the picture; see `grids.comparison_grid`."""
    measure = Writer(ImageDraw.Draw(Image.new("RGB", (1, 1))))
    num_columns = max(len(row) for row in rows)

    # ---- sizes -----------------------------------------------------------------------------------------------
    limit = int(np.clip((PAGE_WIDTH - 2 * MARGIN) // num_columns - GAP_X, PANEL_MIN, PANEL_MAX))
    pictures = [_fit_row(row, limit) for row in rows]
    column_widths = [
        max(PANEL_MIN, *(row[column].width for row in pictures if column < len(row))) for column in range(num_columns)
    ]
    shared = [len({row[column].title for row in rows if column < len(row)}) == 1 for column in range(num_columns)]
    tops = [
        measure.wrap(next(row[column].title for row in rows if column < len(row)), TITLE_SIZE, column_widths[column])
        if shared[column]
        else []
        for column in range(num_columns)
    ]
    cells = [
        [
            Cell(
                picture,
                [] if shared[column] else measure.wrap(panel.title, TITLE_SIZE, column_widths[column]),
                measure.wrap(panel.note, NOTE_SIZE, column_widths[column]),
                panel,
            )
            for column, (panel, picture) in enumerate(zip(row, row_pictures, strict=True))
        ]
        for row, row_pictures in zip(rows, pictures, strict=True)
    ]
    label_lines = [measure.wrap(label, NOTE_SIZE, LABEL_MAX) for label in labels]
    label_width = max((measure.width(line, NOTE_SIZE) for lines in label_lines for line in lines), default=0)
    left = MARGIN + (label_width + GAP_X if label_width else 0)
    columns_x = [left + sum(column_widths[:column]) + GAP_X * column for column in range(num_columns)]
    content_right = columns_x[-1] + column_widths[-1]

    scales: dict[ColorScale, None] = {p.scale: None for row in rows for p in row if p.scale is not None}
    bar_rows = _place_bars(list(scales), left, max(content_right, left + BAR_WIDTH))
    bar_row_height = line_height(NOTE_SIZE) + BAR_HEIGHT + 5 + line_height(SMALL_SIZE)
    width = max(content_right, left + BAR_WIDTH if scales else 0) + MARGIN
    heading_lines = measure.wrap(heading, HEADING_SIZE, width - 2 * MARGIN)
    footer_lines = measure.wrap(footer, SMALL_SIZE, width - 2 * MARGIN)

    title_heights = [max(len(cell.title) for cell in row) * line_height(TITLE_SIZE) for row in cells]
    note_heights = [max(len(cell.note) for cell in row) * line_height(NOTE_SIZE) for row in cells]
    row_heights = [
        (title + 4 if title else 0) + max(cell.picture.height for cell in row) + (note + 5 if note else 0)
        for row, title, note in zip(cells, title_heights, note_heights, strict=True)
    ]
    heading_height = len(heading_lines) * line_height(HEADING_SIZE) + 12 if heading_lines else 0
    top_height = max(len(lines) for lines in tops) * line_height(TITLE_SIZE)
    height = (
        MARGIN + heading_height
        + (top_height + 4 if top_height else 0)
        + sum(row_heights) + GAP_Y * (len(rows) - 1)
        + (len(bar_rows) * (bar_row_height + GAP_Y) if scales else 0)
        + (GAP_Y + len(footer_lines) * line_height(SMALL_SIZE) if footer_lines else 0)
        + MARGIN
    )  # fmt: skip

    # ---- drawing ---------------------------------------------------------------------------------------------
    page = Image.new("RGB", (width, height), PAPER)
    writer = Writer(ImageDraw.Draw(page), measure.fonts)
    y = MARGIN
    writer.write(heading_lines, MARGIN, y, HEADING_SIZE, INK)
    y += heading_height
    for column_x, lines in zip(columns_x, tops, strict=True):
        free_lines = top_height // line_height(TITLE_SIZE) - len(lines)  # short titles stand on their picture
        writer.write(lines, column_x, y + free_lines * line_height(TITLE_SIZE), TITLE_SIZE, INK)
    y += top_height + 4 if top_height else 0
    for index, row in enumerate(cells):
        picture_y = y + (title_heights[index] + 4 if title_heights[index] else 0)
        picture_height = max(cell.picture.height for cell in row)
        if label_lines:
            lines = label_lines[index]
            label_y = picture_y + (picture_height - len(lines) * line_height(NOTE_SIZE)) // 2
            writer.write(lines, MARGIN, label_y, NOTE_SIZE, INK)
        for column_x, cell in zip(columns_x, row, strict=False):
            writer.write(cell.title, column_x, y, TITLE_SIZE, INK)
            _frame(page, cell.picture, column_x, picture_y)
            writer.write(cell.note, column_x, picture_y + cell.picture.height + 5, NOTE_SIZE, INK_SOFT)
        y += row_heights[index] + GAP_Y
    for bars in bar_rows:
        for bar_x, scale in bars:
            _draw_bar(page, writer, scale, bar_x, y)
        y += bar_row_height + GAP_Y
    writer.write(footer_lines, MARGIN, y, SMALL_SIZE, INK_SOFT)
    return np.array(page, dtype=np.uint8)


def _fit_row(row: Sequence[Panel], limit: int) -> list[Image.Image]:
    """Return a row's pictures: the largest sets the size, the others come as near to it as a whole factor allows."""
    largest = max(row, key=lambda panel: max(panel.image_hwc.shape[:2])).image_hwc.shape
    aim = _shown_side(max(largest[:2]), limit)
    return [_fit(image_to_u8(panel.image_hwc), aim) for panel in row]


def _shown_side(side: int, limit: int) -> int:
    """Return the longer side as shown: a whole multiple of at least 192 px, or `limit` when it is larger."""
    return min(side * -(-PANEL_MIN // side), limit) if side < limit else limit


def _fit(image_u8: NDArray[np.uint8], aim: int) -> Image.Image:
    """Return the image with its longer side at `aim`, or at the largest whole multiple within it below 3 times."""
    height, width = image_u8.shape[:2]
    picture = Image.fromarray(image_u8)
    side = max(height, width)
    factor = aim // side
    if factor < 1 or (factor >= 3 and aim % side):
        # pixels that large may lose a part of one at their edges, for the sake of one size in a row
        whole = picture.resize((width * (factor + 1), height * (factor + 1)), Image.Resampling.NEAREST)
        size = (max(1, round(width * aim / side)), max(1, round(height * aim / side)))
        return whole.resize(size, Image.Resampling.BOX)
    return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def _frame(page: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    """Paste a picture with a hairline around it, so that white images do not melt into the paper."""
    outline = (x - 1, y - 1, x + picture.width, y + picture.height)
    ImageDraw.Draw(page).rectangle(outline, outline=FRAME)
    page.paste(picture, (x, y))


def _place_bars(scales: Sequence[ColorScale], left: int, right: int) -> list[list[tuple[int, ColorScale]]]:
    """Return the colour bars as rows of (x, scale) that fit between `left` and `right`."""
    per_row = max(1, (right - left + BAR_GAP) // (BAR_WIDTH + BAR_GAP))
    return [
        [(left + index * (BAR_WIDTH + BAR_GAP), scale) for index, scale in enumerate(scales[start : start + per_row])]
        for start in range(0, len(scales), per_row)
    ]


def _draw_bar(page: Image.Image, writer: Writer, scale: ColorScale, x: int, y: int) -> None:
    """Draw label, gradient, and the values at both ends and in the middle."""
    writer.write([writer.cut(_plain(scale.label), NOTE_SIZE, BAR_WIDTH)], x, y, NOTE_SIZE, INK)
    y += line_height(NOTE_SIZE)
    index = np.rint(np.linspace(0, len(scale.colors_rgb) - 1, BAR_WIDTH)).astype(np.intp)
    ramp = np.broadcast_to(scale.colors_rgb[index], (BAR_HEIGHT, BAR_WIDTH, 3))
    _frame(page, Image.fromarray(image_to_u8(ramp)), x, y)
    y += BAR_HEIGHT + 5
    span = scale.vmax - scale.vmin
    decimals = max(0, 2 - math.floor(math.log10(span)))  # three digits of the range, the same number for all
    for share in (0.0, 0.5, 1.0):
        text = f"{scale.vmin + share * span:.{decimals}f}"
        text_x = x + round(share * (BAR_WIDTH - writer.width(text, SMALL_SIZE)))
        writer.write([text], text_x, y, SMALL_SIZE, INK_SOFT)


def _plain(text: str) -> str:
    return text.translate(PLAIN).encode("ascii", errors="replace").decode("ascii")
