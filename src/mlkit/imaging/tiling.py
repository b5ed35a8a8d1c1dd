"""Images of any size through a function for small ones: overlapping tiles, in bands of rows, in constant memory.

Along an axis, two neighbour tiles share `overlap` px (the last tile, shifted inwards, shares more). In the middle
`blend` of them one fades into the other; what lies outside counts for nothing, since there a tile does not see what
the whole image would show it. Weights are differences of ramps, w_i = ramp_i - ramp_(i+1) with ramp_0 = 1 and
ramp_n = 0: they telescope to 1 at every pixel, whatever the overlap, and at the image's borders nothing fades. So the
result equals the untiled one wherever the crossfaded tiles do: for (overlap - blend)/2 >= the receptive radius.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import MlkitError

if TYPE_CHECKING:
    from torch import nn

Floats = NDArray[np.float32]
Apply = Callable[[Floats], Floats]  # [C, h, w] -> [C', h, w]; with `batch`, [N, C, h, w] -> [N, C', h, w]
Read = Callable[[int, int], Floats]  # rows top to bottom (exclusive) of the image: [C, bottom - top, W]


def tiled_rows(
    apply: Apply,
    read: Read,
    *,
    height: int,
    width: int,
    channels_out: int,
    tile: int,
    overlap: int,
    blend: int,
    multiple: int,
    batch: int | None = None,
) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, [channels_out, rows, width]) from top to bottom, together the result for the whole image.

    Holds one band of tiles, never the image. An image whose sides are no multiples is continued by reflection at the
    bottom and right, and the result cut back.

    Args:
        apply: [C, h, w] float32 to [channels_out, h, w], for h and w that are multiples of `multiple` up to `tile`.
        read: returns rows of the image, [C, rows, width]; asked for each row once a band, overlaps twice.
        height, width: of the image, in px.
        channels_out: of the result.
        tile: side of the tiles in px, a multiple of `multiple`.
        overlap: px shared by neighbours, a multiple of `multiple` below `tile`.
        blend: px of the crossfade, at most `overlap`; 0 is a hard seam.
        multiple: px; what the sides and positions of tiles must divide by.
        batch: give `apply` up to so many tiles of a band at once, equal in size, along a first axis, and take as
            many results; None: one tile at a time, without that axis.

    Raises:
        MlkitError: at once, naming every one of these numbers that does not fit.
    """
    _check(tile, overlap, blend, multiple)
    assert min(height, width, channels_out) >= 1, f"an image of {width} x {height} px to {channels_out} channels"
    assert batch is None or batch >= 1, f"{batch} tiles at once"
    several = apply if batch is not None else _one_by_one(apply)
    return _bands(several, read, height, width, channels_out, tile, overlap, blend, multiple, batch or 1)


