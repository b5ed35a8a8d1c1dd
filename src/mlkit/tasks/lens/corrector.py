"""The network opened for use: a photograph of any size in, a map out that holds at full size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from mlkit.checkpoint import load_weights, open_checkpoint
from mlkit.errors import CheckpointError, NonFiniteError
from mlkit.tasks.lens.geometry import NAMES, distorted_points, flow_at, frame_of, identity_grid, warp
from mlkit.tasks.lens.inputs import as_levels, as_network_input, said_by_lines
from mlkit.tasks.lens.model import LensNet, build_net
from mlkit.tasks.lens.safety import Verdict, judge
from mlkit.tasks.lens.settings import LensModel

Floats = NDArray[np.float32]

_JUDGED_PX = 512  # longer side at which a map is judged: it is smooth
_BAND_PX = 2_000_000  # px worked on at once
_NODE_PX = 8  # of a large picture, the map is computed at every 8th px and is linear between
_LARGE_PX = 2000  # longer side from which on: there, linear is within 0.01 px of the map of any lens that is safe
_MARGIN_PX = 3  # around what a band looks at, for the bicubic kernel


@dataclass(frozen=True)
class Correction:
    """What the network found in one photograph.

    params: [1, 8]. flow: [1, 2, h, w] or None where it was left out. frame: [1, 2].
    strength: share of the correction that is applied.
    zoom: the corrected picture is enlarged by this, from 1.
    sure: how likely it is that the lens that straight lines tell is nearer to the truth than none, 0 to 1; None of a
        network that hears no lines.
    """

    params: Tensor
    flow: Tensor | None
    frame: Tensor
    strength: float = 1.0
    zoom: float = 1.0
    sure: float | None = None

    def map_of(self, height: int, width: int, rows: slice | None = None) -> Tensor:
        """Return the map for a picture of this size, or for some of its rows, [1, h, W, 2]."""
        return self.at(identity_grid(height, width, device=self.params.device, rows=rows)[None])

    def at(self, places: Tensor) -> Tensor:
        """Return where the colours at places [1, H, W, 2] of the corrected picture lie, in grid coordinates."""
        places = places / self.zoom
        frame = self.frame[:, None, None]
        points = distorted_points(self.params, places * frame)
        if self.flow is not None:
            points = points + flow_at(self.flow, places).permute(0, 2, 3, 1)
        return torch.lerp(places, points / frame, self.strength)

    def judged(self) -> Verdict:
        """Return whether it may be applied."""
        half_width, half_height = (float(value) for value in self.frame[0])
        longer = max(half_width, half_height)
        size = (round(_JUDGED_PX * half_height / longer), round(_JUDGED_PX * half_width / longer))
        return judge(self.map_of(max(2, size[0]), max(2, size[1])))

    def zoomed(self) -> Correction:
        """Return the same, enlarged as little as leaves no pixel without a source."""
        low, high = 1.0, 2.0
        if _stays_inside(replace(self, zoom=low)):
            return self
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if _stays_inside(replace(self, zoom=middle)) else (middle, high)
        return replace(self, zoom=high)

    def without_flow(self) -> Correction:
        """Return the lens parameters alone."""
        return replace(self, flow=None)

    def named(self) -> dict[str, float]:
        """Return the lens parameters by name."""
        return {name: round(float(value), 6) for name, value in zip(NAMES, self.params[0], strict=True)}


def _stays_inside(correction: Correction) -> bool:
    along = torch.linspace(-1.0, 1.0, 257)
    edge = torch.ones_like(along)
    sides = [torch.stack(side, dim=-1) for side in ((along, edge), (along, -edge), (edge, along), (-edge, along))]
    return bool((correction.at(torch.stack(sides)[None]).abs() <= 1.0 + 1e-6).all())


class Corrector:
    """A network that is asked for whole photographs; in eval mode, without gradients.

    Args:
        net: the network.
        size: of the square that it sees.
        device: where it runs.
        name: of the checkpoint, for messages.
    """

    def __init__(self, net: LensNet, size: int, *, device: torch.device, name: str) -> None:
        self.net = copy.deepcopy(net).to(device).eval().requires_grad_(False)
        self.size, self.device, self.name = size, device, name

    @torch.inference_mode()
    def __call__(self, pixels: Floats, *, sure: float | None = None) -> Correction:
        """Return the correction of a picture [H, W, 1 or 3] in [0, 1].

        Args:
            pixels: the picture.
            sure: of `lens_of_lines`; by default as the network was trained with.

        Raises:
            NonFiniteError: when the network gives NaN or infinity.
        """
        height, width = pixels.shape[:2]
        frame = torch.tensor([frame_of(height, width)], dtype=torch.float32, device=self.device)
        levels, sure = as_levels(pixels), self.net.sure if sure is None else sure
        lines = None
        if self.net.lines:
            said = said_by_lines(levels, frame[0], sure)
            lines = said["lines_params"][None].to(self.device), said["lines_facts"][None].to(self.device)
        outputs = self.net(as_network_input(levels, self.size)[None].to(self.device), frame, lines)
        for key, value in outputs.items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"{self.name} gives {'a flow' if key == 'flow' else 'parameters'} with NaN or infinity; its "
                    f"weights are unusable, give another --checkpoint"
                )
        has_flow = self.net.stage != "param_only"
        params, flow = outputs["params"].cpu(), outputs["flow"].cpu()
        told = float(outputs["sure"][0]) if self.net.lines else None
        return Correction(params, flow if has_flow else None, frame.cpu(), sure=told)


@torch.inference_mode()
def corrected_rows(pixels: Floats, correction: Correction) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, rows [n, W, C]) of the corrected picture, bicubic, cut to [0, 1].

    Only the rows of the picture that a band looks at are copied, so memory besides the picture is constant.
    """
    height, width = pixels.shape[:2]
    step = max(1, _BAND_PX // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        grid = _map_rows(correction, height, width, rows)
        y = (grid[..., 1] + 1.0) * (height / 2)  # px, the picture's upper edge at 0
        first = min(max(0, int(float(y.min())) - _MARGIN_PX), height - 1)
        last = max(min(height, int(float(y.max())) + 1 + _MARGIN_PX), first + 1)
        grid[..., 1] = (y - first) * (2.0 / (last - first)) - 1.0
        part = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels[first:last], 2, 0)))[None]
        seen = warp(part, grid)[0].clamp_(0.0, 1.0)
        yield top, np.ascontiguousarray(seen.permute(1, 2, 0).numpy())


