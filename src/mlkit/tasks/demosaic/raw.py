"""Camera RAW files through LibRaw: the mosaic as it was measured, and what turns it into a picture.

Values are linear: 0 is black, 1 is the sensor's saturation, before white balance. They are never clipped: noise goes
below 0, some cameras' highlights above 1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError
from mlkit.imaging.light import XYZ_TO_SRGB
from mlkit.tasks.demosaic import libraw
from mlkit.tasks.demosaic.dng import write_cfa_dng
from mlkit.tasks.demosaic.rawfile import camera_of_exif, examine
from mlkit.tasks.demosaic.xtrans import PERIOD, Phase, phase_of

RAW_SUFFIXES = libraw.RAW_SUFFIXES
# LibRaw's interpolation of X-Trans works in tiles and answers smaller frames with an error.
SMALLEST_PX = 640

# On X-Trans: bilinear, variable number of gradients, and Frank Markesteijn's of one and of three passes, to which
# LibRaw's default, AHD, DHT, DCB and AAHD all lead. On Bayer: bilinear, VNG, PPG and AHD.
Algorithm = Literal["linear", "vng", "1-pass", "3-pass"]
_ALGORITHMS: dict[Algorithm, str] = {"linear": "LINEAR", "vng": "VNG", "1-pass": "PPG", "3-pass": "AHD"}

_ORIENTATIONS = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}  # LibRaw's flip to EXIF's orientation
_RGB = {ord("R"): 0, ord("G"): 1, ord("B"): 2}

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A RAW file's mosaic with what turns it into a picture.

    path: the file.
    camera: maker and model, as "FUJIFILM X-T2"; "unknown camera" where the file has none.
    mosaic_hw: the visible area, (raw - black of the site) / (white - black), not clipped.
    pattern: the colour filter from the top-left pixel of `mosaic_hw` on, 6 x 6 or 2 x 2; R 0, G 1, B 2.
    wb: the camera's white balance as multipliers of R, G and B with G = 1; (1, 1, 1) where the file has none.
    camera_to_srgb: [3, 3] from white-balanced camera RGB to linear sRGB; its rows sum to 1, so grey stays grey.
    orientation: EXIF's, 1 to 8; the mosaic is as the sensor lies, not turned.
    exif: an EXIF block (a TIFF without a picture), or None.
    notes: what the file lacks and what was taken instead, as phrases to show.
    black, white: the file's levels; black is the mean over the sites.
    daylight: as `wb`, for light of 6500 K; (1, 1, 1) where unknown.
    """

    path: Path
    camera: str
    mosaic_hw: Floats
    pattern: NDArray[np.uint8]
    wb: tuple[float, float, float]
    camera_to_srgb: Matrix
    orientation: int = 1
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    black: float = 0.0
    white: float = 65535.0
    daylight: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def is_xtrans(self) -> bool:
        """Return whether the filter is of 6 x 6 sites."""
        return self.pattern.shape == (PERIOD, PERIOD)

    @property
    def xyz_to_camera(self) -> Matrix:
        """Return [3, 3] from XYZ to camera RGB before white balance: the colour matrix of a DNG, for D65."""
        from_srgb: Matrix = np.linalg.inv(self.camera_to_srgb) / np.array(self.daylight)[:, None]
        return from_srgb @ XYZ_TO_SRGB

    @property
    def phase(self) -> Phase:
        """Return the phase of the top-left pixel of `mosaic_hw`.

        Raises:
            DataError: when the filter is no X-Trans one.
        """
        if not self.is_xtrans:
            rows, columns = self.pattern.shape
            raise DataError(
                f"{self.path} is a Bayer file ({self.camera}, {rows} x {columns} filter), and this model is for "
                "X-Trans; develop it with LibRaw or any raw converter, or give files of a Fujifilm X camera"
            )
        try:
            return phase_of(self.pattern)
        except DataError as error:
            raise DataError(f"{self.path} ({self.camera}): {error}") from None


def read_raw(path: Path) -> RawFrame:
    """Return the mosaic of a RAW file.

    Raises:
        DataError: when it is missing, empty, cut off, no RAW file, or has no colour filter of red, green and blue.
    """
    file = examine(path)
    with libraw.opened(path) as raw:
        sites, _ = libraw.sites(path, raw, file)
        black_hw, black, white = libraw.levels(path, raw, sites, file)
        visible = raw.raw_image_visible
        if black > 0 and not visible[-1].any():
            raise DataError(
                f"RAW file {path} is damaged: its last row was never written; copy it from the camera again"
            )
        mosaic_hw = np.empty(visible.shape, np.float32)
        rows, columns = black_hw.shape
        for row in range(rows):  # site by site, so that no second array of the frame's size is made
            for column in range(columns):
                levels = visible[row::rows, column::columns].astype(np.float32)
                levels -= np.float32(black_hw[row, column])
                mosaic_hw[row::rows, column::columns] = levels / np.float32(white - black)
        notes: list[str] = []
        camera_to_srgb, daylight = libraw.colors(raw, file, notes)
        wb = libraw.multipliers(raw.camera_whitebalance)
        if wb is None:
            notes.append("no white balance of the camera (none is applied)")
        exif = file.exif if file.exif is not None else libraw.exif_of_preview(raw)
        return RawFrame(
            path=path,
            camera=file.camera or camera_of_exif(exif) or "unknown camera",
            mosaic_hw=mosaic_hw,
            pattern=np.array([[_RGB[raw.color_desc[site]] for site in line] for line in sites], np.uint8),
            wb=wb or (1.0, 1.0, 1.0),
            camera_to_srgb=camera_to_srgb,
            orientation=_ORIENTATIONS.get(raw.sizes.flip, 1),
            exif=exif,
            notes=tuple(notes),
            black=black,
            white=white,
            daylight=daylight,
        )


