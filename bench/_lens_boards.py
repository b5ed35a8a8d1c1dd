"""Chessboards that a real camera bent: how straight their lines are, before and after, beside OpenCV's calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.imaging.images import open_image
from mlkit.metrics.geometry import WIDTH_PX, bend
from mlkit.tasks.lens.corrector import Correction, Corrector, corrected_rows
from mlkit.tasks.lens.geometry import frame_of
from mlkit.tasks.lens.inputs import as_levels, said_by_lines
from mlkit.tasks.lens.settings import LensModel

BEFORE, BOUND, LINES = "before", "OpenCV, calibrated with all boards", "lines alone"
CORNERS = (9, 6)  # inner corners of a board, along and across

Points = np.ndarray  # float64 [54, 2], px


def found_boards(paths: Sequence[Path]) -> tuple[dict[str, Points], tuple[int, int]]:
    """Return the corners of each board that OpenCV finds whole, by name, and the photographs' most frequent size."""
    import cv2

    found, sizes = {}, {}
    end = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 60, 1e-4)
    for path in sorted(paths):
        grey = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)
        is_found, corners = cv2.findChessboardCorners(grey, CORNERS)
        if is_found:
            found[path.stem] = cv2.cornerSubPix(grey, corners, (7, 7), (-1, -1), end).reshape(-1, 2).astype(np.float64)
            sizes[path.stem] = (grey.shape[1], grey.shape[0])
    common = max(set(sizes.values()), key=list(sizes.values()).count)
    alike = (name for name, size in sizes.items() if max(abs(size[0] - common[0]), abs(size[1] - common[1])) <= 1)
    return {name: found[name] for name in alike}, common


def bends_px(corners: Points, width: int) -> float:
    """Return the mean bend of a board's rows and columns, in px at 1000 px width."""
    lines = corners.reshape(CORNERS[1], CORNERS[0], 2)
    bent = np.concatenate((bend(lines), bend(lines.transpose(1, 0, 2))))
    return float(bent.mean() * WIDTH_PX / width)


Camera = tuple[np.ndarray, np.ndarray]  # matrix, and OpenCV's coefficients


def calibrated(boards: Mapping[str, Points], size: tuple[int, int]) -> Camera:
    """Return OpenCV's calibration with all boards: what a known target and 20 photographs can do."""
    import cv2

    plane = np.zeros((CORNERS[0] * CORNERS[1], 3), np.float32)
    plane[:, :2] = np.mgrid[: CORNERS[0], : CORNERS[1]].T.reshape(-1, 2)
    points = [corners.astype(np.float32)[:, None] for corners in boards.values()]
    _, camera, terms, *_ = cv2.calibrateCamera([plane] * len(points), points, size, None, None)
    return camera, terms


def opencv_undistorted(boards: Mapping[str, Points], camera: Camera) -> dict[str, Points]:
    """Return the corners undone by a calibration."""
    import cv2

    matrix, terms = camera
    return {
        name: cv2.undistortPoints(corners[:, None], matrix, terms, P=matrix).reshape(-1, 2)
        for name, corners in boards.items()
    }


def by_lines(pixels: np.ndarray) -> Correction:
    """Return what straight lines alone say of a photograph."""
    height, width = pixels.shape[:2]
    frame = torch.tensor([frame_of(height, width)], dtype=torch.float32)
    said = said_by_lines(as_levels(pixels), frame[0], LensModel().sure)
    return Correction(said["lines_params"][None], None, frame)


def undone(correction: Correction, corners: Points, height: int, width: int) -> Points:
    """Return where a correction moves a photograph's corners to: the fixed point of its backward map."""
    size = torch.tensor([width, height], dtype=torch.float32)
    target = (2 * (torch.from_numpy(corners).float() + 0.5) / size - 1)[None, None]
    place = target.clone()
    for _ in range(60):
        place = place + (target - correction.at(place))
    assert float((correction.at(place) - target).abs().max()) < 1e-4, "no fixed point"
    return (((place[0, 0] + 1) * size) / 2 - 0.5).double().numpy()


def board_rows(
    folder: Path,
    correctors: Mapping[str, Corrector],
    *,
    picture: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Return the bend of each board by way, and draw some where asked."""
    paths = {path.stem: path for path in folder.glob("calibration*.jpg")}
    boards, size = found_boards(list(paths.values()))
    say(f"{len(boards)} of {len(paths)} chessboards of {size[0]} x {size[1]} px are found whole")
    camera = calibrated(boards, size)
    ways: dict[str, Callable[[np.ndarray], Correction]] = {LINES: by_lines, **correctors}
    corners = {BEFORE: boards, BOUND: opencv_undistorted(boards, camera), **{way: {} for way in ways}}
    corrections: dict[str, Correction] = {}  # of the last way
    for board, before in boards.items():
        pixels = open_image(paths[board]).pixels
        for way, correct in ways.items():
            corrections[board] = correct(pixels)
            corners[way][board] = undone(corrections[board], before, *pixels.shape[:2])
    rows = {
        way: {board: bends_px(points, size[0]) for board, points in by_board.items()}
        for way, by_board in corners.items()
    }
    if picture is not None:
        ordered = sorted(boards, key=lambda board: rows[BEFORE][board])
        shown = ordered[:-3:-1]  # the two most bent
        _draw({board: paths[board] for board in shown}, corners, rows, corrections, camera, list(ways)[-1], picture)
    return rows


def _draw(
    paths: Mapping[str, Path],
    corners: Mapping[str, Mapping[str, Points]],
    rows: Mapping[str, Mapping[str, float]],
    corrections: Mapping[str, Correction],
    camera: Camera,
    last: str,
    out: Path,
) -> None:
    """Write boards before, corrected, and by the calibration, with straight lines between the ends of their rows."""
    import cv2

    table = []
    for board, path in paths.items():
        before = open_image(path).pixels
        made = np.concatenate([part for _, part in corrected_rows(before, corrections[board])])
        pictures = {BEFORE: before, last: made, BOUND: np.clip(cv2.undistort(before, *camera), 0, 1)}
        titles = {BEFORE: "before", last: "corrected from this photograph alone", BOUND: BOUND}
        table.append(
            [
                Panel(titles[way], _with_lines(pixels, corners[way][board]), f"bend {rows[way][board]:.2f} px")
                for way, pixels in pictures.items()
            ]
        )
    write_png(
        out,
        comparison_grid(
            table, footer="red: straight lines between the outer corners; bend in px of a 1000 px wide picture"
        ),
    )


def _with_lines(pixels: np.ndarray, corners: Points) -> np.ndarray:
    """Return a picture at half its size with straight lines between the outer corners of its outer rows and columns."""
    levels = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    draw = ImageDraw.Draw(levels)
    board = corners.reshape(CORNERS[1], CORNERS[0], 2)
    for line in (board[0], board[-1], board[:, 0], board[:, -1]):
        draw.line([tuple(line[0]), tuple(line[-1])], fill=(255, 0, 0), width=2)
    return np.asarray(levels.reduce(2), np.float32) / np.float32(255)
