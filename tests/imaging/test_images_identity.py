"""Read and written again, an image is the same in pixels and all else, or what is not is named: every pair of formats.

The files are made, and judged, by Pillow, tifffile and GDAL.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from imagefiles import SOURCES, TARGETS, carried, gdal_pixels, seen
from mlkit.errors import DataError
from mlkit.imaging.images import open_image, write_image

# What a format cannot hold, and the word that tells it.
CANNOT = {
    ".png": {"float"},
    ".tif": {"comment"},
    ".webp": {"float", "16", "grey", "comment"},
    ".jpg": {"float", "16", "alpha"},
    ".bmp": {"float", "16", "alpha", "icc", "exif", "xmp", "comment"},
}
WORDS = {
    "float": "float pixels",
    "16": "16-bit pixels",
    "alpha": "transparency",
    "grey": "grey",
    "icc": "colour profile",
    "exif": "EXIF",
    "xmp": "XMP",
    "comment": "text (Comment)",
    "exact": "exact pixels",
}
PAIRS = [(source, target) for source in SOURCES for target in TARGETS]


def made(folder: Path, name: str) -> Path:
    path = folder / name
    SOURCES[name][0](path)
    return path


def expected_losses(name: str, target: str) -> set[str]:
    losses = SOURCES[name][1] & CANNOT[target]
    if target == ".jpg" and not name.endswith(".jpg"):
        losses |= {"exact"}
    if target == ".webp" and {"grey", "icc"} <= SOURCES[name][1]:
        losses |= {"icc"}  # of grey, which would be wrong for three channels
    return losses


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_what_is_read_is_written(tmp_path: Path, name: str, target: str) -> None:
    source, written = made(tmp_path, name), tmp_path / f"out - {Path(name).stem}{target}"
    warnings = write_image(written, open_image(source))
    losses = expected_losses(name, target)
    assert len(warnings) == bool(losses)
    told = warnings[0].removeprefix(str(written)) if warnings else ""
    assert {key for key, word in WORDS.items() if word in told} == losses, told

    before, after = seen(source), seen(written)
    if name == "16-bit associated.tif" and target != ".tif":  # a straight format: the weight is taken off
        alpha = before[..., 3:]
        before[..., :3] = np.divide(before[..., :3], alpha, out=np.zeros_like(before[..., :3]), where=alpha > 0)
    if "alpha" in losses:
        before = np.concatenate([1 - (1 - before[..., :3]) * before[..., 3:], np.ones_like(before[..., 3:])], axis=2)
    if target == ".jpg":
        assert np.abs(before - after).mean() < (0.03 if name.endswith("jpg") else 0.08)  # of noise, at quality 95
    elif losses & {"16", "float", "alpha"}:
        top = 65535 if target == ".png" else 255
        assert np.abs(before - after).max() <= 0.5 / top + 1e-7
    else:
        assert np.abs(before - after).max() <= (1e-7 if "associated" not in name else 0.5 / 65535 + 1e-7)
    was, now = carried(source), carried(written)
    assert now["dpi"] == (None if was["dpi"] is None else pytest.approx(was["dpi"], abs=0.0127))  # px per metre
    for key in ("icc", "xmp"):
        assert now[key] == (None if key in losses else was[key])
    for key in ("first", "exif", "place"):
        assert now[key] == ({} if "exif" in losses else was[key])


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("target", [".png", ".tif"])
def test_levels_are_the_same_to_the_bit_and_have_the_same_type(tmp_path: Path, name: str, target: str) -> None:
    source, written = made(tmp_path, name), tmp_path / f"out{target}"
    if name.startswith(("palette", "one", "interlaced")) or not name.endswith((".png", ".tif", ".tiff")):
        with Pillow.open(source) as picture:
            has_alpha = picture.mode == "RGBA" or "transparency" in picture.info
            mode = {"1": "L", "L": "L"}.get(picture.mode, "RGBA" if has_alpha else "RGB")
            before = np.asarray(picture.convert(mode))
            before = before if before.ndim == 3 else before[..., None]
    else:
        before = gdal_pixels(source)
    write_image(written, open_image(source))
    after = gdal_pixels(written)
    if before.dtype.kind == "f" and target == ".png":
        before = np.rint(before * 65535).astype(np.uint16)
    if "associated" in name and target == ".png":
        return  # other levels, since they mean something else there
    assert after.dtype == before.dtype and np.array_equal(after, before)


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_strict_refuses_exactly_what_is_named_and_writes_nothing(tmp_path: Path, name: str, target: str) -> None:
    image, written = open_image(made(tmp_path, name)), tmp_path / "out" / f"a{target}"
    if expected_losses(name, target):
        with pytest.raises(DataError, match=rf"a\{target} does not hold .* \(--strict\)$"):
            write_image(written, image, strict=True)
        assert not written.parent.exists()
    else:
        assert write_image(written, image, strict=True) == [] and written.exists()


@pytest.mark.parametrize("first", [".png", ".tif"])
@pytest.mark.parametrize("name", SOURCES)
def test_reading_what_was_written_gives_the_same_image(tmp_path: Path, name: str, first: str) -> None:
    image = open_image(made(tmp_path, name))
    if image.depth == 32 and first == ".png":
        return
    write_image(tmp_path / f"out{first}", image)
    again = open_image(tmp_path / f"out{first}")
    assert np.array_equal(again.pixels, image.pixels) or image.associated
    assert (again.alpha is None) == (image.alpha is None) and again.depth == image.depth and again.losses == ()
    if image.alpha is not None:
        assert np.array_equal(again.alpha, image.alpha)
    text = image.metadata.text if first == ".png" else ()
    dpi = None if image.metadata.dpi is None else pytest.approx(image.metadata.dpi, abs=0.0127)
    assert again.metadata.dpi == dpi and again.metadata.text == text
    assert replace(again.metadata, dpi=None, exif=None) == replace(image.metadata, dpi=None, exif=None, text=text)


def test_all_that_is_lost_is_one_sentence_that_says_what_would_hold_it(tmp_path: Path) -> None:
    image = open_image(made(tmp_path, "16-bit grey alpha.png"))
    (sentence,) = write_image(tmp_path / "a.jpg", image, quality=80)
    assert sentence == (
        f"{tmp_path / 'a.jpg'} does not hold 16-bit pixels (rounded to 8 bits), transparency (laid over white), "
        "exact pixels (compressed at quality 80); .png or .tif would"
    )
