"""The network: near identity at the start, bounded, any size, weights of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mlkit.errors import SettingsError
from mlkit.tasks.lens.backbones import load_imagenet, with_coordinates
from mlkit.tasks.lens.geometry import IDENTITY, NAMES, distorted_points, frame_of, identity_grid
from mlkit.tasks.lens.lines import NUM_FACTS
from mlkit.tasks.lens.model import LensNet, bounds, build_net, maps_of, saturated
from mlkit.tasks.lens.settings import LensModel

TINY: dict[str, Any] = {"channels": 8, "head_channels": 16}


def net(**changes: Any) -> LensNet:
    torch.manual_seed(0)
    return build_net(LensModel.model_validate({**TINY, **changes}))


def given(batch: int = 2, height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, 3, height, width), torch.tensor([frame_of(2, 3)] * batch)


@pytest.mark.parametrize("stage", ["param_only", "hybrid"])
def test_at_the_start_no_place_moves(stage: str) -> None:
    image, frame = given()
    outputs = net(stage=stage)(image, frame)
    assert torch.allclose(outputs["params"], torch.tensor([IDENTITY]), atol=1e-6)
    assert not outputs["flow"].any() and outputs["flow"].shape == (2, 2, 8, 8)
    for grid in maps_of(outputs, frame, 40, 60):
        assert torch.allclose(grid, identity_grid(40, 60).expand_as(grid), atol=1e-6)


def test_parameters_stay_within_their_bounds_whatever_the_weights() -> None:
    model = net(stage="hybrid", max_disp=0.03)
    with torch.no_grad():
        model.parametric.last.bias.copy_(torch.tensor([50.0, -50, 50, -50, 50, -50, 50, -50]))
        model.residual.last.bias.fill_(50.0)
    outputs = model(*given())
    expected = [side[place % 2 == 0] for place, side in enumerate(bounds(LensModel()))]
    assert outputs["params"][0].tolist() == pytest.approx([float(value) for value in expected], abs=1e-6)
    assert torch.allclose(outputs["flow"], torch.full_like(outputs["flow"], 0.03))
    assert dict(saturated(outputs["place"], 0.98)) == dict.fromkeys(NAMES, 1.0)


def test_a_parameter_at_its_bound_still_learns() -> None:
    model = net()
    with torch.no_grad():
        model.parametric.last.bias[0] = 3.0
    model(*given())["params"][:, 0].sum().backward()
    assert model.parametric.last.bias.grad is not None
    assert float(model.parametric.last.bias.grad[0]) > 1e-3


def test_lines_out_of_range_are_followed_as_lines_that_lie_within() -> None:
    """Of three pictures one lens is within, one has too large a k3, one too small a scale: what is followed moves
    places nearly as asked, which cut parameters do not."""
    model = net(lines=True)
    assert model.parametric.gate is not None
    with torch.no_grad():
        model.parametric.gate.bias.fill_(9.0)
    image, frame = given(3)
    asked = torch.tensor([IDENTITY] * 3)
    asked[:, :3] = torch.tensor([[-0.1, 0.02, 0.0], [0.14, -0.245, 0.209], [-0.25, 0.08, 0.0]])
    asked[2, NAMES.index("scale")] = 0.87
    made = model(image, frame, (asked, torch.zeros(3, NUM_FACTS)))["params"].detach()
    low, high = (torch.tensor(side) for side in zip(*bounds(LensModel()), strict=True))
    assert bool(((made >= low) & (made <= high)).all())
    assert torch.allclose(made[0], asked[0], atol=1e-5)
    places = torch.stack((torch.linspace(0.05, 1.0, 40), torch.zeros(40)), dim=-1).expand(3, -1, -1)
    aim = distorted_points(asked, places)
    missed, cut = (
        (distorted_points(some, places) - aim).norm(dim=-1).mean(dim=1) for some in (made, asked.clamp(low, high))
    )
    assert bool((missed[1:] < 0.5 * cut[1:]).all())


def test_only_the_images_at_a_bound_are_counted() -> None:
    place = torch.zeros(4, 8)
    place[0, 1], place[3, 1], place[2, 7] = -0.99, 0.999, 0.97
    assert saturated(place, 0.98) == [("k2", 0.5)]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (128, 128)])
def test_any_size_goes_through(height: int, width: int) -> None:
    outputs = net(stage="hybrid")(*given(1, height, width))
    assert outputs["params"].shape == (1, 8) and outputs["flow"].shape == (1, 2, height // 8, width // 8)


def test_coordinates_are_isotropic() -> None:
    image, frame = given(1, 30, 40)
    x, y, r = with_coordinates(image, frame)[0, 3:]
    half_width, half_height = frame_of(2, 3)
    assert float(x[0, -1]) == pytest.approx(half_width * (1 - 1 / 40), abs=1e-6)
    assert float(y[-1, 0]) == pytest.approx(half_height * (1 - 1 / 30), abs=1e-6)
    assert torch.allclose(r, torch.hypot(x, y)) and float(r.max()) < 1


def test_of_parameters_alone_the_residual_head_is_there_but_untrained() -> None:
    alone, both = net(), net(stage="hybrid")
    assert alone.state_dict().keys() == both.state_dict().keys()
    assert not any(value.requires_grad for value in alone.residual.parameters())
    assert all(value.requires_grad for value in both.parameters())


def test_scale_range_must_hold_identity() -> None:
    with pytest.raises(ValueError, match=r"scale_range from 1\.01 to 1\.2 does not hold 1"):
        LensModel(scale_range=(1.01, 1.2))


# ---- ResNets ------------------------------------------------------------------------------------------------------


def torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return transformers' weights under torchvision's names, written down from torchvision's ResNet."""
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "embedder":
            new = f"{'conv1' if 'convolution' in key else 'bn1'}.{parts[-1]}"
            value = value[:, :3] if "convolution" in key else value
        else:
            block = f"layer{int(parts[2]) + 1}.{parts[4]}"
            if parts[5] == "shortcut":
                new = f"{block}.downsample.{0 if parts[6] == 'convolution' else 1}.{parts[-1]}"
            else:
                new = f"{block}.{'conv' if parts[7] == 'convolution' else 'bn'}{int(parts[6]) + 1}.{parts[-1]}"
        renamed[new] = value.clone()
    return renamed | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def resnet() -> LensNet:
    return build_net(LensModel(backbone="resnet34", stage="hybrid", head_channels=16), with_weights=False)


