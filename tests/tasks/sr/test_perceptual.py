"""The perceptual term: LPIPS against a computation in numpy, what it reads, and the term that needs no weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torchmetrics.functional.image
from safetensors.torch import save_file
from torch import Tensor

from mlkit.errors import DataError
from mlkit.metrics.image import ms_ssim, ssim
from mlkit.tasks.sr.lpips import open_lpips
from mlkit.tasks.sr.perceptual import Perceptual, multi_scale_gradient, structure_loss, variation_maps

VGG16 = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)} | {
    17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)
}  # fmt: skip
POOLED_BEFORE, TAPPED = {5, 10, 17, 24}, (2, 7, 14, 21, 28)


def pictures(side: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return crops of a photograph, and noisy ones that leave [0, 1]."""
    photograph = skimage.data.astronaut().astype(np.float32) / 255
    crops = np.stack([photograph[40 * i : 40 * i + side, 180 : 180 + side] for i in range(batch)])
    image = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
    return image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)), image


def random_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, (before, after) in VGG16.items():
        scale = (2 / (9 * before)) ** 0.5
        weights[f"features.{number}.weight"] = scale * torch.randn(after, before, 3, 3, generator=generator)
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(after, generator=generator)
    # the published heads, without the backbone that they belong to
    heads = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / "vgg.pth"
    weights |= torch.load(heads, map_location="cpu", weights_only=True)
    assert weights["lin4.model.1.weight"].shape == (1, 512, 1, 1)
    return weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights()


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Tensor]) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "vgg.safetensors"
    save_file(weights, path)
    return path


