"""Claims of tasks/sr/infer.py and restorer.py: any size without seams, sr_scale, steps, merged adapters, memory."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.checkpoint import save_checkpoint
from mlkit.errors import CheckpointError, DataError, MemoryShortError, MlkitError, NonFiniteError
from mlkit.imaging.resize import upscale
from mlkit.settings import TrainSettings
from mlkit.tasks.sr.adapter_options import open_restorer
from mlkit.tasks.sr.infer import Enlarged, Plan, plan_for, restore, restored_bands
from mlkit.tasks.sr.lora import base_only
from mlkit.tasks.sr.model import LoraNet
from mlkit.tasks.sr.restorer import Restorer
from mlkit.tasks.sr.settings import LoraModel, SrSettings
from sradapter import RANK, write_adapter
from srbase import RATE, LinearBase

CPU = torch.device("cpu")
T_LR = 0.25


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("sr"))


@pytest.fixture(scope="module")
def restorer(adapter: Path) -> Restorer:
    return open_restorer(str(adapter), precision="fp32")


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return a smooth image with an edge, [H, W, C] in [0, 1]."""
    y, x = np.mgrid[:height, :width]
    planes = [0.5 + 0.3 * np.sin(x / 9 + k) + 0.15 * np.sign(y - height / 2) for k in range(channels)]
    return np.stack(planes, axis=2).astype(np.float32)


class Plain:
    """What `restore` needs of a Restorer, with a function of tiles in place of a model."""

    multiple, device, workers, num_parameters = 8, CPU, 1, 1

    def __init__(self, function: Any, limit_px: int | None = None) -> None:
        self.function, self.limit_px = function, limit_px
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, tiles: np.ndarray, *, sr_scales: Sequence[float], **_: Any) -> np.ndarray:
        self.shapes.append(tiles.shape)
        if self.limit_px is not None and tiles[:, 0].size > self.limit_px:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
        return np.concatenate([self.function(tiles) for _ in sr_scales], axis=1)


# ---- any size, no seam ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tile=st.sampled_from([16, 24, 48]),
    overlap=st.sampled_from([0, 8]),
    batch=st.integers(1, 5),
    slope=st.floats(-0.5, 0.5),
)
def test_constant_and_affine_fields_have_no_seam(
    height: int, width: int, tile: int, overlap: int, batch: int, slope: float
) -> None:
    y, x = np.mgrid[:height, :width] / 90
    field = np.stack([0.5 + slope * (x - 0.5), 0.5 + slope * (y - 0.5), np.full(x.shape, 0.3)], 2).astype(np.float32)
    made, _ = restore(Plain(lambda tiles: 0.1 + 0.8 * tiles), Enlarged(field, 1), Plan(tile, overlap, batch))
    np.testing.assert_allclose(made[0], 0.1 + 0.8 * field, rtol=0, atol=1e-6)


def test_what_differs_between_tiles_fades_over_the_overlap() -> None:
    numbers = iter(range(100))

    def offset(tiles: np.ndarray) -> np.ndarray:
        return np.stack([np.full(tile.shape, 0.2 if next(numbers) % 2 else 0.8, np.float32) for tile in tiles])

    (made,), _ = restore(Plain(offset), Enlarged(photo(32, 176), 1), Plan(32, 16, 4))
    assert np.ptp(made) == pytest.approx(0.6)
    assert np.abs(np.diff(made[0, :, 0])).max() < 0.6 * np.pi / 2 / 16 * 1.01  # the steepest of half a cosine


def test_tiles_go_to_the_model_several_at_once() -> None:
    model = Plain(lambda tiles: tiles)
    restore(model, Enlarged(photo(40, 200), 1), Plan(32, 16, 4))
    assert {shape[1:] for shape in model.shapes} == {(3, 32, 32)}
    assert [shape[0] for shape in model.shapes] == [4, 4, 4] * 2  # 12 a band, two bands