def _map_rows(correction: Correction, height: int, width: int, rows: slice) -> Tensor:
    """Return some rows of a map; of a large picture interpolated, in a third of the time."""
    if max(height, width) < _LARGE_PX:
        return correction.map_of(height, width, rows)
    down, right = (-(-(number - 1) // _NODE_PX) for number in (rows.stop - rows.start, width))
    y = rows.start + _NODE_PX * torch.arange(down + 1, dtype=torch.float64)
    x = _NODE_PX * torch.arange(right + 1, dtype=torch.float64)
    across, along = torch.meshgrid((2 * y + 1) / height - 1, (2 * x + 1) / width - 1, indexing="ij")
    nodes = correction.at(torch.stack((along, across), dim=-1).float()[None]).permute(0, 3, 1, 2)
    size = (down * _NODE_PX + 1, right * _NODE_PX + 1)
    fine = F.interpolate(nodes, size=size, mode="bilinear", align_corners=True)  # nodes are at both ends
    return fine[:, :, : rows.stop - rows.start, :width].permute(0, 2, 3, 1).contiguous()


def open_corrector(checkpoint: Path | None = None, *, device: torch.device | None = None) -> Corrector:
    """Return the network of a checkpoint, with averaged weights where there are some; by default that in the package.

    Raises:
        CheckpointError: when it is absent, damaged, or of another task.
        NonFiniteError: when a weight is NaN or infinite.
    """
    folder = embedded_folder() if checkpoint is None else checkpoint
    if checkpoint is None and not (folder / "checkpoint.json").is_file():
        raise CheckpointError(f"this installation has no embedded model ({folder}); give --checkpoint")
    opened = open_checkpoint(folder)
    task = opened.info.get("task")
    if task != "lens":
        raise CheckpointError(f"checkpoint {folder} is of task '{task}', not 'lens'")
    try:
        settings = LensModel.model_validate(opened.info["settings"]["model"])
        size = int(opened.info["settings"]["data"]["size"])
    except (KeyError, TypeError, ValidationError) as error:
        told = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else "they are missing"
        raise CheckpointError(
            f"checkpoint {folder} cannot be used: its settings of the model are not of this version of mlkit ({told})"
        ) from error
    net = build_net(settings, with_weights=False)
    load_weights(net, opened, averaged=True)
    for name, value in net.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"checkpoint {folder} has NaN or infinity in {name}, so it is unusable; give another --checkpoint"
            )
    name = "the embedded model" if checkpoint is None else f"checkpoint {folder}"
    return Corrector(net, size, device=device or torch.device("cpu"), name=name)


def embedded_folder() -> Path:
    """Return where the checkpoint in the package lies."""
    return Path(__file__).parent / "embedded"
