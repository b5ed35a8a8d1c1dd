"""LPIPS with VGG16 (Zhang et al. 2018, version 0.1): the distance of two images in the features of a classifier.

mlkit has no weights of it. They are one safetensors file with the convolutions of VGG16 and the five heads, under the
names of torchvision and of the lpips package:

    features.N.weight features.N.bias    or net.sliceK.N.weight, N = 0, 2, 5, ..., 28
    linK.model.1.weight                  or lins.K.model.1.weight, K = 0..4, [1, C, 1, 1]

Images are sRGB in [0, 1], [B, 3, H, W].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.errors import DataError, listing
from mlkit.files import sha256_file

_STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
_EPSILON = 1e-10
_BACKBONE = re.compile(r"(?:features|(?:net\.)?slice\d)\.(\d+)\.(weight|bias)")
_HEAD = re.compile(r"(?:lin(\d)|lins\.(\d))\.model\.1\.weight")
_OTHER = re.compile(r"classifier\.\d+\.(weight|bias)|scaling_layer\.(shift|scale)")  # of no use here


def _convolutions() -> list[tuple[int, int, int]]:
    """Return (number, channels in, channels out) of each convolution, numbered with the layers between them."""
    found, number = [], 0
    for stage in _STAGES:
        for before, after in pairwise(stage):
            found.append((number, before, after))
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return found


class Lpips(nn.Module):
    """LPIPS; frozen. Maps two images to their distance, [B]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(
            {str(number): nn.Conv2d(before, after, 3, padding=1) for number, before, after in _convolutions()}
        )
        self.heads = nn.ParameterList([torch.zeros(1, stage[-1], 1, 1) for stage in _STAGES])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of each pair of images, [B], with gradient to both; at least 16 px a side."""
        assert x.shape == y.shape and min(x.shape[-2:]) >= 16, f"images {tuple(x.shape)} and {tuple(y.shape)}"
        x, y = (((image * 2.0 - 1.0) - self.shift) / self.scale for image in (x, y))
        distance = x.new_zeros(x.shape[0])
        numbers = iter(self.convolutions.values())
        for level, (stage, head) in enumerate(zip(_STAGES, self.heads, strict=True)):
            if level:
                x, y = functional.max_pool2d(x, 2), functional.max_pool2d(y, 2)
            for _ in stage[1:]:
                convolution = next(numbers)
                x, y = functional.relu(convolution(x)), functional.relu(convolution(y))
            difference = (_unit(x) - _unit(y)).square()
            distance = distance + (difference * head).sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit(features: Tensor) -> Tensor:
    """Return features of length 1 at each pixel; vector_norm, unlike a root, has a gradient at 0."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + _EPSILON)


def open_lpips(path: Path) -> tuple[Lpips, str]:
    """Return LPIPS with the weights of a safetensors file, and the sha256 of the file.

    Raises:
        DataError: when it is missing or no safetensors file, or a weight of it is missing, of another shape or unknown.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"loss.lpips_weights: {path} does not exist; give a safetensors file with VGG16 and its heads")
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"loss.lpips_weights: {path} is no safetensors file: {error}") from error
    model = Lpips()
    given, unknown = _by_own_name(stored)
    own = model.state_dict()
    wanted = [name for name in own if name not in ("shift", "scale")]
    problems = []
    if missing := [_public(name) for name in wanted if name not in given]:
        problems.append(f"lacks {listing(missing, 4)}")
    if unknown:
        problems.append(f"holds {listing(unknown, 4)}, which LPIPS with VGG16 has not")
    problems += [
        f"has {_public(name)} of shape {list(given[name].shape)} in place of {list(own[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != own[name].shape
    ]
    if problems:
        raise DataError(*(f"loss.lpips_weights: {path} {problem}" for problem in problems))
    model.load_state_dict({name: given[name].float() for name in wanted}, strict=False)
    return model.eval(), sha256_file(path)


def _by_own_name(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by the names that they have here, and names that are neither known nor to be left out."""
    given, unknown = {}, []
    for name, tensor in stored.items():
        if match := _BACKBONE.fullmatch(name):
            given[f"convolutions.{match[1]}.{match[2]}"] = tensor
        elif match := _HEAD.fullmatch(name):
            given[f"heads.{match[1] or match[2]}"] = tensor
        elif not _OTHER.fullmatch(name):
            unknown.append(name)
    numbers = {str(number) for number, _, _ in _convolutions()}
    others = [name for name in given if name.startswith("convolutions.") and name.split(".")[1] not in numbers]
    unknown += [_public(name) for name in others]
    return given, unknown


def _public(name: str) -> str:
    """Return the name that a weight has in files."""
    if name.startswith("heads."):
        return f"lin{name.removeprefix('heads.')}.model.1.weight"
    return name.replace("convolutions.", "features.")
