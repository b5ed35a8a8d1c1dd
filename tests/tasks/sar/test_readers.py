"""Claims of tasks/sar/readers.py and formats.py: kinds, masks, georeference, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.transform import Affine

from mlkit.errors import DataError
from mlkit.tasks.sar.readers import open_scenes, read_scene, read_scenes

SAR = Path(os.environ.get("MLKIT_SHARED_DATA", Path(__file__).parents[3] / "../shared/data")) / "sar"
real_data = pytest.mark.skipif(not SAR.is_dir(), reason=f"real SAR scenes are absent ({SAR}); set MLKIT_SHARED_DATA")


def geotiff(path: Path, values: np.ndarray, nodata: float | None = None, **profile: object) -> Path:
    """Write with rasterio, the independent implementation."""
    bands = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2], count=len(bands), dtype=bands.dtype,
        crs="EPSG:32633", transform=Affine(10, 0, 676780, 0, -10, 5394900), nodata=nodata, **profile,
    ) as raster:  # fmt: skip
        raster.write(bands)
    return path


def npy(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


rng = np.random.default_rng(5)
GAMMA = rng.gamma(4.0, 0.25, (40, 50)).astype(np.float32) + 0.01


# ---- what auto decides --------------------------------------------------------------------------------------------


def test_grd_digital_numbers_are_amplitudes(tmp_path: Path) -> None:
    dn = rng.integers(1, 60000, (32, 48), dtype=np.uint16)
    scene = read_scene(geotiff(tmp_path / "grd.tif", dn))
    assert scene.kind == "amplitude"
    assert "integers (uint16)" in scene.why
    np.testing.assert_allclose(scene.db_hw, 20 * np.log10(dn.astype(float)), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("scene.npy", GAMMA, "intensity"),
        ("scene_sigma0.npy", GAMMA, "intensity"),
        ("scene_amplitude.npy", GAMMA, "amplitude"),
        ("whole.npy", np.round(GAMMA * 300), "amplitude"),
        ("scene.npy", 10 * np.log10(GAMMA) - 12, "db"),
        ("Sigma0_VV_db.npy", 10 * np.log10(GAMMA) + 3, "db"),
        ("slc.npy", (GAMMA + 1j * GAMMA).astype(np.complex64), "slc"),
        # a word inside a word is no hint
        ("mudbank.npy", GAMMA, "intensity"),
        # thermal noise removal leaves some slightly negative intensities
        ("denoised.npy", np.where(rng.random(GAMMA.shape) < 0.05, -0.002, GAMMA).astype(np.float32), "intensity"),
        # named dB, but the values cannot be
        ("wrong_db.npy", GAMMA * 5000, "intensity"),
    ],
)
def test_auto_finds_the_kind(tmp_path: Path, name: str, values: np.ndarray, kind: str) -> None:
    scene = read_scene(npy(tmp_path / name, values))
    assert scene.kind == kind
    assert scene.why.startswith(f"{kind}, ")


def test_all_kinds_give_the_same_db(tmp_path: Path) -> None:
    expected = 10 * np.log10(GAMMA.astype(float))
    phase = np.exp(1j * rng.uniform(0, 6.28, GAMMA.shape))
    for name, values, kind in (
        ("i.npy", GAMMA, "intensity"),
        ("a.npy", np.sqrt(GAMMA), "amplitude"),
        ("d.npy", expected, "db"),
        ("s.npy", (np.sqrt(GAMMA) * phase).astype(np.complex64), "slc"),
    ):
        np.testing.assert_allclose(read_scene(npy(tmp_path / name, values), kind).db_hw, expected, atol=1e-4)


def test_covariance_gives_its_diagonal_as_images(tmp_path: Path) -> None:
    covariance = np.zeros((20, 30, 3, 3), np.complex64)
    for c in range(3):
        covariance[:, :, c, c] = GAMMA[:20, :30] * (c + 1)
    covariance[:, :, 0, 1] = 7 + 7j
    path = npy(tmp_path / "t3.npy", covariance)
    scenes = list(read_scenes(path))
    assert [scene.name for scene in scenes] == ["t3#0", "t3#1", "t3#2"]
    assert {scene.kind for scene in scenes} == {"intensity"}
    for c, scene in enumerate(scenes):
        np.testing.assert_allclose(scene.db_hw, 10 * np.log10(GAMMA[:20, :30].astype(float) * (c + 1)), atol=1e-4)
    np.testing.assert_array_equal(read_scene(f"{path}#2").db_hw, scenes[2].db_hw)
    with pytest.raises(DataError, match=r"holds 3 images \(t3#0, t3#1, t3#2\); name one: .*t3\.npy#0"):
        read_scene(path)
    with pytest.raises(DataError, match="has no channel #9"):
        read_scene(f"{path}#9")


def test_bands_of_a_geotiff_are_separate_images(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "vv_vh.tif", np.stack([GAMMA, GAMMA * 2]), interleave="band")
    first, second = read_scenes(path)
    np.testing.assert_allclose(second.db_hw - first.db_hw, 10 * np.log10(2), atol=1e-4)


# ---- masks --------------------------------------------------------------------------------------------------------


def test_zero_nan_and_negative_are_masked_and_counted(tmp_path: Path) -> None:
    values = GAMMA.copy()
    values[0, :5] = 0
    values[1, :4] = np.nan
    values[1, 4] = np.inf
    values[2, :3] = -0.1
    scene = read_scene(npy(tmp_path / "x.npy", values), "intensity")
    assert (scene.masked.nodata, scene.masked.nan, scene.masked.negative) == (5, 5, 3)
    assert np.isnan(scene.db_hw).sum() == 13
    assert np.nanmin(scene.db_hw) > -25  # never -100 dB for no-data


@pytest.mark.parametrize("nodata", [-9999.0, 0.0, -3.4028234663852886e38])
def test_the_files_own_nodata_value_is_masked(tmp_path: Path, nodata: float) -> None:
    db = (10 * np.log10(GAMMA) - 12).astype(np.float32)
    db[:7, :6] = nodata
    scene = read_scene(geotiff(tmp_path / "x.tif", db, nodata=nodata))
    assert scene.kind == "db"
    assert scene.masked.nodata == 42
    assert np.isnan(scene.db_hw[:7, :6]).all()


def test_a_nodata_value_outside_the_type_masks_nothing_else(tmp_path: Path) -> None:
    dn = np.full((20, 20), 55537, np.uint16)  # what -9999 becomes in 16 bits
    for name, values, nodata in (("u.tif", dn, "-9999"), ("f.tif", GAMMA, "-1.7976931348623157e+308")):
        tifffile.imwrite(tmp_path / name, values, extratags=[(42113, 2, 0, nodata, True)], metadata=None)
        assert read_scene(tmp_path / name).masked.total == 0
    low = GAMMA.copy()
    low[0, :4] = -np.inf
    tifffile.imwrite(
        tmp_path / "i.tif", low, extratags=[(42113, 2, 0, "-1.7976931348623157e+308", True)], metadata=None
    )
    assert read_scene(tmp_path / "i.tif").masked.nodata == 4


def test_an_unnamed_fill_of_db_values_is_masked_and_said(tmp_path: Path) -> None:
    db = 10 * np.log10(GAMMA) - 12
    db[:7, :6] = -100.0
    scene = read_scene(npy(tmp_path / "x_db.npy", db))
    assert scene.masked.nodata == 42
    assert "-100 dB" in scene.why


def test_a_scene_without_valid_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no valid pixel: 0 no-data, 100 NaN and 0 negative"):
        read_scene(npy(tmp_path / "x.npy", np.full((10, 10), np.nan)))
    with pytest.raises(DataError, match="has no valid pixel: 100 no-data"):
        read_scene(npy(tmp_path / "y.npy", np.zeros((10, 10), np.uint16)))


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_is_read_at_full_depth(tmp_path: Path, dtype: type) -> None:
    values = rng.integers(1, np.iinfo(dtype).max, (30, 20)).astype(dtype)
    path = tmp_path / "x.png"
    path.write_bytes(imagecodecs.png_encode(values))
    scene = read_scene(path)
    assert scene.kind == "amplitude"
    np.testing.assert_allclose(scene.db_hw, 20 * np.log10(values.astype(float)), atol=1e-4)


def test_grey_stored_as_colour_is_one_channel_and_colour_is_refused(tmp_path: Path) -> None:
    grey = rng.integers(1, 60000, (30, 20, 1), dtype=np.uint16).repeat(3, axis=2)
    (tmp_path / "grey.png").write_bytes(imagecodecs.png_encode(grey))
    scene = read_scene(tmp_path / "grey.png")
    assert "three equal colours" in scene.why
    np.testing.assert_allclose(scene.db_hw, 20 * np.log10(grey[..., 0].astype(float)), atol=1e-4)
    grey[0, 0, 1] += 1
    (tmp_path / "colour.png").write_bytes(imagecodecs.png_encode(grey))
    with pytest.raises(DataError, match="is a colour PNG"):
        read_scene(tmp_path / "colour.png")


@pytest.mark.parametrize("compress", [None, "deflate", "lzw"])
def test_georeference_survives_being_written_back(tmp_path: Path, compress: str | None) -> None:
    source = geotiff(tmp_path / "in.tif", GAMMA, nodata=0, **({"compress": compress} if compress else {}))
    scene = read_scene(source)
    assert scene.geotags is not None
    extra = [(*tag, True) for tag in scene.geotags]
    tifffile.imwrite(tmp_path / "out.tif", scene.db_hw, extratags=extra, metadata=None)
    with rasterio.open(source) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert after.crs == before.crs
        assert after.transform == before.transform
        assert after.nodata == before.nodata == 0


def test_a_plain_tiff_has_no_georeference(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", GAMMA)
    assert read_scene(tmp_path / "x.tif").geotags is None


@pytest.mark.parametrize("name", ["x.tif", "x.npy"])
def test_a_window_is_read_without_the_rest(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.tif":
        geotiff(path, GAMMA)
    else:
        npy(path, GAMMA)
    scene = open_scenes(path)[0]
    assert isinstance(scene.values_hw.base, np.memmap | __import__("mmap").mmap)
    window, masked = scene.window(5, 7, 11, 13)
    np.testing.assert_allclose(window, 10 * np.log10(GAMMA[5:16, 7:20].astype(float)), atol=1e-4)
    assert masked.total == 0


def test_overviews_are_not_taken_for_images(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "x.tif", np.tile(GAMMA, (8, 8)))
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4])
    scene = read_scene(path)
    assert scene.db_hw.shape == (320, 400)
    assert "more pages" not in scene.why


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_a_missing_file_and_a_wrong_type_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.tif does not exist"):
        read_scene(tmp_path / "gone.tif")
    with pytest.raises(DataError, match=r"is no file"):
        read_scene(tmp_path)
    (tmp_path / "x.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"type '\.jpg', which is not read; accepted are GeoTIFF.*NumPy.*PNG"):
        read_scene(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["x.tif", "packed.tif", "x.npy", "x.png"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    if name.endswith("tif"):
        geotiff(path, GAMMA, **({"compress": "deflate"} if name == "packed.tif" else {}))
    elif name == "x.npy":
        npy(path, GAMMA)
    else:
        path.write_bytes(imagecodecs.png_encode((GAMMA * 1000).astype(np.uint16)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"broken or truncated|is truncated") as caught:
        read_scene(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png"])
def test_text_with_an_image_name_is_broken(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="is broken or truncated"):
        read_scene(tmp_path / f"x{suffix}")


@pytest.mark.parametrize(
    ("values", "kind", "sentence"),
    [
        (
            np.ones((4, 4), np.complex64),
            "db",
            "holds complex values, which cannot be read as db; use --kind auto or slc",
        ),
        (np.ones((4, 4)), "slc", "real .*cannot be read as slc; use --kind auto or amplitude, intensity or db"),
        (np.full((4, 4), -5, np.int16), "auto", "holds negative integers"),
        (np.linspace(-5000, 5000, 400).reshape(20, 20), "auto", "say what they are with --kind"),
        (np.array([["a"]]), "auto", "accepted are integers, floats and complex"),
        (np.ones((4, 4), bool), "auto", "holds bool values"),
        (np.ones(9), "auto", r"has shape \(9,\); accepted are \[H,W\]"),
        (np.ones((40, 40, 40)), "auto", r"has shape \(40, 40, 40\)"),
        (np.ones((0, 4)), "auto", "holds no pixel"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(tmp_path: Path, values: np.ndarray, kind: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_scene(npy(tmp_path / "x.npy", values), kind)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="is broken"):
        read_scene(tmp_path / "x.npy")


# ---- real scenes --------------------------------------------------------------------------------------------------


@real_data
def test_real_sentinel1_equals_what_rasterio_reads() -> None:
    path = SAR / "sentinel1_VV_db.tif"
    scene = read_scene(path)
    with rasterio.open(path) as raster:
        values = raster.read(1, masked=True)
    assert scene.kind == "db"
    np.testing.assert_array_equal(np.isnan(scene.db_hw), np.ma.getmaskarray(values))
    np.testing.assert_array_equal(scene.db_hw, values.filled(np.nan))
    codes = {code: value for code, _, _, value in scene.geotags or ()}
    assert codes[33922][3:5] == (676780.0, 5394900.0)
    assert codes[42113] == "0"


@real_data
@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("gotcha_p1_az001_HH_slc512.npy", "slc", 1),
        ("shanghai_sentinel1.npy", "intensity", 2),
        ("sanfrancisco_airsar.npy", "intensity", 3),
        ("tsukaba_pisar.npy", "intensity", 3),
    ],
)
def test_real_arrays_are_recognised(name: str, kind: str, count: int) -> None:
    values = np.load(SAR / name)
    scenes = list(read_scenes(SAR / name))
    assert [scene.kind for scene in scenes] == [kind] * count
    for c, scene in enumerate(scenes):
        intensity = np.abs(values) ** 2 if values.ndim == 2 else values[:, :, c, c].real
        valid = intensity > 0
        assert scene.masked.nodata == int((intensity == 0).sum())
        np.testing.assert_allclose(scene.db_hw[valid], 10 * np.log10(intensity[valid].astype(float)), atol=1e-3)