def numpy_lpips(weights: dict[str, Tensor], x: np.ndarray, y: np.ndarray) -> float:
    """LPIPS of two [3, H, W] images in [-1, 1] in float64, from the paper and the constants of its code."""

    def features(image: np.ndarray) -> list[np.ndarray]:
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        planes = (image - shift[:, None, None]) / scale[:, None, None]
        found = []
        for number in VGG16:
            if number in POOLED_BEFORE:
                channels, height, width = planes.shape
                planes = planes.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(planes, ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
            kernel = weights[f"features.{number}.weight"].double().numpy()
            planes = np.tensordot(kernel, windows, axes=((1, 2, 3), (0, 3, 4)))
            planes = np.maximum(planes + weights[f"features.{number}.bias"].double().numpy()[:, None, None], 0)
            if number in TAPPED:
                found.append(planes / np.sqrt((planes**2).sum(axis=0)))
        return found

    distance = 0.0
    for level, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        head = weights[f"lin{level}.model.1.weight"].double().numpy()[0]
        distance += float((head * (a - b) ** 2).sum(axis=0).mean())
    return distance


def numpy_variation(image: np.ndarray) -> np.ndarray:
    return sum(np.abs(np.diff(image, axis=axis, append=np.take(image, [-1], axis))) for axis in (1, 2))  # type: ignore


def test_lpips_agrees_with_a_computation_in_numpy(weights: dict[str, Tensor], weights_file: Path) -> None:
    made, image = pictures()
    lpips, _ = open_lpips(weights_file)
    expected = [
        numpy_lpips(weights, 2 * a.double().numpy() - 1, 2 * b.double().numpy() - 1)
        for a, b in zip(made, image, strict=True)
    ]
    np.testing.assert_allclose(lpips(made, image).numpy(), expected, rtol=1e-4)
    assert lpips(image, image).tolist() == [0.0, 0.0]


def test_tv_lpips_compares_maps_over_their_common_maximum(weights: dict[str, Tensor], weights_file: Path) -> None:
    made, image = (one[:1] for one in pictures())
    maps = [numpy_variation(one[0].double().numpy()) for one in (made, image)]
    largest = max(one.max() for one in maps)
    expected = numpy_lpips(weights, 2 * made[0].double().numpy() - 1, 2 * image[0].double().numpy() - 1)
    first, second = (2 * one / largest - 1 for one in maps)
    lpips, _ = open_lpips(weights_file)
    tensors = [torch.from_numpy(one).float()[None] / 2 + 0.5 for one in (first, second)]
    alone = Perceptual(weights_file, tv_share=0.0)(made, image).item()
    assert alone == pytest.approx(expected, rel=1e-4)
    both = Perceptual(weights_file, tv_share=0.7)(made, image).item()
    assert both == pytest.approx(expected + 0.7 * lpips(*tensors).item(), rel=1e-4)
    assert both > alone * 1.05


def test_names_of_the_lpips_package_are_read_and_a_classifier_beside_is_left_out(
    weights: dict[str, Tensor], weights_file: Path, tmp_path: Path
) -> None:
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("features."):
            number = int(name.split(".")[1])
            stage = sum(number > last for last in TAPPED) + 1
            renamed[name.replace("features.", f"net.slice{stage}.")] = tensor
        else:
            renamed[name.replace("lin", "lins.").replace("lins..", "lins.")] = tensor
    extra = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "classifier.0.bias": torch.zeros(3)}
    save_file(renamed | extra, tmp_path / "other.safetensors")
    assert "net.slice3.10.weight" in renamed and "lins.4.model.1.weight" in renamed
    pair = pictures(16, 1)
    first, _ = open_lpips(weights_file)
    second, _ = open_lpips(tmp_path / "other.safetensors")
    assert torch.equal(first(*pair), second(*pair))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"features.28.bias": None}, r"lpips_weights: \S+ lacks features\.28\.bias$"),
        ({"lin3.model.1.weight": None}, r"lacks lin3\.model\.1\.weight$"),
        ({"features.1.weight": torch.zeros(1)}, r"holds features\.1\.weight, which LPIPS with VGG16 has not$"),
        ({"fire.weight": torch.zeros(1)}, r"holds fire\.weight, which LPIPS"),
        (
            {"features.0.weight": torch.zeros(64, 3, 11, 11)},
            r"has features\.0\.weight of shape \[64, 3, 11, 11\]",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_name(
    change: dict[str, Tensor | None], sentence: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = {name: tensor for name, tensor in (weights | change).items() if tensor is not None}
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=sentence):
        Perceptual(tmp_path / "w.safetensors")


def test_a_missing_and_a_foreign_file_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.safetensors does not exist; give a safetensors file with VGG16"):
        Perceptual(tmp_path / "no.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(DataError, match=r"text\.safetensors is no safetensors file"):
        Perceptual(tmp_path / "text.safetensors")


def test_it_says_what_it_computes_and_by_which_weights(weights_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    assert (
        Perceptual(weights_file).describe() == f"LPIPS (VGG16) + 0.5 LPIPS of total variation, weights sha256 {digest}"
    )
    assert Perceptual(weights_file, tv_share=0).describe() == f"LPIPS (VGG16), weights sha256 {digest}"
    said = Perceptual().describe()
    assert "MS-SSIM" in said and "no weights of LPIPS" in said
    assert f"perceptual term: {said}" in caplog.text


@pytest.mark.parametrize("kind", ["lpips", "free"])
def test_the_term_has_a_finite_gradient_that_leads_to_the_original(kind: str, weights_file: Path) -> None:
    term = Perceptual(weights_file if kind == "lpips" else None)
    made, image = pictures(32, 1)
    made.requires_grad_(True)
    before = term(made, image)
    before.backward()
    assert made.grad is not None and made.grad.isfinite().all() and made.grad.abs().sum() > 0
    with torch.no_grad():
        after = term(made - 0.02 * made.grad / made.grad.abs().max(), image)
    assert after < before


@pytest.mark.parametrize("kind", ["lpips", "free"])
def test_equal_and_flat_images_cost_nothing_and_give_no_nan(kind: str, weights_file: Path) -> None:
    term = Perceptual(weights_file if kind == "lpips" else None)
    _, image = pictures(32, 1)
    for picture in (image, torch.zeros_like(image), torch.ones_like(image)):
        made = picture.clone().requires_grad_(True)
        value = term(made, picture)
        value.backward()
        assert value.item() == pytest.approx(0.0, abs=1e-6)
        assert made.grad is not None and made.grad.isfinite().all()


def test_under_autocast_the_term_is_computed_in_float32() -> None:
    made, image = pictures()
    term = Perceptual()
    with torch.autocast("cpu", torch.bfloat16):
        assert term(made.bfloat16(), image).item() == pytest.approx(
            term(made.bfloat16().float(), image).item(), abs=1e-6
        )


def test_the_structure_term_is_ms_ssim_where_that_fits_and_ssim_where_only_one_scale_does() -> None:
    made, image = pictures(180)
    made = made.clamp(0, 1)
    assert structure_loss(made, image).item() == pytest.approx(1 - ms_ssim(made, image).mean().item(), abs=1e-5)
    made, image = made[..., :21, :30], image[..., :21, :30]
    assert structure_loss(made, image).item() == pytest.approx(1 - ssim(made, image).mean().item(), abs=1e-4)
    assert structure_loss(made[..., :10], image[..., :10]).item() == 0.0


def test_between_them_exponents_of_the_scales_that_fit_sum_to_one() -> None:
    # of flat images only the luminance of the coarsest scale differs
    flat = torch.full((1, 3, 180, 180), 0.5)
    offset = flat + 0.2
    for side in (44, 90, 180):
        structure = structure_loss(offset[..., :side, :side], flat[..., :side, :side]).item()
        num = {44: 3, 90: 4, 180: 5}[side]
        luminance = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
        weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:num]
        assert structure == pytest.approx(1 - luminance ** (weights[-1] / sum(weights)), abs=1e-5)


def test_gradients_are_compared_at_three_scales() -> None:
    made, image = (one.double() for one in pictures(24, 1))

    def expected(difference: np.ndarray) -> float:
        total = 0.0
        for _ in range(3):
            total += (np.abs(np.diff(difference, axis=1)).mean() + np.abs(np.diff(difference, axis=2)).mean()) / 2 / 3
            channels, height, width = difference.shape
            difference = difference.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        return total

    assert multi_scale_gradient(made, image).item() == pytest.approx(expected((made - image)[0].numpy()), rel=1e-9)
    assert multi_scale_gradient(made[..., :2, :2], image[..., :2, :2]).isfinite()


def test_variation_maps_are_divided_by_the_larger_maximum_of_each_pair() -> None:
    made, image = pictures()
    factors = torch.tensor([1.0, 0.01]).view(2, 1, 1, 1)
    for first, second in ((made, image), (image, made)):
        maps = variation_maps(factors * first, factors * second)
        for pair in range(2):
            raw = [numpy_variation(one[pair].double().numpy()) for one in (first, second)]
            largest = max(one.max() for one in raw)
            for found, expected in zip(maps, raw, strict=True):
                np.testing.assert_allclose(found[pair].numpy(), expected / largest, atol=1e-4)


def test_lpips_where_a_layer_sees_nothing_has_no_nan(weights: dict[str, Tensor], tmp_path: Path) -> None:
    silent = weights | {"features.2.bias": torch.full((64,), -1000.0)}
    save_file(silent, tmp_path / "silent.safetensors")
    made, image = pictures(16, 1)
    made.requires_grad_(True)
    Perceptual(tmp_path / "silent.safetensors")(made, image).backward()
    assert made.grad is not None and made.grad.isfinite().all()
