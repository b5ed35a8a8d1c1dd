"""Image files of every hard kind, made by other libraries or byte by byte, and readers that are not mlkit's."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 20, 31
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="1" dc:title="A"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\x00\x05title"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def levels(channels: int, dtype: Any = np.uint16, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return random levels over the whole range, with both ends in them."""
    top = np.iinfo(dtype).max
    made = np.random.default_rng(channels).integers(0, top, (height, width, channels), dtype=dtype, endpoint=True)
    made[0, 0], made[0, 1] = 0, top
    return made


def profile(space: str) -> bytes:
    """Return a colour profile that is not sRGB: "RGB" or "GRAY"."""
    return imagecodecs.cms_profile("adobergb" if space == "RGB" else "gray", gamma=None if space == "RGB" else 1.8)


def exif(orientation: int = 1, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Return an EXIF block as Pillow writes it: camera, exposure, maker note, place."""
    made = Image.Exif()
    made[0x010F], made[0x0110], made[0x0112], made[0x8298] = "Camera AG", "X-1", orientation, "(c) somebody"
    inner = made.get_ifd(0x8769)
    inner[0x829A], inner[0x9003] = 0.01, "2020:01:02 03:04:05"
    inner[0x927C], inner[0xA002], inner[0xA003] = b"MAKER\0\1\2\xff" * 5, width, height
    place = made.get_ifd(0x8825)
    place[1], place[2] = "N", (48.0, 8.0, 11.5)
    return made.tobytes().removeprefix(b"Exif\0\0")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(content: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with chunks behind its header."""
    assert content.startswith(SIGNATURE)
    end_of_header = 8 + 12 + 13
    return content[:end_of_header] + b"".join(chunks) + content[end_of_header:]


def dressed_png(values: np.ndarray, space: str) -> bytes:
    """Return a PNG with profile, EXIF, XMP and 300 dpi."""
    content = imagecodecs.png_encode(values[..., 0] if values.shape[2] == 1 else values)
    return png_with(
        content,
        chunk(b"iCCP", b"a profile\0\0" + zlib.compress(profile(space))),
        chunk(b"eXIf", exif()),
        chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    )


def _png16_rgb(path: Path) -> None:
    path.write_bytes(dressed_png(levels(3), "RGB"))


def _png16_grey_alpha(path: Path) -> None:
    path.write_bytes(dressed_png(levels(2), "GRAY"))


def _png8_rgba(path: Path) -> None:
    path.write_bytes(dressed_png(levels(4, np.uint8), "RGB"))


def _png_grey(path: Path) -> None:
    Image.fromarray(levels(1, np.uint8)[..., 0]).save(path, dpi=(72, 72))


def _png_palette(path: Path) -> None:
    picture = Image.fromarray(levels(3, np.uint8)).quantize(16)
    picture.save(path, transparency=bytes([0, 128, 255, 7]))


def _png_1_bit(path: Path) -> None:
    Image.fromarray(levels(1, np.uint8)[..., 0] > 99).save(path)


def _png_4_bit_interlaced(path: Path) -> None:
    # the seven passes of Adam7, each with its own rows (ISO/IEC 15948, section 8.2)
    values = levels(1, np.uint8)[..., 0] >> 4
    raw = b""
    for top, left, down, right in (
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
    ):  # fmt: skip
        for row in values[top::down, left::right]:
            even = np.append(row, np.uint8(0)) if len(row) % 2 else row
            raw += b"\0" + (even[::2] << 4 | even[1::2]).tobytes()
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 0, 0, 0, 1)
    path.write_bytes(SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def _tiff16_rgb(path: Path) -> None:
    tifffile.imwrite(
        path, levels(3), photometric="rgb", iccprofile=profile("RGB"), resolution=(300, 300), resolutionunit="INCH",
        compression="lzw", predictor=True, metadata=None, software="Camera AG",
        extratags=[(271, 2, 0, "Camera AG", True), (33432, 2, 0, "(c) somebody", True), (700, 1, len(XMP), XMP, True)],
    )  # fmt: skip


def _tiff8_exif(path: Path) -> None:
    Image.fromarray(levels(3, np.uint8)).save(path, exif=exif(), dpi=(254, 254), icc_profile=profile("RGB"))


def _tiff16_big_endian_planar_tiled(path: Path) -> None:
    tifffile.imwrite(
        path, np.moveaxis(levels(3), 2, 0), photometric="rgb", planarconfig="separate", tile=(16, 16), byteorder=">",
        metadata=None, software=False, resolution=(118.11, 118.11), resolutionunit="CENTIMETER",
    )  # fmt: skip


def _tiff_float(path: Path) -> None:
    tifffile.imwrite(
        path, np.random.default_rng(0).random((HEIGHT, WIDTH, 3), dtype=np.float32), photometric="rgb", metadata=None,
        software=False, iccprofile=profile("RGB"),
    )  # fmt: skip


def _tiff16_alpha(path: Path) -> None:
    tifffile.imwrite(path, levels(4), photometric="rgb", extrasamples=["unassalpha"], metadata=None, software=False)


def _tiff16_associated(path: Path) -> None:
    values = levels(4)
    values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["assocalpha"], metadata=None, software=False)


