"""The demosaicing network: residual blocks on the cells of the X-Trans pattern, over a fixed interpolation.

Three properties hold by construction, not by training:
  - Exposure does not matter: no layer has a bias and the activation is homogeneous, so f(a x) = a f(x) for a > 0
    (Mohan et al. 2020).
  - Flat colour and linear ramps come back exactly: the network sees differences from a local plane, which are 0 there,
    and adds to an interpolation that is exact there. So no 6 x 6 pattern can appear in smooth areas. (Not so where the
    settings let it see the samples themselves.)
  - Red and blue are treated alike: the two kinds of cell differ by their exchange, and share all weights.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.errors import DataError
from mlkit.tasks.demosaic.interpolation import detail_kernels, interpolating_kernels, sample_kernels
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import CELL, PERIOD

KERNELS = {"detail": detail_kernels, "samples": sample_kernels}
_SLOPE = 0.1  # of the activation below 0


class Block(nn.Module):
    """x + conv(activation(conv(x))), without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(functional.leaky_relu(self.first(x), _SLOPE, inplace=True))
        return made.add_(x)


class XTransNet(nn.Module):
    """RGB of an X-Trans mosaic of any size from 6 px and any phase; what a cell becomes depends
    on those up to 2 blocks + 3 cells of 3 px from it.

    Args:
        settings: width and depth.
    """

    interpolating: Tensor
    detail: Tensor

    def __init__(self, settings: DemosaicModel) -> None:
        super().__init__()
        self.register_buffer("interpolating", _on_cells(interpolating_kernels()))
        self.register_buffer("detail", _on_cells(KERNELS[settings.input]()))
        self.head = nn.Conv2d(CELL**2, settings.channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(*(Block(settings.channels) for _ in range(settings.blocks)))
        self.tail = nn.Conv2d(settings.channels, 3 * CELL**2, 3, padding=1, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, _SLOPE)
        with torch.no_grad():  # begin near the interpolation, with blocks that add little
            for block in self.body:
                assert isinstance(block, Block)
                block.second.weight.mul_(0.3)
            self.tail.weight.mul_(0.05)

    @property
    def reach(self) -> int:
        """How far from a pixel a sample may lie that changes it, in px."""
        return CELL * (2 * len(self.body) + 4)

    def forward(self, mosaic: Tensor, phase: Tensor, *, interpolate_only: bool = False) -> Tensor:
        """Return RGB [B, 3, H, W] float32 in the units of the mosaic, not clamped.

        Args:
            mosaic: [B, 1, H, W], any values.
            phase: [B, 2] integers: row and column of each mosaic's phase (see xtrans.py).
            interpolate_only: leave the network out.

        Raises:
            DataError: when a side is under 6 px.
        """
        height, width = mosaic.shape[-2:]
        cells, offset = self._cells(mosaic, phase)
        with torch.autocast(mosaic.device.type, enabled=False):  # bf16 would round flat colours by up to 0.4 %
            rgb = functional.conv2d(cells, self.interpolating)
            detail = None if interpolate_only else functional.conv2d(cells, self.detail)
        if detail is not None:
            rgb = rgb + self.residual(detail).float()
        return _at_sites(rgb, _kinds(phase, rgb.shape[-2], rgb.shape[-1]), offset, height, width)

    def residual(self, detail: Tensor) -> Tensor:
        """Return what is added to the interpolation, [B, 27, h, w], from the details of cells [B, 9, h, w]."""
        return self.tail(self.body(self.head(detail)))  # type: ignore[no-any-return]

    def _cells(self, mosaic: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples by cells [B, 9, h + 2, w + 2], one cell more on each side, and the first pixel's place.

        Beyond the edges the mosaic is mirrored about the middle of the outermost cells, which keeps every colour.
        """
        height, width = mosaic.shape[-2:]
        if min(height, width) < PERIOD:
            raise DataError(f"a mosaic of {width} x {height} px is too small to demosaic; it needs 6 px or more a side")
        offset = phase % CELL
        rows = _mirrored(height).to(mosaic.device)[offset[:, 0]]
        columns = _mirrored(width).to(mosaic.device)[offset[:, 1]]
        image = torch.arange(len(mosaic), device=mosaic.device)[:, None, None]
        whole = mosaic[:, 0].float()[image, rows[:, :, None], columns[:, None, :]]
        # What pixel_unshuffle gives, but with the channels of a cell side by side in memory.
        count, rows_px, columns_px = whole.shape
        apart = whole.view(count, rows_px // CELL, CELL, columns_px // CELL, CELL)
        cells = apart.transpose(2, 3).flatten(3)
        return cells.permute(0, 3, 1, 2), offset


def _on_cells(kernels: np.ndarray) -> Tensor:
    """Return kernels [N, 9, 9] over sites as kernels [N, 9, 3, 3] over cells, in the order of `pixel_unshuffle`."""
    return functional.pixel_unshuffle(torch.from_numpy(kernels)[:, None], CELL).float()


@lru_cache(maxsize=64)
def _mirrored(size: int) -> Tensor:
    """Return [3, 3 (n + 2)]: for each place of the first pixel in its cell the pixels that fill n + 2 whole cells."""
    count = CELL * (_num_cells(size) + 2)
    table = np.empty((CELL, count), np.int64)
    for offset in range(CELL):
        first = (1 - offset) % CELL  # the outermost middles of cells within the image
        last = first + (size - 1 - first) // CELL * CELL
        pixels = np.arange(count) - CELL - offset
        while pixels.min() < 0 or pixels.max() >= size:
            pixels = np.where(pixels < 0, 2 * first - pixels, pixels)
            pixels = np.where(pixels >= size, 2 * last - pixels, pixels)
        table[offset] = pixels
    return torch.from_numpy(table)


def _num_cells(size: int) -> int:
    """Return how many cells hold `size` pixels, wherever the first begins."""
    return (size + CELL - 1 + CELL - 1) // CELL


def _kinds(phase: Tensor, height: int, width: int) -> Tensor:
    """Return [B, h, w]: whether a cell has red at the middle of its top row (else blue)."""
    rows = torch.arange(height, device=phase.device)[None, :, None]
    columns = torch.arange(width, device=phase.device)[None, None, :]
    first = torch.div(phase, CELL, rounding_mode="floor").sum(dim=1)[:, None, None]
    return (first + rows + columns) % 2 == 0


def _at_sites(own: Tensor, is_red: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """Return [B, 3, H, W] from estimates [B, 27, h, w] of G, X, Y at the nine sites of each cell."""
    apart = own.permute(0, 2, 3, 1)
    by_site = apart.reshape(*apart.shape[:3], CELL, CELL, 3)  # [B, h, w, row, column, color]
    g, x, y = by_site.unbind(dim=-1)
    red = is_red[..., None, None]
    rgb = torch.stack([torch.where(red, x, y), g, torch.where(red, y, x)], dim=-1)
    whole = rgb.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # [B, 3 h, 3 w, 3]
    if (offset == offset[0]).all():
        top, left = offset[0].tolist()
        return whole[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
    image = torch.arange(len(own), device=own.device)[:, None, None]
    down = offset[:, 0, None] + torch.arange(height, device=own.device)
    right = offset[:, 1, None] + torch.arange(width, device=own.device)
    return whole[image, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)
