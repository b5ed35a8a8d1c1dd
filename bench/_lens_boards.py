"""Chessboards that a real camera bent: how straight their lines are, before and after, beside OpenCV's calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mlkit.imaging.images import open_image
from mlkit.metrics.geometry import WIDTH_PX, bend
from mlkit.tasks.lens.corrector import Corrector

BEFORE, BOUND = "before", "OpenCV, calibrated with all boards"
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
    return {name: corners for name, corners in found.items() if sizes[name] == common}, common


def bends_px(corners: Points, width: int) -> float:
    """Return the mean bend of a board's rows and columns, in px at 1000 px width."""
    lines = corners.reshape(CORNERS[1], CORNERS[0], 2)
    bent = np.concatenate((bend(lines), bend(lines.transpose(1, 0, 2))))
    return float(bent.mean() * WIDTH_PX / width)


def opencv_undistorted(boards: Mapping[str, Points], size: tuple[int, int]) -> dict[str, Points]:
    """Return the corners undone by a calibration with all boards: what a known target and 20 photographs can do."""
    import cv2

    plane = np.zeros((CORNERS[0] * CORNERS[1], 3), np.float32)
    plane[:, :2] = np.mgrid[: CORNERS[0], : CORNERS[1]].T.reshape(-1, 2)
    points = [corners.astype(np.float32)[:, None] for corners in boards.values()]
    _, camera, terms, *_ = cv2.calibrateCamera([plane] * len(points), points, size, None, None)
    return {
        name: cv2.undistortPoints(corners[:, None], camera, terms, P=camera).reshape(-1, 2)
        for name, corners in boards.items()
    }


def corrected(corrector: Corrector, path: Path, corners: Points) -> Points:
    """Return where the corrector moves a photograph's corners to: the fixed point of its backward map."""
    correction = corrector(open_image(path).pixels)
    half_width, half_height = (float(value) for value in correction.frame[0])
    image = open_image(path).pixels
    size = torch.tensor([image.shape[1], image.shape[0]], dtype=torch.float32)
    target = (2 * (torch.from_numpy(corners).float() + 0.5) / size - 1)[None, None]
    place = target.clone()
    for _ in range(60):
        place = place + (target - correction.at(place))
    assert float((correction.at(place) - target).abs().max()) < 1e-4, f"{half_width} x {half_height}: no fixed point"
    return (((place[0, 0] + 1) * size) / 2 - 0.5).double().numpy()


def board_rows(
    folder: Path, correctors: Mapping[str, Corrector], say: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Return the bend of each board by way."""
    paths = {path.stem: path for path in folder.glob("calibration*.jpg")}
    boards, size = found_boards(list(paths.values()))
    say(f"{len(boards)} of {len(paths)} chessboards of {size[0]} x {size[1]} px are found whole")
    ways: dict[str, dict[str, Points]] = {BEFORE: boards, BOUND: opencv_undistorted(boards, size)}
    for name, corrector in correctors.items():
        ways[name] = {board: corrected(corrector, paths[board], corners) for board, corners in boards.items()}
    return {
        way: {board: bends_px(corners, size[0]) for board, corners in by_board.items()}
        for way, by_board in ways.items()
    }