def tiled_apply(
    apply: Apply, image_chw: Floats, *, tile: int, overlap: int, blend: int | None = None, multiple: int = 1
) -> Floats:
    """Return `apply` of an image [C, H, W] as [C', H, W], computed tile by tile; see `tiled_rows`.

    `blend` is by default an eighth of the overlap: most of it serves as context.
    """
    _, height, width = image_chw.shape
    blend = overlap // 8 if blend is None else blend
    _check(tile, overlap, blend, multiple)
    channels_out: int | None = None

    def apply_and_count(tile_chw: Floats) -> Floats:
        nonlocal channels_out
        result = apply(tile_chw)
        channels_out = result.shape[0]
        return result

    several = _one_by_one(apply_and_count)
    bands = _bands(
        several, lambda top, bottom: image_chw[:, top:bottom], height, width, None, tile, overlap, blend, multiple, 1
    )
    first_row, band = next(bands)
    assert channels_out is not None
    result = np.empty((channels_out, height, width), dtype=np.float32)
    result[:, first_row : first_row + band.shape[1]] = band
    for first_row, band in bands:
        result[:, first_row : first_row + band.shape[1]] = band
    return result


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along an axis of `size` px; the last one ends with the axis."""
    if size <= tile:
        return [0]
    stride = tile - overlap
    return [*range(0, size - tile, stride), size - tile]


def tile_weights(size: int, tile: int, overlap: int, blend: int) -> list[tuple[int, Floats]]:
    """Return (start, weights) per tile along an axis: at each pixel the weights of all tiles sum to 1."""
    starts = tile_starts(size, tile, overlap)
    tile = min(tile, size)
    # where the fade from the tile before begins: in the middle of what both see
    fade_starts = [after + (start + tile - after - blend) // 2 for start, after in pairwise(starts)]
    weights = []
    for index, start in enumerate(starts):
        position = np.arange(start, start + tile)
        ramp_in = _ramp(position, fade_starts[index - 1], blend) if index > 0 else np.ones(tile)
        ramp_out = _ramp(position, fade_starts[index], blend) if index < len(fade_starts) else np.zeros(tile)
        weights.append((start, (ramp_in - ramp_out).astype(np.float32)))
    return weights


def _ramp(position: NDArray[np.intp], fade_start: int, blend: int) -> NDArray[np.float64]:
    """Return 0 before the fade and 1 after it, half a cosine between."""
    share = ((position - fade_start + 0.5) / blend if blend else (position >= fade_start).astype(np.float64)).clip(
        0.0, 1.0
    )
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * share))


def receptive_radius(model: nn.Module, multiple: int = 1, *, channels: int = 1, limit: int = 2048) -> int:
    """Return how far, in px, an output pixel of a [B, C, H, W] network can see along rows or columns.

    Measured on a copy in evaluation mode by the gradient of single output pixels, one for each place within a
    `multiple`, since the reach differs between them. The copy gets positive weights and a positive input, with which
    no path is closed by a ReLU or cancelled by another: what is measured is the architecture's reach, the bound that
    makes tiles exact, not what the present weights happen to use.

    Args:
        model: a network whose output is as large as its input.
        multiple: px; what its input's sides must divide by.
        channels: of its input.
        limit: px; the largest input that is tried.

    Raises:
        MlkitError: when an output pixel sees beyond `limit` or the whole image (attention, normalisation by image).
    """
    import copy

    import torch

    probe = copy.deepcopy(model).eval().to(device="cpu", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in probe.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
        for name, parameter in probe.named_parameters():
            if parameter.ndim <= 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                # half of what would keep the mean, lest sums over residual blocks saturate a final sigmoid
                noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_((0.5 + noise) * 0.5 / parameter[0].numel())
    side = 64 * -(-max(multiple, 16) // 64)
    side = -(-side // multiple) * multiple
    while side <= limit:
        reach = _reach(probe, side, multiple, channels)
        if reach is not None:
            return reach
        side *= 2
    raise MlkitError(
        f"an output pixel of {type(model).__name__} sees {limit // 2} px or more, or the whole image; "
        "run it on whole images instead of tiles"
    )


def _reach(probe: nn.Module, side: int, multiple: int, channels: int) -> int | None:
    """Return the reach within an input of `side` px; None when it comes to the border, so that it may be larger."""
    import torch

    generator = torch.Generator().manual_seed(1)
    image = torch.rand((1, channels, side, side), generator=generator, dtype=torch.float64) + 0.5
    image.requires_grad_()
    output = probe(image)
    assert output.shape[-2:] == image.shape[-2:], f"{tuple(output.shape)} from {tuple(image.shape)}"
    centre = side // 2 // multiple * multiple
    reach = 0
    for pixel in range(centre, centre + multiple):
        (gradient,) = torch.autograd.grad(output[0, :, pixel, pixel].sum(), image, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0) > 0.0
        for axis in (0, 1):
            positions = seen.any(dim=1 - axis).nonzero()
            assert len(positions) > 0, "the output does not depend on the input"
            low, high = int(positions[0]), int(positions[-1])
            if low == 0 or high == side - 1:
                return None
            reach = max(reach, pixel - low, high - pixel)
    return reach


def _check(tile: int, overlap: int, blend: int, multiple: int) -> None:
    problems = []
    if multiple < 1:
        raise MlkitError(f"tiles cannot be multiples of {multiple} px; give 1 or more")
    if tile < 1 or tile % multiple:
        works = max(multiple, round(tile / multiple) * multiple)
        problems.append(f"tile of {tile} px is not a multiple of {multiple} px; {works} would work")
    if overlap < 0 or overlap % multiple:
        works = max(0, -(-overlap // multiple) * multiple)
        problems.append(f"overlap of {overlap} px is not a multiple of {multiple} px; {works} would work")
    if overlap >= tile:
        problems.append(f"overlap of {overlap} px leaves nothing of tiles of {tile} px; give less than {tile}")
    if not 0 <= blend <= overlap:
        problems.append(f"blend of {blend} px does not fit into the overlap; give 0 to {max(0, overlap)}")
    if problems:
        raise MlkitError(*problems)


def _bands(
    apply: Apply,
    read: Read,
    height: int,
    width: int,
    channels_out: int | None,
    tile: int,
    overlap: int,
    blend: int,
    multiple: int,
    batch: int,
) -> Iterator[tuple[int, Floats]]:
    padded_height, padded_width = (-(-side // multiple) * multiple for side in (height, width))
    columns = tile_weights(padded_width, tile, overlap, blend)
    rows = tile_weights(padded_height, tile, overlap, blend)
    done = 0  # rows above are finished and yielded
    pending: Floats | None = None  # sums for the rows from `done` to the end of the last band of tiles
    for index, (start, weights) in enumerate(rows):
        band = _read_padded(read, start, start + len(weights), height, padded_width)
        strip = _blend_columns(apply, band, columns, channels_out, batch)
        fresh = np.zeros((strip.shape[0], start + len(weights) - done, padded_width), dtype=np.float32)
        if pending is not None:
            fresh[:, : pending.shape[1]] = pending
        # rows of this band that are already finished carry no weight of it
        skipped = max(0, done - start)
        fresh[:, max(0, start - done) :] += strip[:, skipped:] * weights[skipped:, None]
        # what the next band has no weight in is finished
        if index + 1 < len(rows):
            following, next_weights = rows[index + 1]
            finished = following + int(np.flatnonzero(next_weights)[0])
        else:
            finished = padded_height
        if min(finished, height) > done:
            yield done, fresh[:, : min(finished, height) - done, :width]
        pending = fresh[:, finished - done :]
        done = finished


def _one_by_one(apply: Apply) -> Apply:
    """Return `apply` of one tile as one of several."""
    return lambda tiles_nchw: np.stack([apply(tile_chw) for tile_chw in tiles_nchw])


def _blend_columns(
    apply: Apply, band: Floats, columns: list[tuple[int, Floats]], channels_out: int | None, batch: int
) -> Floats:
    """Return `apply` over one band of tiles, [C', tile, padded width]; it gets [N, C, tile, tile], N up to `batch`."""
    strip: Floats | None = None
    calls = -(-len(columns) // batch)
    for call in range(calls):  # as even as can be: 9 tiles, 8 at once, are 4 and 5
        group = columns[len(columns) * call // calls : len(columns) * (call + 1) // calls]
        tiles_nchw = np.stack([band[:, :, start : start + len(weights)] for start, weights in group])
        results = apply(tiles_nchw)
        expected = (len(group), channels_out or results.shape[1], *tiles_nchw.shape[2:])
        assert results.shape == expected, f"tiles {tiles_nchw.shape} became {results.shape}, not {expected}"
        if strip is None:
            strip = np.zeros((results.shape[1], *band.shape[1:]), dtype=np.float32)
        for (start, weights), result in zip(group, results, strict=True):
            strip[:, :, start : start + len(weights)] += result * weights
    assert strip is not None
    return strip


def _read_padded(read: Read, top: int, bottom: int, height: int, padded_width: int) -> Floats:
    """Return rows of the image continued by reflection, [C, bottom - top, padded_width] float32."""
    row_index = _reflected(np.arange(top, bottom), height)
    first = int(row_index.min())
    rows = read(first, int(row_index.max()) + 1)
    rows = rows[:, row_index - first]
    column_index = _reflected(np.arange(padded_width), rows.shape[2])
    return np.asarray(rows[:, :, column_index], dtype=np.float32)


def _reflected(position: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return positions folded back into 0..size - 1 at the border pixels, which are not doubled."""
    if size == 1:
        return np.zeros_like(position)
    folded = position % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)
