"""Feature maps of a picture with coordinate channels: small convolutions of our own, or a ResNet with local weights.

Each returns maps at a quarter, an eighth and so on of the picture; the heads take those of strides 8 and 16 (tiny) or 8
and 32 (ResNets: He et al. 2016).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.errors import SettingsError, listing
from mlkit.tasks.lens.geometry import identity_grid
from mlkit.tasks.lens.settings import Backbone

NUM_COORDINATES = 3
NUM_DIRECTIONS = 5
_FAINT = 1e-4  # of squared gradients, below which an edge counts as none
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in sRGB
RESNETS: dict[str, dict[str, Any]] = {
    "resnet34": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet50": {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
}


def with_coordinates(image: Tensor, frame: Tensor) -> Tensor:
    """Return an image with channels x, y and r of its pixels in isotropic coordinates, [B, C + 3, H, W].

    Args:
        image: [B, C, H, W].
        frame: [B, 2]; so that r is no ellipse, whatever the picture was squeezed to.
    """
    height, width = image.shape[-2:]
    places = identity_grid(height, width, device=image.device) * frame.to(image)[:, None, None]
    radius = places.norm(dim=-1, keepdim=True)
    return torch.cat((image, torch.cat((places, radius), dim=-1).permute(0, 3, 1, 2).to(image)), dim=1)


def edge_directions(image: Tensor, frame: Tensor) -> Tensor:
    """Return which way edges run, [B, 5, H, W] in [-1, 1], whatever their contrast; 0 where there are none.

    The structure tensor's direction as cosine and sine of twice its angle, so that an edge and its reverse are the same
    and neighbours can be averaged: once against the x axis and once against the direction away from the middle, in
    isotropic coordinates; and how clear it is. Under a lens straight edges turn from place to place: linear filters see
    that in these channels, and would need many layers to see it in colours.
    """
    height, width = image.shape[-2:]
    luma = F.pad(image.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    smooth, slope = luma.new_tensor([3.0, 10.0, 3.0]) / 16.0, luma.new_tensor([-0.5, 0.0, 0.5])
    kernels = torch.stack((torch.outer(smooth, slope), torch.outer(slope, smooth)))[:, None]  # Scharr's
    half = frame.to(image)[:, :, None, None]
    x, y = (F.conv2d(luma, kernels) / half).unbind(dim=1)
    tensor = F.avg_pool2d(torch.stack((x * x - y * y, 2 * x * y, x * x + y * y), dim=1), 3, stride=1, padding=1)
    cosine, sine = tensor[:, 0], tensor[:, 1]
    size = tensor[:, 2] + _FAINT
    cosine, sine = cosine / size, sine / size
    places = identity_grid(height, width, device=image.device).to(image) * half[..., 0].permute(0, 2, 1)[:, None]
    px, py = places[..., 0], places[..., 1]
    away = (px * px + py * py).clamp_min(1e-6)
    radial_cosine, radial_sine = (px * px - py * py) / away, 2 * px * py / away
    return torch.stack(
        (
            cosine,
            sine,
            cosine * radial_cosine + sine * radial_sine,
            sine * radial_cosine - cosine * radial_sine,
            tensor[:, 2] / size,
        ),
        dim=1,
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(channels // 8, channels)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return made


class TinyBackbone(nn.Module):
    """Two residual blocks at each of a half, a quarter, an eighth and a sixteenth; every stage sees the coordinates.

    What tells a lens is how edges bend, by fractions of a pixel, and where: so little is thrown away early, and the
    place is told again where it is used.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.widths = widths[2:]
        given = 3 + NUM_DIRECTIONS
        stages: list[nn.Module] = []
        for width in widths:
            kernel = 5 if not stages else 3
            stages.append(
                nn.ModuleList(
                    (
                        nn.Conv2d(given + NUM_COORDINATES, width, kernel, stride=2, padding=kernel // 2),
                        _Residual(width),
                        _Residual(width),
                        nn.GroupNorm(width // 8, width),  # sums of blocks grow in training, into the hundreds
                    )
                )
            )
            given = width
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(image.device.type, enabled=False):
            seen = torch.cat((image.float() * 2.0 - 1.0, edge_directions(image.float(), frame)), dim=1)
        features = [seen]
        for stage in self.stages:
            x = with_coordinates(features[-1], frame)
            for layer in stage:  # type: ignore[attr-defined]
                x = layer(x)
            features.append(x)
        return features[-2], features[-1]


class ResNetBackbone(nn.Module):
    """A ResNet of the library transformers, which needs no torchvision; coordinates enter at the first convolution."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: Backbone) -> None:
        super().__init__()
        from transformers.models.resnet.configuration_resnet import ResNetConfig
        from transformers.models.resnet.modeling_resnet import ResNetBackbone as Backbone_

        shape = RESNETS[name]
        self.net = Backbone_(ResNetConfig(**shape, out_features=["stage2", "stage4"]))
        first = self.net.embedder.embedder.convolution
        wider = nn.Conv2d(3 + NUM_COORDINATES, first.out_channels, 7, stride=2, padding=3, bias=False)
        with torch.no_grad():
            wider.weight[:, :3] = first.weight
            wider.weight[:, 3:] = 0.0
        self.net.embedder.embedder.convolution = wider
        self.net.embedder.num_channels = 3 + NUM_COORDINATES  # which it checks its input by
        self.widths = (shape["hidden_sizes"][1], shape["hidden_sizes"][3])
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        made = self.net(with_coordinates((image - self.mean) / self.std, frame)).feature_maps
        return made[0], made[1]


def load_imagenet(backbone: ResNetBackbone, name: str, path: Path) -> None:
    """Load ImageNet weights into a ResNet; the classifier of the file is left out, coordinates begin with zero weights.

    Args:
        backbone: of the same kind as the weights.
        name: of the backbone, for messages.
        path: a .safetensors, .pth or .bin file, or a folder with one; names as of torchvision, timm or transformers.

    Raises:
        SettingsError: when there is no such file, or it holds another network.
    """
    weights = _read_weights(path, name)
    weights = {_transformers_name(key): value for key, value in weights.items()}
    expected = backbone.net.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in weights and not _is_count(key)]
    first = "embedder.embedder.convolution.weight"
    for key, value in expected.items():
        if key in weights and key != first and weights[key].shape != value.shape:
            problems.append(f"{key} is {tuple(weights[key].shape)} instead of {tuple(value.shape)}")
    if first in weights and weights[first].shape != (64, 3, 7, 7):
        problems.append(f"{first} is {tuple(weights[first].shape)} instead of (64, 3, 7, 7)")
    if problems:
        raise SettingsError(f"model.weights {path} do not fit {name}: {listing(problems, 3)}; give those of {name}")
    with torch.no_grad():
        for key, value in expected.items():
            if key == first:
                value[:, :3] = weights[key].float()
            elif key in weights:
                value.copy_(weights[key])


def _read_weights(path: Path, name: str) -> dict[str, Tensor]:
    candidates = [path / file for file in ("model.safetensors", "pytorch_model.bin")] if path.is_dir() else [path]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise SettingsError(
            f"model.weights {path} does not exist; give a file of ImageNet weights of {name}, such as torchvision's "
            f"{name}-*.pth or timm's model.safetensors, or none for random ones"
        )
    try:
        if found.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(found))
        loaded = torch.load(found, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SettingsError(f"model.weights {found} cannot be read: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise SettingsError(f"model.weights {found} hold no table of tensors; give a state dict of {name}")
    return dict(loaded)


def _is_count(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _transformers_name(key: str) -> str:
    """Return transformers' name of a weight that torchvision or timm names, or the name without its prefix."""
    key = key.removeprefix("resnet.")
    parts = key.split(".")
    if parts[0] == "conv1":
        return f"embedder.embedder.convolution.{parts[1]}"
    if parts[0] == "bn1":
        return f"embedder.embedder.normalization.{parts[1]}"
    if not parts[0].startswith("layer") or not parts[0][5:].isdigit():
        return key
    place = f"encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{place}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
    kind, number = ("convolution", parts[2][4:]) if parts[2].startswith("conv") else ("normalization", parts[2][2:])
    return f"{place}.layer.{int(number) - 1}.{kind}.{parts[3]}"
