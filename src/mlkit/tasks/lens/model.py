"""The network: a picture and its shape in, lens parameters and a residual flow of low resolution out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.tasks.lens.backbones import ResNetBackbone, TinyBackbone, load_imagenet, with_coordinates
from mlkit.tasks.lens.geometry import IDENTITY, NAMES, parametric_grid, upsample_flow
from mlkit.tasks.lens.geometry import fuse as fused
from mlkit.tasks.lens.lines import NUM_FACTS, SURE, lens_of_lines
from mlkit.tasks.lens.plumb import within
from mlkit.tasks.lens.settings import LensModel

log = logging.getLogger(__name__)

_VOTES = 8  # maps of weights by which places are averaged
_GATE = 8.0  # so that a gate, which begins at 0, needs no large weights to open
_WITHIN = 0.999  # of a parameter's range, in which what lines say must lie


def bounds(settings: LensModel) -> tuple[tuple[float, float], ...]:
    """Return the range of each parameter, in the order of `geometry.NAMES`."""
    radial = [(-size, size) for size in settings.radial_range]
    tangential = (-settings.tangential_range, settings.tangential_range)
    centre = (-settings.centre_range, settings.centre_range)
    return (*radial, tangential, tangential, centre, centre, settings.scale_range)


def tells(params: Tensor) -> Tensor:
    """Return 1 for each row of parameters [B, 8] that lines ask for and 0 where they tell no lens, [B, 1]."""
    return (params != params.new_tensor(IDENTITY)).any(dim=1, keepdim=True).to(params)


class ParametricHead(nn.Module):
    """Lens parameters within their bounds: middle + half range * tanh(raw), nothing clamped, so gradients go on.

    What each place of the feature map says is averaged with weights that the place itself gives, since most of a
    picture tells nothing of the lens and some straight edges tell all. The last layer begins with zero weights and the
    bias that means no change.

    With `lines` the head hears what straight lines say (lines.py), and learns a gate: how far to follow them in place
    of its own guess. It begins closed, so no change is the beginning here too; open it is 1, with nothing added.
    """

    middles: Tensor
    halves: Tensor

    def __init__(self, channels: int, settings: LensModel) -> None:
        super().__init__()
        width = settings.head_channels
        low, high = (torch.tensor(side) for side in zip(*bounds(settings), strict=True))
        self.register_buffer("middles", (low + high) / 2, persistent=False)
        self.register_buffer("halves", (high - low) / 2, persistent=False)
        self.saturation = settings.saturation
        self.features = nn.Conv2d(channels + 3, width, 1)
        self.weights = nn.Conv2d(channels + 3, _VOTES, 1)
        self.mix = nn.Linear(width + (NUM_FACTS if settings.lines else 0), width)
        self.last = nn.Linear(width, len(NAMES))
        nn.init.zeros_(self.last.weight)
        self.gate: nn.Linear | None = None
        if settings.lines:
            self.gate = nn.Linear(width, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        with torch.no_grad():
            self.last.bias.copy_(torch.atanh((torch.tensor(IDENTITY) - self.middles) / self.halves))

    def forward(
        self, features: Tensor, frame: Tensor, lines: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return parameters [B, 8], and where they lie in their ranges, -1 to 1.

        Args:
            features: [B, C, h, w].
            frame: [B, 2].
            lines: of `lens_of_lines`.
        """
        x = with_coordinates(features, frame)
        told = F.silu(self.features(x)).flatten(2)
        weights = self.weights(x).flatten(2).float().softmax(dim=-1)
        groups = told.reshape(len(told), _VOTES, -1, told.shape[-1]).float()
        with torch.autocast(features.device.type, enabled=False):
            pooled = torch.einsum("bgcn,bgn->bgc", groups, weights).flatten(1)
            if lines is not None:
                pooled = torch.cat((pooled, lines[1]), dim=1)
            known = F.silu(self.mix(pooled))
            raw = self.last(known)
            if self.gate is not None and lines is not None:
                said = self._within(lines[0])
                said_raw = torch.atanh(((said - self.middles) / self.halves).clamp(-_WITHIN, _WITHIN))
                none = torch.atanh((self.middles.new_tensor(IDENTITY) - self.middles) / self.halves)
                followed = torch.tanh(_GATE * self.gate(known))
                # exactly nothing where lines say nothing: of a rounding, an optimizer's first steps would make much
                toward = (said_raw - none) * tells(lines[0])
                raw = none + (1.0 - followed) * (raw - none) + followed * toward
            place = torch.tanh(raw)
            return self.middles + self.halves * place, place

    def _within(self, said: Tensor) -> Tensor:
        """Return what lines say, fitted again where a parameter is out of its range: cut, it would bend."""
        low, high = (self.middles + sign * _WITHIN * self.halves for sign in (-1, 1))
        beyond = ((said < low) | (said > high)).any(dim=1)
        if not beyond.any():
            return said
        fitted = [within(one, low, high).to(said) if out else one for one, out in zip(said, beyond, strict=True)]
        return torch.stack(fitted)


