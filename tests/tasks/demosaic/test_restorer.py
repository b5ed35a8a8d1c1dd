"""The opened network: tiles that cannot be told from the whole, number formats, and every checkpoint it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.checkpoint import save_checkpoint
from mlkit.errors import CheckpointError, DataError, NonFiniteError
from mlkit.tasks.demosaic import restorer as module
from mlkit.tasks.demosaic.model import XTransNet
from mlkit.tasks.demosaic.restorer import Restorer, open_restorer, spans
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import Phase, mosaic

CPU = torch.device("cpu")
SETTINGS = {"task": "demosaic", "model": {"channels": 16, "blocks": 1}}


@pytest.fixture(scope="module")
def net() -> XTransNet:
    """Return a network that adds much to its interpolation."""
    torch.manual_seed(0)
    made = XTransNet(DemosaicModel(channels=16, blocks=1)).eval()
    with torch.no_grad():
        made.tail.weight.mul_(20.0)
    return made


def write_checkpoint(folder: Path, net: torch.nn.Module, **info: object) -> Path:
    save_checkpoint(folder, net, info={"step": 3, "task": "demosaic", "settings": SETTINGS, **info})
    return folder


def some_mosaic(height: int, width: int, phase: Phase = (0, 0)) -> np.ndarray:
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    return mosaic(image, phase)


def asked_whole(net: XTransNet, mosaic_hw: np.ndarray, phase: Phase) -> np.ndarray:
    """Return what the network itself gives for the whole mosaic."""
    with torch.inference_mode():
        rgb = net(torch.from_numpy(mosaic_hw.copy())[None, None], torch.tensor([phase]))
    return rgb[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("phase", [(0, 0), (2, 5), (1, 2)])
@pytest.mark.parametrize(("height", "width"), [(200, 101), (97, 203), (61, 60)])
def test_tiles_are_what_the_whole_gives(net: XTransNet, height: int, width: int, phase: Phase) -> None:
    given = some_mosaic(height, width, phase)
    made = Restorer(net, device=CPU, precision="fp32", name="it")(given, phase, tile=60)
    assert len(spans(max(height, width), 60, net.reach)) > 1
    np.testing.assert_allclose(made, asked_whole(net, given, phase), atol=2e-5)


@pytest.mark.parametrize("more", [3, 9])
def test_tiles_that_begin_anywhere_in_the_pattern_know_their_phase(net: XTransNet, more: int) -> None:
    given = some_mosaic(160, 150, (2, 1))
    restorer = Restorer(net, device=CPU, precision="fp32", name="it")
    restorer.radius += more  # so that tiles with their margins do not begin at multiples of 6
    np.testing.assert_allclose(restorer(given, (2, 1), tile=70), asked_whole(net, given, (2, 1)), atol=2e-5)


def test_tiles_of_too_small_a_margin_would_show(net: XTransNet) -> None:
    given = some_mosaic(120, 60)
    restorer = Restorer(net, device=CPU, precision="fp32", name="it")
    restorer.radius = 3
    assert np.abs(restorer(given, (0, 0), tile=60) - asked_whole(net, given, (0, 0))).max() > 1e-3


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(net: XTransNet, workers: int) -> None:
    given = some_mosaic(150, 170)
    restorer = Restorer(net, device=CPU, precision="fp32", name="it")
    restorer.workers = workers
    before = torch.get_num_threads()
    np.testing.assert_allclose(restorer(given, (0, 0), tile=60), asked_whole(net, given, (0, 0)), atol=2e-5)
    assert torch.get_num_threads() == before


def test_bands_cover_every_row_once_and_hold_only_a_part(net: XTransNet) -> None:
    restorer = Restorer(net, device=CPU, precision="fp32", name="it")
    tops = [(top, len(rows), rows.shape[1:]) for top, rows in restorer.rows(some_mosaic(200, 70), (0, 0), tile=60)]
    assert [top for top, _, _ in tops] == list(np.cumsum([0, *(count for _, count, _ in tops)])[:-1])
    assert sum(count for _, count, _ in tops) == 200
    assert max(count for _, count, _ in tops) < 60
    assert {shape for _, _, shape in tops} == {(70, 3)}


@pytest.mark.parametrize("side", [6, 59, 60, 61, 100, 1000, 6001])
@pytest.mark.parametrize(("tile", "radius"), [(60, 18), (768, 60), (24, 60)])
def test_spans_cover_an_axis_once_within_their_tile(side: int, tile: int, radius: int) -> None:
    covered = [px for first, last in spans(side, tile, radius) for px in range(first, last)]
    assert covered == list(range(side))
    allowed = max(tile - 2 * radius, radius)
    assert side <= tile or all(last - first <= allowed for first, last in spans(side, tile, radius))


def test_bf16_is_close_and_keeps_the_interpolation_in_float32(net: XTransNet) -> None:
    given = some_mosaic(60, 66)
    exact = Restorer(net, device=CPU, precision="fp32", name="it")(given, (0, 0))
    rounded = Restorer(net, device=CPU, precision="bf16", name="it")(given, (0, 0))
    interpolated = Restorer(_silenced(net), device=CPU, precision="fp32", name="it")(given, (0, 0))
    size = np.abs(exact - interpolated).max()  # of what the network adds
    assert 0 < np.abs(rounded - exact).max() < 0.05 * size
    # bf16 has 8 bits: an interpolation in it would be wrong by up to 2^-9.
    silent = Restorer(_silenced(net), device=CPU, precision="bf16", name="it")(given, (0, 0))
    np.testing.assert_allclose(silent, interpolated, atol=1e-6)


def _silenced(net: XTransNet) -> XTransNet:
    silent = XTransNet(DemosaicModel(channels=16, blocks=1))
    silent.load_state_dict(net.state_dict())
    with torch.no_grad():
        silent.tail.weight.zero_()
    return silent


def test_less_than_a_pattern_is_refused(net: XTransNet) -> None:
    restorer = Restorer(net, device=CPU, name="it")
    told = "a mosaic of 9 x 5 px is smaller than the pattern; each side must be 6 px or more"
    with pytest.raises(DataError) as refused:
        restorer(np.zeros((5, 9), np.float32), (0, 0))
    assert refused.value.problems == (told,)


def test_a_result_that_is_not_finite_is_refused(net: XTransNet) -> None:
    given = some_mosaic(20, 20)
    given[3, 3] = np.inf
    with pytest.raises(NonFiniteError, match=r"^it gives values that are not finite in fp32; try --precision fp32"):
        Restorer(net, device=CPU, precision="fp32", name="it")(given, (0, 0))


# ---- checkpoints -------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_opened(net: XTransNet, tmp_path: Path) -> None:
    given = some_mosaic(30, 40, (1, 1))
    opened = open_restorer(write_checkpoint(tmp_path / "ckpt-3", net), precision="fp32")
    np.testing.assert_allclose(opened(given, (1, 1)), asked_whole(net, given, (1, 1)), atol=1e-6)
    assert opened.name == f"checkpoint {tmp_path / 'ckpt-3'}"


def test_averaged_weights_are_taken_where_there_are_some(net: XTransNet, tmp_path: Path) -> None:
    info = {"step": 3, "task": "demosaic", "settings": SETTINGS}
    averages = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    save_checkpoint(tmp_path / "ckpt-3", net, info=info, ema=averages)
    given = some_mosaic(30, 40)
    made = open_restorer(tmp_path / "ckpt-3", precision="fp32")(given, (0, 0))
    np.testing.assert_allclose(made, asked_whole(_silenced(net), given, (0, 0)), atol=1e-6)


def test_the_embedded_model_is_the_default(net: XTransNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "embedded", net)
    monkeypatch.setattr(module, "embedded_folder", lambda: tmp_path / "embedded")
    assert open_restorer().name == "the embedded model"
    monkeypatch.setattr(module, "embedded_folder", lambda: tmp_path / "absent")
    with pytest.raises(CheckpointError) as refused:
        open_restorer()
    told = f"this installation has no embedded model ({tmp_path / 'absent'}); give --checkpoint"
    assert refused.value.problems == (told,)


def test_a_checkpoint_of_another_task_is_refused(net: XTransNet, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt-3", net, task="sar")
    with pytest.raises(CheckpointError) as refused:
        open_restorer(tmp_path / "ckpt-3")
    assert refused.value.problems == (f"checkpoint {tmp_path / 'ckpt-3'} is of task 'sar', not 'demosaic'",)


def test_settings_of_another_model_are_refused(net: XTransNet, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt-3", net, settings={"model": {"width": 3}})
    with pytest.raises(CheckpointError, match=r"cannot be used: its settings of the model .* \(Extra inputs are not"):
        open_restorer(tmp_path / "ckpt-3")
    write_checkpoint(tmp_path / "ckpt-4", net, settings={})
    with pytest.raises(CheckpointError, match=r"\(they are missing\)"):
        open_restorer(tmp_path / "ckpt-4")


def test_weights_that_are_nan_are_refused_by_name(net: XTransNet, tmp_path: Path) -> None:
    broken = XTransNet(DemosaicModel(channels=16, blocks=1))
    with torch.no_grad():
        broken.head.weight[0, 0, 0, 0] = torch.nan
    write_checkpoint(tmp_path / "ckpt-3", broken)
    with pytest.raises(NonFiniteError) as refused:
        open_restorer(tmp_path / "ckpt-3")
    assert refused.value.problems == (
        f"checkpoint {tmp_path / 'ckpt-3'} has NaN or infinity in head.weight, so it is unusable; give another "
        "--checkpoint",
    )


def test_a_damaged_file_is_refused(net: XTransNet, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt-3", net)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="truncated"):
        open_restorer(folder)
    assert json.loads((folder / "checkpoint.json").read_text())["task"] == "demosaic"