def _tiff_palette(path: Path) -> None:
    Image.fromarray(levels(3, np.uint8)).quantize(16).save(path)


def _jpeg(path: Path) -> None:
    Image.fromarray(levels(3, np.uint8)).save(
        path, quality=90, exif=b"Exif\0\0" + exif(), icc_profile=profile("RGB"), dpi=(300, 300), xmp=XMP, comment="hi"
    )


def _jpeg_grey(path: Path) -> None:
    Image.fromarray(levels(1, np.uint8)[..., 0]).save(path, icc_profile=profile("GRAY"))


def _webp_alpha(path: Path) -> None:
    Image.fromarray(levels(4, np.uint8)).save(
        path, lossless=True, exact=True, exif=exif(), icc_profile=profile("RGB"), xmp=XMP
    )


def _bmp(path: Path) -> None:
    Image.fromarray(levels(3, np.uint8)).save(path, dpi=(300, 300))


# name of the file: (maker, what it has that some format cannot hold)
SOURCES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "16-bit rgb.png": (_png16_rgb, {"16", "icc", "exif", "xmp"}),
    "16-bit grey alpha.png": (_png16_grey_alpha, {"16", "grey", "alpha", "icc", "exif", "xmp"}),
    "8-bit rgba.png": (_png8_rgba, {"alpha", "icc", "exif", "xmp"}),
    "grey.png": (_png_grey, {"grey"}),
    "palette.png": (_png_palette, {"alpha"}),
    "one bit.png": (_png_1_bit, {"grey"}),
    "interlaced.png": (_png_4_bit_interlaced, {"grey"}),
    "16-bit rgb.tif": (_tiff16_rgb, {"16", "icc", "exif", "xmp"}),
    "8-bit exif.tiff": (_tiff8_exif, {"icc", "exif"}),
    "big endian.tif": (_tiff16_big_endian_planar_tiled, {"16"}),
    "float.tif": (_tiff_float, {"float", "icc"}),
    "16-bit alpha.tif": (_tiff16_alpha, {"16", "alpha"}),
    "16-bit associated.tif": (_tiff16_associated, {"16", "alpha"}),
    "palette.tif": (_tiff_palette, set()),
    "photo.jpg": (_jpeg, {"icc", "exif", "xmp", "comment"}),
    "grey.jpg": (_jpeg_grey, {"grey", "icc"}),
    "alpha.webp": (_webp_alpha, {"alpha", "icc", "exif", "xmp"}),
    "bitmap.bmp": (_bmp, set()),
}
TARGETS = (".png", ".tif", ".webp", ".jpg", ".bmp")


def gdal_pixels(path: Path) -> np.ndarray:
    """Return [H, W, S] as GDAL reads PNG and TIFF: every depth, palettes as indices."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as opened:
            return np.moveaxis(opened.read(), 0, 2)


def seen(path: Path) -> np.ndarray:
    """Return [H, W, 4] float64 in [0, 1] as another reader shows the file: RGB, not weighted by alpha, and alpha."""
    if not _is_deep(path):
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA")) / 255.0
    values = gdal_pixels(path)
    values = values / (1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max))
    has_alpha = values.shape[2] in (2, 4)
    colors, alpha = (values[..., :-1], values[..., -1:]) if has_alpha else (values, np.ones_like(values[..., :1]))
    return np.concatenate([np.broadcast_to(colors, (*colors.shape[:2], 3)), alpha], axis=2)


def _is_deep(path: Path) -> bool:
    """Return whether a PNG or TIFF has more than 8 bits, which Pillow would not show."""
    if path.suffix == ".png":
        return path.read_bytes()[24] == 16
    if path.suffix.startswith(".tif"):
        with tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].bitspersample > 8
    return False


def carried(path: Path) -> dict[str, Any]:
    """Return what another reader finds besides the pixels: profile, XMP, EXIF by directory, dpi."""
    tags, info = Image.Exif(), {}
    if path.suffix.startswith(".tif"):
        tags.load(path.read_bytes())  # a TIFF is what an EXIF block looks like
        info = {"icc_profile": tags.get(34675), "xmp": tags.get(700)}
    else:
        with Image.open(path) as picture:
            tags, info = picture.getexif(), dict(picture.info)
            if picture.format == "JPEG" and not info.get("jfif_unit"):
                info.pop("dpi", None)  # Pillow's own idea
    dpi = info.get("dpi")
    if dpi is None and 282 in tags and tags.get(296, 2) != 1:
        per_inch = 2.54 if tags.get(296) == 3 else 1
        dpi = (float(tags[282]) * per_inch, float(tags[283]) * per_inch)
    return {
        "icc": info.get("icc_profile"),
        "dpi": tuple(float(value) for value in dpi) if dpi else None,
        "xmp": info.get("xmp"),
        "first": {tag: tags[tag] for tag in (0x010F, 0x0110, 0x8298) if tag in tags},
        "exif": dict(tags.get_ifd(0x8769)),
        "place": dict(tags.get_ifd(0x8825)),
    }