@pytest.mark.parametrize("size", [(5, 9), (130, 70), (64, 8)])
def test_the_model_sees_multiples_and_the_result_has_the_size_that_was_asked_for(
    restorer: Restorer, size: tuple[int, int]
) -> None:
    enlarged = Enlarged(photo(*size), 2)
    (made,), plan = restore(restorer, enlarged, plan_for(restorer, tile=48))
    assert made.shape == (2 * size[0], 2 * size[1], 3) and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
    assert plan == Plan(48, 8, 8 * restorer.workers)


# ---- enlarging --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 0.0), (4.0, 3e-7), (2.0, 3e-7), (1.7, 3e-5)])
def test_enlarged_in_rows_is_what_it_is_as_a_whole(scale: float, tolerance: float) -> None:
    image = photo(61, 47)
    expected = np.moveaxis(upscale(image, scale), 2, 0)
    enlarged = Enlarged(image, scale)
    assert (enlarged.height, enlarged.width) == expected.shape[1:]
    for top, bottom in ((0, enlarged.height), (0, 8), (16, 40), (enlarged.height - 3, enlarged.height)):
        np.testing.assert_allclose(enlarged.rows(top, bottom), expected[:, top:bottom], rtol=0, atol=tolerance)


def test_grey_becomes_three_equal_channels() -> None:
    image = photo(20, 30, channels=1)
    enlarged = Enlarged(image, 2)
    assert enlarged.is_grey
    np.testing.assert_allclose(enlarged.rows(0, 40), np.repeat(upscale(image, 2)[..., 0][None], 3, axis=0), atol=3e-7)


def test_colours_of_transparent_pixels_do_not_bleed() -> None:
    image = np.zeros((16, 16, 3), np.float32)
    image[:, :8, 2], image[:, 8:, 0] = 1.0, 1.0  # blue that is seen, red that is not
    alpha = np.zeros((16, 16), np.float32)
    alpha[:, :8] = 1.0
    enlarged = Enlarged(image, 4, alpha)
    rows, seen = enlarged.rows(0, 64), enlarged.alpha(0, 64)
    assert seen.shape == (64, 64) and seen[:, :28].min() == 1 and seen[:, 38:].max() < 0.05
    visible = seen > 0.01
    np.testing.assert_allclose(rows[0][visible], 0.0, atol=1e-5)
    np.testing.assert_allclose(rows[2][visible], 1.0, atol=1e-3)
    assert rows[0][:, 50:].min() == 1.0  # a hidden colour stays, unweighted


def test_an_image_without_transparency_is_not_changed_by_its_alpha() -> None:
    image = photo(20, 30)
    with_alpha = Enlarged(image, 3, np.ones((20, 30), np.float32))
    np.testing.assert_array_equal(with_alpha.rows(0, 60), Enlarged(image, 3).rows(0, 60))


@pytest.mark.parametrize("scale", [0.5, 0.0, -4.0, float("nan"), float("inf")])
def test_reducing_is_refused(scale: float) -> None:
    with pytest.raises(MlkitError, match=r"cannot be enlarged .* times; give --scale 1 \(as it is\) or more"):
        Enlarged(photo(8, 8), scale)


# ---- what is computed -------------------------------------------------------------------------------------------


