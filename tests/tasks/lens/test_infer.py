"""Photographs corrected at full size: right, safe, complete, and in bands that cannot be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

from lensfiles import photograph
from mlkit.errors import CheckpointError, DataError, MlkitError, NonFiniteError
from mlkit.imaging.profiles import srgb_profile
from mlkit.tasks.lens import corrector as corrector_module
from mlkit.tasks.lens.corrector import Correction, Corrector, corrected_rows, open_corrector
from mlkit.tasks.lens.geometry import (
    IDENTITY,
    NAMES,
    frame_of,
    identity_grid,
    parametric_grid,
    undistorted_points,
    warp,
)
from mlkit.tasks.lens.infer_files import FileResult, correct_file
from mlkit.tasks.lens.infer_inputs import Job, Options, find_jobs, options_of
from mlkit.tasks.lens.model import build_net
from mlkit.tasks.lens.safety import judge
from mlkit.tasks.lens.scores import bends
from mlkit.tasks.lens.settings import LensModel

HEIGHT, WIDTH = 120, 180


def params(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(name, IDENTITY[place]) for place, name in enumerate(NAMES)]])


def correction(strength: float = 1.0, zoom: float = 1.0, flow: torch.Tensor | None = None, **lens: float) -> Correction:
    return Correction(params(**lens), flow, torch.tensor([frame_of(HEIGHT, WIDTH)]), strength, zoom)


def corrector(stage: str = "param_only", flow: float = 0.0, **lens: float) -> Corrector:
    """Return a network that finds the same lens in every picture."""
    net = build_net(LensModel(channels=8, head_channels=16, stage=stage))  # type: ignore[arg-type]
    head = net.parametric
    with torch.no_grad():
        head.last.bias.copy_(torch.atanh((params(**lens)[0] - head.middles) / head.halves))
        net.residual.last.weight.normal_(0, flow)
    return Corrector(net, 64, device=torch.device("cpu"), name="it")


Corrected = Callable[..., tuple[FileResult, Path]]


@pytest.fixture
def correct(tmp_path: Path) -> Corrected:
    def run(path: Path, by: Any, **chosen: Any) -> tuple[FileResult, Path]:
        options = Options(**chosen)
        job = Job(path, tmp_path / "out" / f"made{path.suffix}", tmp_path / "grid.png" if options.grid else None)
        return correct_file(by, job, options)[0], job.image

    return run


# ---- maps ---------------------------------------------------------------------------------------------------------


def test_bands_make_what_the_whole_map_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH, 3), dtype=np.float32)
    flow = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    found = correction(flow=flow, k1=-0.15, k2=0.04, p1=0.01, cx=0.03, scale=1.1)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    whole = warp(image, found.map_of(HEIGHT, WIDTH))[0].clamp(0, 1).permute(1, 2, 0).numpy()
    for band_px in (10**9, 7 * WIDTH):
        monkeypatch.setattr(corrector_module, "_BAND_PX", band_px)
        tops, bands = zip(*corrected_rows(pixels, found), strict=True)
        assert list(tops) == list(np.cumsum([0, *[len(band) for band in bands[:-1]]]))
        np.testing.assert_allclose(np.concatenate(bands), whole, atol=2e-4)
    assert len(bands) == -(-HEIGHT // 7)


@pytest.mark.parametrize("lens", [{"k1": -0.25, "k2": 0.08, "cx": 0.03}, {"k1": 0.15}, {"p1": 0.02, "scale": 1.1}])
def test_the_interpolated_map_of_a_large_picture_is_the_map(lens: dict[str, float]) -> None:
    height, width, rows = 1337, 2003, slice(600, 677)
    found = correction(**lens)
    exact = found.map_of(height, width, rows)
    fast = corrector_module._map_rows(found, height, width, rows)
    off_px = ((fast - exact).abs() * torch.tensor([width / 2, height / 2])).max()
    assert fast.shape == exact.shape and 0 < float(off_px) < 0.01


def test_strength_zero_changes_nothing_and_half_goes_half_way() -> None:
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH, 1), dtype=np.float32)
    none = np.concatenate([rows for _, rows in corrected_rows(pixels, correction(0.0, k1=-0.2))])
    np.testing.assert_allclose(none, pixels, atol=1e-4)
    full, half, identity = (correction(share, k1=-0.2).map_of(30, 45) for share in (1.0, 0.5, 0.0))
    assert torch.allclose(half - identity, (full - identity) / 2, atol=1e-6)


def test_zoom_is_just_enough() -> None:
    pincushion = correction(k1=0.1)
    assert judge(pincushion.map_of(60, 90)).stats["oob_ratio"] > 0.05
    zoomed = pincushion.zoomed()
    # the corner's source is at z^-1 (1 + 0.1 z^-2) = 1
    assert zoomed.zoom == pytest.approx(1.0847, abs=5e-3)
    assert judge(zoomed.map_of(60, 90)).stats["oob_ratio"] == 0
    assert correction(k1=-0.1).zoomed().zoom == 1.0


# ---- safety -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lens", "level", "reason"),
    [
        ({"k1": -0.1}, "safe", ""),
        ({"k1": 0.05}, "warn", "have no source, the edge is repeated there"),
        ({"k1": -0.25}, "warn", "areas are drawn out"),
        ({"k1": -0.6}, "unsafe", "% of the picture fold over"),
        ({"k1": 0.6, "scale": 0.9}, "unsafe", "of the picture have no source"),
    ],
)
def test_a_verdict_has_its_reason(lens: dict[str, float], level: str, reason: str) -> None:
    verdict = correction(**lens).judged()
    assert verdict.level == level
    assert reason in str(verdict)


def test_a_map_that_is_not_finite_is_unsafe() -> None:
    assert str(correction(k1=float("nan")).judged()) == "unsafe: the map is not finite"


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_distorted_photograph_becomes_the_straight_one(correct: Corrected, tmp_path: Path) -> None:
    from mlkit.tasks.lens.geometry import identity_grid, undistorted_points

    with Image.open(photograph(tmp_path / "straight.png", 200, 300)) as image:
        straight = np.asarray(image)
    frame = torch.tensor([frame_of(200, 300)])
    lens = params(k1=-0.12)
    points = identity_grid(200, 300)[None] * frame[:, None, None]
    back = undistorted_points(lens, points) / frame[:, None, None]
    levels = torch.from_numpy(straight.copy()).permute(2, 0, 1)[None].float() / 255
    bent = warp(levels, back.float())[0].clamp(0, 1).permute(1, 2, 0).numpy()
    Image.fromarray(np.rint(bent * 255).astype(np.uint8)).save(tmp_path / "bent.png")
    result, path = correct(tmp_path / "bent.png", corrector(k1=-0.12))
    with Image.open(path) as image:
        made = np.asarray(image).astype(float)
    inner = (slice(20, -20), slice(20, -20))
    before = np.abs(np.rint(bent * 255) - straight)[inner].mean()
    assert np.abs(made - straight)[inner].mean() < 0.15 * before
    assert result.verdict.level == "safe" and result.params["k1"] == pytest.approx(-0.12, abs=1e-5)
    assert result.largest_px == pytest.approx(0.12 * np.hypot(200, 300) / 2, rel=0.03)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_format_depth_exif_and_profile_are_the_inputs(suffix: str, correct: Corrected, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[271] = "Maker"
    source = Image.open(photograph(tmp_path / "plain.png"))
    if suffix == ".tif":
        levels = np.asarray(source).astype(np.uint16) * 257
        tifffile.imwrite(path, levels, photometric="rgb", iccprofile=srgb_profile())
    else:
        source.save(path, exif=exif, icc_profile=srgb_profile())
    result, made = correct(path, corrector(k1=-0.05))
    assert result.notes == ()
    if suffix == ".tif":
        assert tifffile.imread(made).dtype == np.uint16
    with Image.open(made) as image:
        assert image.size == source.size
        assert image.info["icc_profile"] == srgb_profile()
        if suffix != ".tif":
            assert image.getexif()[271] == "Maker"


def test_transparency_and_grey_are_kept(correct: Corrected, tmp_path: Path) -> None:
    levels = np.full((90, 120, 4), 255, np.uint8)
    levels[:, 60:] = (0, 0, 0, 0)
    Image.fromarray(levels).save(tmp_path / "a.png")
    _, path = correct(tmp_path / "a.png", corrector(k1=-0.2))
    with Image.open(path) as image:
        made = np.asarray(image)
    shown = made[..., 3] > 0
    assert made.shape == (90, 120, 4) and (made[shown][:, :3] >= 254).all()  # black behind it did not bleed
    Image.fromarray(levels[..., 0]).save(tmp_path / "g.png")
    _, path = correct(tmp_path / "g.png", corrector(k1=-0.2))
    with Image.open(path) as image:
        assert image.mode == "L"


def test_an_unsafe_map_is_not_applied_unless_forced(correct: Corrected, tmp_path: Path) -> None:
    photo = photograph(tmp_path / "a.png")
    folding = corrector(k1=-0.55)
    with pytest.raises(DataError, match=r"a\.png is not corrected, the map is unsafe: .* fold over .*--force applies"):
        correct(photo, folding)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    result, path = correct(photo, folding, force=True)
    assert path.exists() and result.verdict.level == "unsafe" and "fold over" in result.notes[0]
    assert correct(photo, folding, strength=0.3)[0].verdict.level != "unsafe"


def test_without_an_unsafe_flow_the_parameters_do(correct: Corrected, tmp_path: Path) -> None:
    flow = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    result, _ = correct(photograph(tmp_path / "a.png"), lambda pixels, **_: correction(flow=flow, k1=-0.1))
    assert "the residual flow is left out, since with it the map is unsafe" in result.notes[0]
    assert result.verdict.level == "safe"


def following() -> Corrector:
    """Return a network that follows lines altogether."""
    net = build_net(LensModel(channels=8, head_channels=16, lines=True))
    assert net.parametric.gate is not None
    with torch.no_grad():
        net.parametric.gate.bias.fill_(9.0)
    return Corrector(net, 64, device=torch.device("cpu"), name="it")


def ringed(path: Path) -> np.ndarray:
    """Write rings, which no lens makes straight."""
    y, x = np.mgrid[:200, :300] - np.array([90.0, 160.0])[:, None, None]
    rings = np.where(np.hypot(x, y) // 9 % 2 > 0, 200, 60).astype(np.uint8)
    Image.fromarray(rings).save(path)
    return rings


def test_lines_that_do_not_tell_the_lens_are_not_followed_unless_asked(correct: Corrected, tmp_path: Path) -> None:
    rings = ringed(tmp_path / "rings.png")
    result, path = correct(tmp_path / "rings.png", following())
    assert result.sure is not None and 0 < result.sure < 0.7 and result.largest_px < 0.01
    assert "rings.png: its lines do not tell the lens (" in result.notes[0] and "--sure 0." in result.notes[0]
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), rings)
    least = float(result.notes[0].split("--sure ")[1].split()[0])
    result, path = correct(tmp_path / "rings.png", following(), sure=least)
    assert not any("do not tell" in note for note in result.notes) and result.largest_px > 0.1
    Image.new("L", (90, 60), 128).save(tmp_path / "flat.png")
    assert correct(tmp_path / "flat.png", following())[0].notes == (
        "flat.png: no lines were found that could tell the lens",
    )


def test_nan_in_the_flow_is_one_sentence_and_writes_nothing(correct: Corrected, tmp_path: Path) -> None:
    broken = corrector("hybrid")
    with torch.no_grad():
        broken.net.residual.last.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="it gives a flow with NaN or infinity; its weights are unusable"):
        correct(photograph(tmp_path / "a.png"), broken)
    assert not (tmp_path / "out").exists()


def test_a_tiny_picture_is_refused(correct: Corrected, tmp_path: Path) -> None:
    Image.new("RGB", (20, 300)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is 20 x 300 px; a side of 32 px is the least"):
        correct(tmp_path / "a.png", corrector())


def test_a_grid_is_drawn(correct: Corrected, tmp_path: Path) -> None:
    correct(photograph(tmp_path / "a.png"), corrector("hybrid", flow=0.01, k1=-0.1), grid=True)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width > 4 * 192 and image.height > 150


def test_a_grid_of_a_network_that_hears_lines_shows_them(correct: Corrected, tmp_path: Path) -> None:
    ringed(tmp_path / "rings.png")
    sides, colored = [], []
    for by in (corrector(), following()):
        correct(tmp_path / "rings.png", by, grid=True)
        with Image.open(tmp_path / "grid.png") as image:
            sides.append(image.width)
            levels = np.asarray(image.convert("RGB")).astype(int)
        # the colour of a curve: green, yellow or red, one of them full
        colored.append(int(((levels[..., 2] == 51) & (levels[..., :2].max(axis=2) == 255)).sum()))
    assert sides[1] > sides[0] + 250
    assert colored[0] < 5 and colored[1] > 500  # the flow's wheel may have the colour once


# ---- what to work on ----------------------------------------------------------------------------------------------


def test_names_of_results_and_what_is_skipped(tmp_path: Path) -> None:
    photograph(tmp_path / "in/sub/a.jpg")
    photograph(tmp_path / "in/sub/a_corrected.jpg")
    (job,) = find_jobs([str(tmp_path / "in")], tmp_path / "out", Options(grid=True))
    assert job.image == tmp_path / "out/sub/a_corrected.jpg" and job.grid == tmp_path / "out/sub/a_corrected_grid.png"
    assert not job.is_done


def test_a_strength_and_a_sureness_beyond_one_are_refused() -> None:
    rest = {"grid": False, "zoom": False, "force": False, "strict": False}
    with pytest.raises(MlkitError, match=r"--strength 1\.5 is not between 0 and 1"):
        options_of(strength=1.5, sure=None, **rest)
    with pytest.raises(MlkitError, match=r"--sure -0\.1 is not between 0 and 1; 0 follows lines however little"):
        options_of(strength=1.0, sure=-0.1, **rest)


def test_there_is_no_model_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrector_module, "embedded_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"has no embedded model .*; give --checkpoint"):
        open_corrector()


def test_the_command_tells_results_and_reasons_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from mlkit.tasks.lens.infer_options import infer

    monkeypatch.setattr(corrector_module, "open_corrector", lambda *_, **__: corrector(k1=0.05))
    photos = [str(photograph(tmp_path / f"{name}.png")) for name in "ab"]
    (tmp_path / "broken.png").write_bytes(b"no image")
    app = typer.Typer()
    app.command()(infer)
    words = [*photos, str(tmp_path / "broken.png"), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, DataError) and "broken.png" in str(done.exception)
    told = json.loads(done.stdout)
    assert [Path(one["input"]).name for one in told["results"]] == ["a.png", "b.png"]
    assert told["results"][0]["verdict"] == "warn" and "no source" in told["results"][0]["reasons"][0]
    assert (tmp_path / "out/a_corrected.png").exists()
    again = CliRunner().invoke(app, words[:-1])
    assert "2 photos skipped: results exist" in again.stdout


def test_the_command_says_how_sure_lines_are_and_follows_them_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from mlkit.tasks.lens.infer_options import infer

    monkeypatch.setattr(corrector_module, "open_corrector", lambda *_, **__: following())
    ringed(tmp_path / "rings.png")
    app = typer.Typer()
    app.command()(infer)

    def told(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [str(tmp_path / "rings.png"), "--out", str(tmp_path / "out"), "--json", *words])
        (result,) = json.loads(done.stdout)["results"]
        return dict(result)

    alone, followed = told(), told("--sure", "0", "--overwrite")
    assert 0 < alone["sure"] < 0.7 and followed["sure"] == alone["sure"]
    assert alone["largest_px"] < 0.01 < followed["largest_px"]
    assert "do not tell the lens" in alone["notes"][0]
    assert not any("do not tell the lens" in note for note in followed["notes"])


def test_a_lens_at_identity_is_the_map_of_opencvs_remap_at_full_size() -> None:
    """The bands' bicubic is the whole warp's, which test_geometry.py holds against OpenCV."""
    frame = torch.tensor([frame_of(HEIGHT, WIDTH)])
    grid = parametric_grid(params(k1=-0.1), frame, HEIGHT, WIDTH)
    assert torch.allclose(correction(k1=-0.1).map_of(HEIGHT, WIDTH), grid, atol=1e-6)


def test_the_model_in_the_package_is_small_and_straightens_a_board(tmp_path: Path) -> None:
    """A board behind a barrel lens, drawn here: lines bend less than before, and nothing folds."""
    folder = corrector_module.embedded_folder()
    assert (folder / "model.safetensors").stat().st_size < 5e6
    corrector = open_corrector()
    assert corrector.name == "the embedded model"
    size = (256, 384)
    frame = torch.tensor([frame_of(*size)])
    lens = torch.tensor([[-0.08, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    fine = identity_grid(size[0] * 2, size[1] * 2) * frame
    world = undistorted_points(lens, fine[None], iterations=6)[0]
    board = (torch.floor(7 * world[..., 0] + 0.2) + torch.floor(7 * world[..., 1] + 0.3)) % 2 * 0.8 + 0.1
    small = torch.nn.functional.avg_pool2d(board[None, None].float(), 2)[0, 0]
    correction = corrector(small.numpy()[..., None].repeat(3, axis=2))
    flow = torch.zeros(1, 2, 4, 4)
    profile = torch.tensor([[1.0, 0.0, -0.08, 0.0, 0.0, 0.0, 0.0]])
    without = bends(torch.tensor([[0.0] * 7 + [1.0]]), flow, profile, frame)
    assert float(bends(correction.params, flow, profile, frame)) < 0.6 * float(without)
    assert correction.judged().level != "unsafe"