def libraw_rgb(path: Path, algorithm: Algorithm = "3-pass") -> Floats:
    """Return [H, W, 3] linear camera RGB of LibRaw's own interpolation, in the scale of `RawFrame.mosaic_hw`.

    It is not turned. LibRaw cuts values below black to 0 before it interpolates. It gets the mosaic white-balanced, as
    when it develops a file (without, its interpolation loses some 3 dB); what is returned is not balanced.

    Args:
        path: a RAW file of at least 640 px a side.
        algorithm: which of LibRaw's interpolations.

    Raises:
        DataError: as `read_raw`, and when the frame is too small.
    """
    import rawpy

    file = examine(path)
    with libraw.opened(path) as raw:
        sites, known = libraw.sites(path, raw, file)
        black_hw, black, white = libraw.levels(path, raw, sites, file)
        visible = raw.raw_image_visible
        height, width = visible.shape
        if min(height, width) < SMALLEST_PX:
            raise DataError(
                f"LibRaw does not interpolate {path} of {width} x {height} px; it takes {SMALLEST_PX} px a side or more"
            )
        if not known:
            frame = read_raw(path)
            return libraw_mosaic(frame.mosaic_hw, frame.pattern, algorithm, wb=frame.wb)
        rows, columns = black_hw.shape
        across = (rows // len(sites), columns // len(sites))
        told = np.tile(np.array(raw.black_level_per_channel, np.float64)[sites], across)
        color = np.tile([[_RGB[raw.color_desc[site]] for site in line] for line in sites], across)
        parts = {at: visible[at[0] :: rows, at[1] :: columns] for at in np.ndindex(rows, columns)}
        wb = np.array(libraw.multipliers(raw.camera_whitebalance) or (1.0, 1.0, 1.0))
        if (wb != 1).any():  # by a power of two, so that 16 bits are used up
            top = max((float(part.max()) - black_hw[at]) * wb[color[at]] for at, part in parts.items())
            wb *= 2.0 ** np.floor(np.log2((65535 - told.max()) / max(top, 1.0)))
        for at, part in parts.items():  # `told` is what LibRaw itself will take off
            part[...] = np.clip(np.rint((part - black_hw[at]) * wb[color[at]] + told[at]), 0, 65535)
        made = raw.postprocess(
            demosaic_algorithm=rawpy.DemosaicAlgorithm[_ALGORITHMS[algorithm]],
            output_color=rawpy.ColorSpace.raw,
            output_bps=16,
            gamma=(1, 1),
            user_wb=[1, 1, 1, 1],
            user_flip=0,
            no_auto_bright=True,
            no_auto_scale=True,  # the gain would depend on the picture, and cut what is above white
            adjust_maximum_thr=0.0,
        )
    result: Floats = made.astype(np.float32)
    result /= (wb * (white - black)).astype(np.float32)
    return result


def libraw_mosaic(
    mosaic_hw: Floats,
    pattern: NDArray[np.uint8],
    algorithm: Algorithm = "3-pass",
    *,
    wb: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Floats:
    """Return [H, W, 3]: LibRaw's interpolation of a mosaic of any size, through a temporary DNG of 16 bits.

    Small mosaics are mirrored out at the right and bottom, about sites that keep the pattern. Values below 0
    become 0; those above 1 are kept. `wb` balances the mosaic while it is interpolated.
    """
    height, width = mosaic_hw.shape
    top = max(1.0, float(mosaic_hw.max()))
    # 16-bit levels, of which white is the most where nothing is above it.
    white = int(65535 / top)
    levels = np.clip(np.round(mosaic_hw * np.float32(white)), 0, 65535).astype(np.uint16)
    levels = levels[_mirrored_out(height, pattern)][:, _mirrored_out(width, pattern.T)]
    with tempfile.TemporaryDirectory(prefix="mlkit-") as folder:
        path = Path(folder) / "mosaic.dng"
        write_cfa_dng(path, levels, pattern, white=white, wb=wb)
        return np.ascontiguousarray(libraw_rgb(path, algorithm)[:height, :width])


def _mirrored_out(size: int, pattern: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return which rows to take so that at least 640 follow the pattern.

    It is mirrored to and fro between the first and the last row about which the pattern is symmetric: the middle ones
    of X-Trans' cells of three, any of Bayer.
    """
    steps = np.arange(len(pattern))
    centers = [
        row
        for row in range(size)
        if np.array_equal(pattern[(row + steps) % len(pattern)], pattern[(row - steps) % len(pattern)])
    ]
    if size >= SMALLEST_PX:
        return np.arange(size)
    if len(centers) < 2:
        raise DataError(f"a mosaic of {size} px a side is too small for LibRaw; it takes {PERIOD} px or more")
    first, last = centers[0], centers[-1]
    beyond = (np.arange(size, SMALLEST_PX) - first) % (2 * (last - first))
    return np.concatenate([np.arange(size), first + np.minimum(beyond, 2 * (last - first) - beyond)])