def tiles(number: int = 3, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.random((number, 3, side, side), dtype=np.float32)


def test_sr_scale_0_is_the_round_trip_of_the_autoencoder(restorer: Restorer) -> None:
    given = tiles()
    with torch.no_grad():
        expected = restorer.base.decode(restorer.base.encode(torch.from_numpy(given))).numpy()
    np.testing.assert_allclose(restorer(given, sr_scales=(0.0,)), expected, rtol=0, atol=1e-6)
    both = restorer(given, sr_scales=(0.0, 1.0))  # also where the model is asked
    np.testing.assert_allclose(both[:, :3], expected, rtol=0, atol=1e-6)
    assert np.abs(both[:, 3:] - expected).max() > 0.01


def test_results_are_one_step_of_the_adapted_base(restorer: Restorer) -> None:
    given = tiles()
    base = restorer.base
    with torch.no_grad():
        z_lr = base.encode(torch.from_numpy(given))
        velocity = base.velocity(z_lr, torch.full((3,), T_LR))
        expected = torch.cat([base.decode(z_lr - s * T_LR * velocity) for s in (0.5, 1.0, 1.7)], dim=1)
        with base_only(base):
            alone = base.decode(z_lr - T_LR * base.velocity(z_lr, torch.full((3,), T_LR)))
    np.testing.assert_allclose(restorer(given, sr_scales=(0.5, 1.0, 1.7)), expected.numpy(), rtol=0, atol=2e-5)
    np.testing.assert_allclose(restorer(given, adapted=False), alone.numpy(), rtol=0, atol=2e-5)
    assert np.abs(expected[:, 3:6].numpy() - alone.numpy()).max() > 0.01


def test_a_large_base_is_not_copied_and_gives_the_same(adapter: Path, restorer: Restorer) -> None:
    large = open_restorer(str(adapter), precision="fp32")
    large._merges, large.workers = False, 1
    given = tiles()
    for adapted in (True, False, True):
        np.testing.assert_allclose(large(given, adapted=adapted), restorer(given, adapted=adapted), rtol=0, atol=2e-5)
    assert not large._copies


def test_the_number_of_workers_changes_nothing_and_leaves_torch_as_it_was(adapter: Path, restorer: Restorer) -> None:
    several = open_restorer(str(adapter), precision="fp32")
    several.workers = 3
    threads = torch.get_num_threads()
    for number in (1, 2, 5):
        given = tiles(number)
        np.testing.assert_allclose(several(given), restorer(given), rtol=0, atol=1e-5)
    assert torch.get_num_threads() == threads


def test_bf16_is_close_to_fp32(adapter: Path, restorer: Restorer) -> None:
    half = open_restorer(str(adapter), precision="bf16")
    assert (half.precision, restorer.precision) == ("bf16", "fp32")
    exact, rounded = restorer(tiles()), half(tiles())
    change = np.abs(exact - restorer(tiles(), sr_scales=(0.0,))).max()
    assert 0 < np.abs(rounded - exact).max() < 0.05 * change


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_are_eulers_from_t_lr_to_0(steps: int) -> None:
    # dz/dt = RATE z, so each step multiplies by 1 - RATE T_L / steps
    linear = Restorer(LinearBase(), t_lr=T_LR, device=CPU)  # type: ignore[arg-type]
    given = tiles()
    z = 2 * given - 1
    at_1 = z * (1 - RATE * T_LR / steps) ** steps
    made = linear(given, sr_scales=(1.0, 0.5), steps=steps)
    np.testing.assert_allclose(made[:, :3], at_1 / 2 + 0.5, rtol=0, atol=2e-6)
    np.testing.assert_allclose(made[:, 3:], (z + at_1) / 4 + 0.5, rtol=0, atol=2e-6)  # half the way


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_color_fix_takes_colours_from_the_enlarged_input(kind: Any) -> None:
    image = photo(40, 50)
    tinted = Plain(lambda tiles: tiles + np.array([0.06, 0.0, -0.06], np.float32)[:, None, None])
    (shifted,), _ = restore(tinted, Enlarged(image, 2), Plan(48, 8, 2))
    (fixed,), _ = restore(tinted, Enlarged(image, 2), Plan(48, 8, 2), color_fix=kind)
    given = upscale(image, 2)
    assert np.abs(shifted - given).mean() > 0.03
    assert np.abs(fixed - given).max() < 1e-4


@pytest.mark.parametrize("shifts", [2, 4])
def test_shifted_grids_hide_what_happens_at_the_borders_of_tokens(shifts: int) -> None:
    def worse_at_borders(tiles: np.ndarray) -> np.ndarray:
        place = np.arange(tiles.shape[3]) % 8
        wrong = np.where((place == 0) | (place == 7), 0.1, 0.0).astype(np.float32)
        return tiles + wrong

    image = photo(61, 77)
    (once,), _ = restore(Plain(worse_at_borders), Enlarged(image, 1), Plan(32, 8, 2))
    (often,), plan = restore(Plain(worse_at_borders), Enlarged(image, 1), Plan(32, 8, 2, shifts))
    assert plan.shifts == shifts
    assert np.abs(once - image).max() == pytest.approx(0.1, abs=1e-6)
    assert np.abs(often - image).mean() < 0.6 * np.abs(once - image).mean()
    step = np.abs(np.diff((often - image).mean(axis=(0, 2))))
    assert step[8:-8].max() < 0.04  # where it was 0.1


def test_shifts_change_nothing_where_there_are_no_tokens() -> None:
    image = photo(61, 77)
    for shifts in (2, 4):
        (made,), _ = restore(Plain(lambda tiles: 1 - tiles), Enlarged(image, 1), Plan(32, 8, 2, shifts))
        np.testing.assert_allclose(made, 1 - image, rtol=0, atol=1e-6)


def test_sr_scale_0_is_the_round_trip_however_often_it_is_restored(restorer: Restorer) -> None:
    enlarged = Enlarged(photo(40, 48), 1)
    (expected,), _ = restore(restorer, enlarged, Plan(48, 8, 2), sr_scales=(0.0,))
    (half, none), _ = restore(restorer, enlarged, Plan(48, 8, 2, 2), sr_scales=(0.5, 0.0))
    np.testing.assert_allclose(none, expected, rtol=0, atol=1e-6)
    assert np.abs(half - none).max() > 0.01


# ---- memory -----------------------------------------------------------------------------------------------------


def test_short_memory_means_fewer_then_smaller_tiles_and_is_said() -> None:
    model = Plain(lambda tiles: 1 - tiles, limit_px=32 * 32)
    said: list[str] = []
    image = photo(100, 120)
    (made,), plan = restore(model, Enlarged(image, 1), Plan(64, 16, 4), say=said.append)
    np.testing.assert_allclose(made, 1 - image, atol=1e-6)
    assert plan == Plan(32, 8, 1)
    assert said == [
        "out of memory with 4 tiles of 64 px at once, trying 2 of 64 px",
        "out of memory with 2 tiles of 64 px at once, trying 1 of 64 px",
        "out of memory with 1 tiles of 64 px at once, trying 1 of 32 px",
    ]


def test_no_memory_at_all_is_said_in_one_sentence() -> None:
    with pytest.raises(MemoryShortError, match="single tiles of 16 px, for a result of 120 x 100 px; free some"):
        restore(Plain(None, limit_px=0), Enlarged(photo(100, 120), 1), Plan(64, 16, 1), sr_scales=(0, 1))


def test_memory_does_not_grow_with_the_height_of_the_result() -> None:
    def peak_bytes(height: int) -> int:
        enlarged = Enlarged(np.full((height, 40, 3), 0.5, np.float32), 8)
        bands = restored_bands(Plain(lambda tiles: tiles), enlarged, Plan(64, 8, 4), color_fix="wavelet")
        tracemalloc.start()
        for _, images in bands:
            assert images.shape[1] < 200
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(600) < 1.2 * peak_bytes(100)


def test_another_runtime_error_is_not_taken_for_short_memory() -> None:
    def broken(tiles: np.ndarray) -> np.ndarray:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        restore(Plain(broken), Enlarged(photo(20, 20), 1), Plan(64, 16, 1))


def test_tiles_fit_the_base(restorer: Restorer) -> None:
    workers = restorer.workers
    assert restorer.multiple == 8
    assert plan_for(restorer) == Plan(112, 8, 8 * workers, sides=(104, 112, 120))
    assert plan_for(restorer, 100) == Plan(104, 8, 8 * workers)
    assert plan_for(restorer, 16) == Plan(16, 8, 8 * workers)
    assert plan_for(restorer, 250) == Plan(256, 8, 8 * workers)
    assert plan_for(restorer, 64, 0, 3, 2) == Plan(64, 0, 3, 2)
    large = copy.copy(restorer)
    large.num_parameters = 12_000_000_000
    assert plan_for(large) == Plan(1024, 128, 1)
    with pytest.raises(MlkitError, match="--overlap 64 is more than half of tiles of 96 px; give 48 or less"):
        plan_for(restorer, 96, 60)


# ---- opening ----------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_an_error(adapter: Path) -> None:
    broken = open_restorer(str(adapter), precision="fp32")
    with torch.no_grad():
        next(broken.base.transformer.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"lora gives values that are not finite in fp32; try --precision fp32"):
        restore(broken, Enlarged(photo(16, 16), 1), plan_for(broken))


def checkpoint_of(folder: Path, model: LoraModel, seed: int, averaged: bool = False, task: str = "sr") -> Path:
    """Return a checkpoint of the stage `lora` with random weights."""
    net = LoraNet(model)
    torch.manual_seed(seed)
    trained = {name: value for name, value in net.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for value in trained.values():
            value.normal_(std=0.1)
    settings = SrSettings(model=model, train=TrainSettings(steps=6)).model_dump(mode="json") | {"task": task}
    info = {"task": task, "step": 6, "settings": settings, "preprocessing": {}}
    ema = {name: value.detach() * 0.5 for name, value in trained.items()} if averaged else None
    save_checkpoint(folder, net, info=info, ema=ema)
    return folder


def test_a_checkpoint_opens_with_its_own_t_lr_and_averaged_weights(adapter: Path, tmp_path: Path) -> None:
    model = LoraModel(base=str(adapter.parent / "base"), rank=RANK, alpha=RANK, t_lr=0.4)
    plain = open_restorer(str(checkpoint_of(tmp_path / "a" / "ckpt-6", model, 1)), precision="fp32")
    averaged = open_restorer(str(checkpoint_of(tmp_path / "b" / "ckpt-6", model, 1, averaged=True)), precision="fp32")
    assert plain.t_lr == averaged.t_lr == 0.4
    own = dict(plain.base.transformer.named_parameters())
    for name, value in averaged.base.transformer.named_parameters():
        torch.testing.assert_close(value, own[name] * (0.5 if ".lora_" in name else 1.0))


def test_a_base_that_moved_can_be_named(adapter: Path, tmp_path: Path, restorer: Restorer) -> None:
    moved = tmp_path / "lora"
    moved.mkdir()
    stored = json.loads((adapter / "adapter_config.json").read_text())
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (moved / name).write_bytes((adapter / name).read_bytes())
    (moved / "adapter_config.json").write_text(json.dumps(stored | {"base_model_name_or_path": "/nowhere"}))
    with pytest.raises(DataError, match="base /nowhere does not exist"):
        open_restorer(str(moved))
    opened = open_restorer(str(moved), base=str(adapter.parent / "base"), precision="fp32")
    np.testing.assert_array_equal(opened(tiles()), restorer(tiles()))
    (moved / "adapter_config.json").write_text(json.dumps(stored | {"base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="does not say which base it is for; give --base FOLDER or HUB-ID"):
        open_restorer(str(moved))


def test_checkpoints_of_others_are_refused(adapter: Path, tmp_path: Path) -> None:
    model = LoraModel(base=str(adapter.parent / "base"), rank=RANK, alpha=RANK)
    sar = checkpoint_of(tmp_path / "sar" / "ckpt-6", model, 1, task="sar")
    with pytest.raises(CheckpointError, match="is of task 'sar', not 'sr'"):
        open_restorer(str(sar))
    with pytest.raises(MlkitError, match="unknown run 'nothing'"):
        open_restorer("nothing")


@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (512, 512), (480, 320), (3000, 4000)])
def test_a_fitted_side_makes_no_more_pixels_than_the_others(height: int, width: int) -> None:
    plan = Plan(112, 8, 8, sides=(104, 112, 120))

    def pixels(side: int) -> int:
        counts = [1 if length <= side else 1 + -(-(length - side) // (side - 8)) for length in (height, width)]
        return counts[0] * counts[1] * side**2

    fitted = plan.fitted(height, width)
    assert pixels(fitted.tile) <= 1.04 * min(
        pixels(side) for side in plan.sides
    )  # attention prefers small ones a little
    assert fitted.smaller(8, 4000) is not None and fitted.fitted(height, width) == fitted


def test_a_side_that_was_asked_for_is_kept() -> None:
    plan = Plan(112, 8, 8)
    assert plan.fitted(1000, 1000) == plan
