"""Claims of tasks/sar/task.py and images.py: the loss, the scores, the panels, and the user's own scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import laplace
from scipy.special import polygamma
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest
from mlkit.errors import DataError
from mlkit.settings import TrainSettings
from mlkit.tasks.sar.dataset import build_dataset
from mlkit.tasks.sar.model import Autoencoder
from mlkit.tasks.sar.settings import SarBuild, SarLoss, SarModel, SarSettings
from mlkit.tasks.sar.task import SarTask

LOW, HIGH = -28.0, 2.0
NetOf = Callable[..., Autoencoder]


def task_with(**loss: float) -> SarTask:
    return SarTask(SarSettings(model=SarModel(base_channels=4), loss=SarLoss(**loss), train=TrainSettings(steps=1)))


class Returns(nn.Module):
    """A network whose output is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, image: Tensor) -> Tensor:
        return self.output


def db_images(count: int = 3, height: int = 112, width: int = 160, seed: int = 0) -> np.ndarray:
    """Return speckle over calm and busy ground in dB, [B, H, W], a few pixels out of the range."""
    rng = np.random.default_rng(seed)
    ground = np.kron(rng.uniform(-20, -6, (count, height // 16, width // 16)), np.ones((1, 16, 16)))
    ground[:, :64, :64] = -15
    return ground + 10 * np.log10(rng.gamma(4.4, 1 / 4.4, ground.shape))


def unit(db: np.ndarray) -> Tensor:
    return torch.from_numpy(((db - LOW) / (HIGH - LOW)).clip(0, 1).astype(np.float32))[:, None]


def batch_of(image: Tensor) -> dict[str, Tensor]:
    return {"image": image, "db_range": torch.tensor([[LOW, HIGH]] * len(image))}


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    """Return originals and reconstructions that keep a part of the speckle, another one for each image."""
    db = db_images()
    calm = np.stack(
        [share * image + (1 - share) * image.mean() for share, image in zip((0.5, 0.7, 0.9), db, strict=True)]
    )
    return unit(db), unit(calm + np.random.default_rng(9).normal(0, 0.5, db.shape))


def skimage_ssim(x: Tensor, y: Tensor) -> float:
    return float(
        structural_similarity(
            x.squeeze().numpy().astype(np.float64),
            y.squeeze().numpy().astype(np.float64),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


# ---- loss -----------------------------------------------------------------------------------------------------------


def test_the_loss_is_as_documented_by_numpy_and_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    original, made = images
    mse = float(np.mean((made.double().numpy() - original.double().numpy()) ** 2))
    ssim = np.mean([skimage_ssim(x, y) for x, y in zip(made, original, strict=True)])
    assert 0.3 * (1 - ssim) > 0.02 and mse > 1e-3  # both terms would be missed
    loss = task_with().loss(Returns(made), batch_of(original), step=0)
    assert loss.total.item() == pytest.approx(0.7 * mse + 0.3 * (1 - ssim), abs=2e-6)
    assert {key: part.item() for key, part in loss.parts.items()} == pytest.approx(
        {"mse": mse, "ssim_loss": 1 - ssim}, abs=2e-6
    )
    changed = task_with(mse_weight=2.0, ssim_weight=0.05).loss(Returns(made), batch_of(original), step=0)
    assert changed.total.item() == pytest.approx(2 * mse + 0.05 * (1 - ssim), abs=2e-6)


def test_the_loss_is_that_of_a_real_network_and_its_gradient_lowers_it(net_of: NetOf) -> None:
    net, original = net_of("baseline"), unit(db_images(2))
    task = task_with()
    with torch.no_grad():
        made = net(original)
    mse = float((made.double() - original.double()).square().mean())
    ssim = np.mean([skimage_ssim(x, y) for x, y in zip(made, original, strict=True)])
    loss = task.loss(net, batch_of(original), step=0)
    assert loss.total.item() == pytest.approx(0.7 * mse + 0.3 * (1 - ssim), abs=2e-6)
    loss.total.backward()
    assert all(part.grad_fn is None for part in loss.parts.values())
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter -= 1e-2 * parameter.grad
    assert task.loss(net, batch_of(original), step=1).total.item() < loss.total.item()


# ---- scores ---------------------------------------------------------------------------------------------------------


def enl_by_numpy(original: np.ndarray, *images: np.ndarray) -> list[float]:
    """Return ENL as documented: windows of 25 px every 12, the most homogeneous fifth of the original."""

    def windows(values: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(values, (25, 25))[::12, ::12].reshape(-1, 625)

    def looks(unit_db: np.ndarray) -> np.ndarray:
        intensity = windows(10 ** ((unit_db * (HIGH - LOW) + LOW) / 10))
        return intensity.mean(axis=1) ** 2 / intensity.var(axis=1, ddof=1)

    clipped = windows((original <= 0) | (original >= 1)).mean(axis=1)
    usable = np.flatnonzero(clipped <= 0.02)
    calmest = usable[np.argsort(-looks(original)[usable])][: max(1, round(0.2 * len(usable)))]
    assert len(calmest) % 2 == 1  # its median is one of them
    return [float(np.median(looks(image)[calmest])) for image in images]


def enl_ratio_by_numpy(made: np.ndarray, original: np.ndarray) -> float:
    of_made, of_original = enl_by_numpy(original, made, original)
    return of_made / of_original


def wall_by_numpy(original: np.ndarray) -> float:
    sigma_db = 10 / np.log(10) * np.sqrt(polygamma(1, enl_by_numpy(original, original)[0]))
    return float(-20 * np.log10(sigma_db / (HIGH - LOW)))


def test_each_score_is_that_of_an_independent_one_image_by_image(images: tuple[Tensor, Tensor]) -> None:
    original, made = images
    scores = task_with().metrics({"image": made}, batch_of(original))
    of_the_plan = {"enl_ratio_pooled_db", "epi_sobel_cosine"}  # tests/metrics has them
    assert scores.keys() == {"loss", "psnr", "rmse_db", "ssim", "enl_ratio", "epi", "psnr_wall", "psnr_over_wall"} | (
        of_the_plan
    )
    for place in range(len(original)):
        x, y = (value[place, 0].double().numpy() for value in (made, original))
        mse, ssim = np.mean((x - y) ** 2), skimage_ssim(made[place], original[place])
        high = [laplace(image)[1:-1, 1:-1].ravel() for image in (x, y)]
        expected = {
            "loss": 0.7 * mse + 0.3 * (1 - ssim),
            "psnr": peak_signal_noise_ratio(y, x, data_range=1.0),
            "rmse_db": 30 * np.sqrt(mse),  # the range is 30 dB
            "ssim": ssim,
            "enl_ratio": enl_ratio_by_numpy(x, y),
            "epi": np.corrcoef(*high)[0, 1],
            "psnr_wall": wall_by_numpy(y),
            "psnr_over_wall": peak_signal_noise_ratio(y, x, data_range=1.0) - wall_by_numpy(y),
        }
        found = {key: float(values[place]) for key, values in scores.items() if key not in of_the_plan}
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert len({round(float(value), 3) for value in scores["psnr"]}) == 3  # images unlike enough to be mistaken


def test_the_dataset_range_decides_what_errors_in_db_are(images: tuple[Tensor, Tensor]) -> None:
    original, made = images
    narrow = task_with().metrics({"image": made}, batch_of(original))
    wide = task_with().metrics({"image": made}, {"image": original, "db_range": torch.tensor([[-58.0, 2.0]] * 3)})
    torch.testing.assert_close(wide["rmse_db"], 2 * narrow["rmse_db"])
    assert torch.equal(wide["psnr"], narrow["psnr"])  # of the normalised image


# ---- prediction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 64), (1, 7), (33, 95)])
def test_images_of_any_size_come_back_in_their_size(net_of: NetOf, height: int, width: int) -> None:
    net = net_of("baseline")
    image = torch.from_numpy(np.random.default_rng(0).random((2, 1, height, width), dtype=np.float32))
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -height % 16), (0, -width % 16)), mode="edge")
    with torch.no_grad():
        expected = net(torch.from_numpy(padded))[..., :height, :width]
        output = task_with().predict(net, {"image": image})["image"]
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_outputs_stay_in_the_range_of_images() -> None:
    wild = torch.tensor([[-3.0, 0.25], [0.75, 9.0]]).repeat(8, 8)[None, None]
    output = task_with().predict(Returns(wild), {"image": torch.zeros(1, 1, 16, 16)})["image"]
    assert output[0, 0, :2, :2].tolist() == [[0, 0.25], [0.75, 1]]


# ---- panels ---------------------------------------------------------------------------------------------------------


def test_panels_show_the_images_and_say_how_good_they_are(images: tuple[Tensor, Tensor]) -> None:
    original, made = images
    for index in range(3):
        panels = task_with().panels({"image": made}, batch_of(original), index)
        x, y = (value[index, 0].double().numpy() for value in (made, original))
        mse = np.mean((x - y) ** 2)
        high = [laplace(image)[1:-1, 1:-1].ravel() for image in (x, y)]
        assert [panel.title for panel in panels] == ["Original", "Reconstructed", "|difference|"]
        assert [panel.note for panel in panels] == [
            f"-28.0 to 2.0 dB   speckle wall {wall_by_numpy(y):.2f} dB",
            f"PSNR {-10 * np.log10(mse):.2f} dB   SSIM {skimage_ssim(made[index], original[index]):.3f}\n"
            f"ENL ratio {enl_ratio_by_numpy(x, y):.2f}   EPI {np.corrcoef(*high)[0, 1]:.3f}",
            f"RMSE {30 * np.sqrt(mse):.2f} dB",
        ]
        for panel, values in zip(panels[:2], (y, x), strict=True):
            assert panel.image_hwc.shape == (112, 160, 3) and panel.image_hwc.dtype == np.float32
            # grey, low dB dark: one step of the 256 is 0.004
            np.testing.assert_allclose(panel.image_hwc, np.repeat(values[..., None], 3, axis=2), atol=0.003)
            assert panel.scale is not None
            assert (panel.scale.label, panel.scale.vmin, panel.scale.vmax) == ("backscatter (dB)", LOW, HIGH)
        difference = panels[2]
        assert difference.scale is not None
        assert (difference.scale.label, difference.scale.vmin) == ("|difference| (dB)", 0)
        assert difference.scale.vmax == pytest.approx(0.3 * 30)  # comparable between images: no scale of its own
        brightness = difference.image_hwc @ np.array([0.2126, 0.7152, 0.0722])  # of the heat scale it rises with errors
        error = np.abs(x - y)
        largest, least = error >= np.quantile(error, 0.99), error <= np.quantile(error, 0.01)
        assert brightness[largest].min() > brightness[least].max()


def test_where_the_scene_is_known_without_speckle_it_is_scored_and_shown(images: tuple[Tensor, Tensor]) -> None:
    original, made = images
    truth = (original + 0.05).clamp(0, 1)
    batch = {**batch_of(original), "truth": truth}
    scores = task_with().metrics({"image": made}, batch)
    panels = task_with().panels({"image": made}, batch, 1)
    expected = peak_signal_noise_ratio(truth[1, 0].double().numpy(), made[1, 0].double().numpy(), data_range=1.0)
    assert float(scores["psnr_truth"][1]) == pytest.approx(expected, abs=1e-4)
    assert [panel.title for panel in panels] == ["Original", "Without speckle", "Reconstructed", "|difference|"]
    assert [panel.role for panel in panels] == ["given", "given", "made", "detail"]
    assert panels[2].note.splitlines()[2] == f"PSNR to truth {expected:.2f} dB"


def test_an_image_without_a_homogeneous_window_says_so() -> None:
    image = unit(db_images(1, 16, 16))
    panels = task_with().panels({"image": image * 0.9}, batch_of(image), 0)
    assert "ENL ratio none   EPI " in panels[1].note
    assert panels[0].note == "-28.0 to 2.0 dB"


# ---- the user's own scenes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    folder = tmp_path_factory.mktemp("sar")
    np.save(folder / "scene.npy", (10 ** (db_images(1, 192, 192)[0] / 10)).astype(np.float32))
    build = SarBuild(patch=32, stride=32, block=32, guard=0)
    built = build_dataset([folder / "scene.npy"], folder / "out", build=build).manifest
    return replace(built, preprocessing={**built.preprocessing, "db_min": LOW, "db_max": HIGH})


def saved(path: Path, db: np.ndarray) -> Path:
    np.save(path, (10 ** (db / 10)).astype(np.float32))
    return path


def one(task: SarTask, data: DatasetManifest, path: Path, **how: Any) -> np.ndarray:
    """Return the image that the task reads from a file, [H, W]."""
    sample = task.images_source(data, [path], **how).sample(0, np.random.default_rng(0))
    assert sample["db_range"].tolist() == [LOW, HIGH]
    image: np.ndarray = sample["image"].numpy()
    assert image.dtype == np.float32 and image.ndim == 3 and image.shape[0] == 1
    return image[0]


def test_own_scenes_are_scaled_as_the_training_data_were(dataset: DatasetManifest, tmp_path: Path) -> None:
    db = db_images(1, 48, 80)[0]
    path = saved(tmp_path / "mine.npy", db)
    np.testing.assert_allclose(one(task_with(), dataset, path), unit(db[None])[0, 0], atol=1e-5)
    source = task_with().images_source(dataset, [path, path])
    assert len(source) == 2 and source.sample_id(1) == "mine.npy"


def test_a_large_scene_is_shown_by_its_middle(dataset: DatasetManifest, tmp_path: Path) -> None:
    db = db_images(1, 1056, 48)[0]
    image = one(task_with(), dataset, saved(tmp_path / "mine.npy", db))
    np.testing.assert_allclose(image, unit(db[None, 16:1040])[0, 0], atol=1e-5)


def test_own_scenes_are_enlarged_and_cut_to_the_middle(dataset: DatasetManifest, tmp_path: Path) -> None:
    db = db_images(1, 32, 48)[0]
    path = saved(tmp_path / "mine.npy", db)
    # torch's antialiased bicubic has the same kernel (a = -0.5)
    enlarged = nn.functional.interpolate(unit(db[None]), scale_factor=2, mode="bicubic", antialias=True)
    np.testing.assert_allclose(one(task_with(), dataset, path, upscale=2), enlarged[0, 0].clamp(0, 1), atol=1e-4)
    cut = one(task_with(), dataset, path, fit_multiple=20)
    np.testing.assert_allclose(cut, unit(db[None])[0, 0, 6:26, 4:44], atol=1e-5)


def test_masked_pixels_of_own_scenes_are_shown_as_the_lowest_value(dataset: DatasetManifest, tmp_path: Path) -> None:
    intensity = 10 ** (db_images(1, 32, 32)[0] / 10)
    intensity[4:9, 5] = np.nan
    np.save(tmp_path / "mine.npy", intensity.astype(np.float32))
    image = one(task_with(), dataset, tmp_path / "mine.npy")
    assert (image[4:9, 5] == 0).all() and np.isfinite(image).all()


def test_senseless_sizes_are_refused(dataset: DatasetManifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^upscale 0 and fit multiple 16 must be 1 or more$"):
        task_with().images_source(dataset, [tmp_path], upscale=0, fit_multiple=16)


def test_batches_of_the_validation_part_go_through_every_verb(dataset: DatasetManifest, net_of: NetOf) -> None:
    task, net = task_with(), net_of("baseline")
    source = task.eval_source(dataset)
    samples = [source.sample(index, np.random.default_rng(0)) for index in range(2)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    with torch.no_grad():
        scores = task.metrics(task.predict(net, batch), batch)
    assert task.primary_metric in scores and all(len(values) == 2 for values in scores.values())