def test_a_resnet_gives_both_maps_and_begins_at_identity(resnet: LensNet) -> None:
    outputs = resnet.eval()(*given(1))
    assert torch.allclose(outputs["params"], torch.tensor([IDENTITY]), atol=1e-6)
    assert outputs["flow"].shape == (1, 2, 8, 8)


def test_torchvisions_names_are_read_and_coordinates_begin_with_nothing(resnet: LensNet, tmp_path: Path) -> None:
    state = torchvision_names(resnet.backbone.net.state_dict())  # type: ignore[union-attr]
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight"} <= set(state)
    assert "layer3.5.bn2.weight" in state and "layer4.2.conv2.weight" in state
    torch.save(state, tmp_path / "resnet34.pth")
    other = build_net(LensModel(backbone="resnet34", weights=str(tmp_path / "resnet34.pth"), head_channels=16))
    first = "embedder.embedder.convolution.weight"
    for key, value in other.backbone.net.state_dict().items():  # type: ignore[union-attr]
        expected = resnet.backbone.net.state_dict()[key]  # type: ignore[union-attr]
        if key == first:
            assert torch.equal(value[:, :3], expected[:, :3]) and not value[:, 3:].any()
        else:
            assert torch.equal(value, expected), key


def test_weights_that_do_not_fit_are_told(resnet: LensNet, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.weights nowhere\.pth does not exist; give a file of ImageNet"):
        load_imagenet(resnet.backbone, "resnet34", Path("nowhere.pth"))  # type: ignore[arg-type]
    save_file({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(SettingsError, match=r"do not fit resnet34: .* is missing"):
        load_imagenet(resnet.backbone, "resnet34", tmp_path)  # type: ignore[arg-type]
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(SettingsError, match=r"broken\.pth cannot be read"):
        load_imagenet(resnet.backbone, "resnet34", tmp_path / "broken.pth")  # type: ignore[arg-type]


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    build_net(LensModel(backbone="resnet34", head_channels=16))
    assert "resnet34 begins with random weights, since model.weights is none" in caplog.text
    caplog.clear()
    build_net(LensModel(backbone="resnet34", head_channels=16), with_weights=False)
    assert not caplog.text


def test_half_precision_changes_little() -> None:
    model = net(stage="hybrid").eval()
    with torch.no_grad():
        model.parametric.last.weight.normal_(0, 0.3)
    image, frame = given()
    exact = model(image, frame)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(image, frame)
    assert half["params"].dtype == torch.float32
    assert np.abs((half["params"] - exact["params"]).detach().numpy()).max() < 0.02