class ResidualHead(nn.Module):
    """A residual flow [B, 2, h, w] in half-diagonals: `max_disp * tanh`, zero at the start."""

    def __init__(self, fine: int, coarse: int, settings: LensModel) -> None:
        super().__init__()
        width = settings.head_channels
        self.max_disp = settings.max_disp
        self.fine = nn.Conv2d(fine + 3, width, 3, padding=1)
        self.coarse = nn.Conv2d(coarse, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, fine: Tensor, coarse: Tensor, frame: Tensor) -> Tensor:
        wide = self.fine(with_coordinates(fine, frame))
        wide = wide + F.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="nearest")
        flow = self.last(F.silu(self.mix(F.silu(wide))))
        return self.max_disp * torch.tanh(flow.float())


class LensNet(nn.Module):
    """Backbone and both heads; in stage `param_only` the residual head is there, untrained, and does nothing.

    So every stage's weights have the same names and shapes, and the next stage begins from them. With `lines` there is
    a residual flow only in pictures whose lines are followed.
    """

    def __init__(self, settings: LensModel) -> None:
        super().__init__()
        self.stage, self.lines, self.reduce = settings.stage, settings.lines, settings.reduce
        self.sure = settings.sure
        self.backbone: TinyBackbone | ResNetBackbone
        if settings.backbone == "tiny":
            self.backbone = TinyBackbone(settings.channels)
        else:
            self.backbone = ResNetBackbone(settings.backbone)
        fine, coarse = self.backbone.widths
        self.parametric = ParametricHead(coarse, settings)
        self.residual = ResidualHead(fine, coarse, settings)
        if self.stage == "param_only":
            self.residual.requires_grad_(False)

    def forward(self, image: Tensor, frame: Tensor, lines: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Return what the network sees in pictures.

        Args:
            image: [B, 3, H, W] in [0, 1], sRGB; of any size.
            frame: [B, 2], the pictures' shapes (geometry.frame_of).
            lines: of `lens_of_lines`, where they are already found.

        Returns:
            "params" [B, 8]; "place" [B, 8], where they lie in their ranges, -1 to 1; "flow" [B, 2, h / 8, w / 8], h
            and w after `reduce`; with `lines` also "sure" [B], how sure these are, 0 to 1.
        """
        seen = image if self.reduce == 1 else F.avg_pool2d(image, self.reduce)
        fine, coarse = self.backbone(seen, frame)
        if lines is None and self.lines:
            lines = lens_of_lines(image, frame, self.sure)
        params, place = self.parametric(coarse, frame, lines)
        if self.stage == "param_only":
            flow = params.new_zeros((len(image), 2, *fine.shape[-2:]))
        else:
            flow = self.residual(fine, coarse, frame)
            if lines is not None:  # what tells no lens tells no rest of it either
                flow = flow * tells(lines[0]).to(flow)[:, :, None, None]
        sure = {} if lines is None else {"sure": lines[1][:, SURE]}
        return {"params": params, "place": place, "flow": flow, **sure}


def build_net(settings: LensModel, *, with_weights: bool = True) -> LensNet:
    """Return a fresh network; a ResNet's with the ImageNet weights that `settings.weights` names.

    Args:
        settings: of the model.
        with_weights: False where a checkpoint's weights follow anyway.

    Raises:
        SettingsError: when the weights do not exist or are of another network.
    """
    net = LensNet(settings)
    if isinstance(net.backbone, ResNetBackbone) and with_weights:
        if settings.weights is None:
            log.warning(
                "%s begins with random weights, since model.weights is none; with ImageNet's in a local file it learns "
                "faster: --set 'model.weights=\"%s.safetensors\"'",
                settings.backbone,
                settings.backbone,
            )
        else:
            load_imagenet(net.backbone, settings.backbone, Path(settings.weights))
    return net


def maps_of(outputs: Mapping[str, Tensor], frame: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the map of the parameters alone, and the whole one, each [B, H, W, 2]."""
    parametric = parametric_grid(outputs["params"], frame, height, width)
    return parametric, fused(parametric, upsample_flow(outputs["flow"], height, width), frame)


def saturated(place: Tensor, threshold: float) -> list[tuple[str, float]]:
    """Return (parameter, share of the images) for each parameter that is at its bound in some."""
    shares = (place.detach().abs() > threshold).double().mean(dim=0).tolist()
    return [(name, share) for name, share in zip(NAMES, shares, strict=True) if share > 0 and math.isfinite(share)]
