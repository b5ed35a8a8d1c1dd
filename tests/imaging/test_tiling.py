"""Tiles add up to the untiled result, for any size, overlap and blend, with networks and with plain functions."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlkit.errors import MlkitError
from mlkit.imaging.tiling import receptive_radius, tile_starts, tile_weights, tiled_apply, tiled_rows

Apply = Callable[[np.ndarray], np.ndarray]


def image(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((channels, height, width), dtype=np.float32)


def apply_of(network: nn.Module) -> Apply:
    network.eval()

    def apply(tile_chw: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(tile_chw)[None])[0].numpy()

    return apply


def conv_net(radii: list[int], channels: int = 2, seed: int = 0) -> nn.Sequential:
    """Return zero-padded convolutions of these radii with ReLUs between: the receptive radius is their sum."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for radius in radii:
        layers += [nn.Conv2d(channels, channels, 2 * radius + 1, padding=radius), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def autoencoder(seed: int = 0) -> nn.Sequential:
    """Return a stride-16 encoder and decoder, as those of SAR are, but small."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(1 if not layers else 4, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)]
    for step in range(4):
        layers += [nn.ConvTranspose2d(4, 4 if step < 3 else 1, 4, stride=2, padding=1), nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    return nn.Sequential(*layers)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Return height, width, tile, overlap, blend, multiple: any that are allowed."""
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    tile = draw(st.integers(1, 6)) * multiple
    overlap = draw(st.integers(0, tile // multiple - 1)) * multiple
    blend = draw(st.integers(0, overlap))
    return draw(st.integers(1, 70)), draw(st.integers(1, 70)), tile, overlap, blend, multiple


@settings(max_examples=150, deadline=None)
@given(plans())
def test_a_pixelwise_function_is_the_same_tiled_and_untiled(plan: tuple[int, int, int, int, int, int]) -> None:
    height, width, tile, overlap, blend, multiple = plan
    x = image(2, height, width)

    def apply(tile_chw: np.ndarray) -> np.ndarray:
        assert all(side % multiple == 0 and 0 < side <= tile for side in tile_chw.shape[1:])
        return np.concatenate((np.sqrt(tile_chw), 1 - tile_chw[:1]))

    expected = np.concatenate((np.sqrt(x), 1 - x[:1]))
    tiled = tiled_apply(apply, x, tile=tile, overlap=overlap, blend=blend, multiple=multiple)
    np.testing.assert_allclose(tiled, expected, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    radii=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    blend=st.integers(0, 6),
    extra=st.integers(1, 20),
    odd=st.integers(0, 1),
    seed=st.integers(0, 9),
)
def test_a_conv_net_is_the_same_tiled_and_untiled_borders_included(
    radii: list[int], height: int, width: int, blend: int, extra: int, odd: int, seed: int
) -> None:
    network = conv_net(radii, seed=seed)
    overlap = blend + 2 * sum(radii) + odd
    x = image(2, height, width, seed)
    tiled = tiled_apply(apply_of(network), x, tile=overlap + extra, overlap=overlap, blend=blend)
    np.testing.assert_allclose(tiled, apply_of(network)(x), rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 9))
def test_several_tiles_at_once_give_the_same(plan: tuple[int, int, int, int, int, int], batch: int) -> None:
    height, width, tile, overlap, blend, multiple = plan
    x = image(2, height, width)
    counts: list[int] = []

    def apply(tiles_nchw: np.ndarray) -> np.ndarray:
        counts.append(len(tiles_nchw))
        return np.cumsum(np.sqrt(tiles_nchw), axis=3)  # so that a tile's place within the tiles matters

    def apply_one(tile_chw: np.ndarray) -> np.ndarray:
        return np.cumsum(np.sqrt(tile_chw), axis=2)

    bands = tiled_rows(
        apply, lambda top, bottom: x[:, top:bottom], height=height, width=width, channels_out=2, tile=tile,
        overlap=overlap, blend=blend, multiple=multiple, batch=batch,
    )  # fmt: skip
    several = np.concatenate([band for _, band in bands], axis=1)
    one = tiled_apply(apply_one, x, tile=tile, overlap=overlap, blend=blend, multiple=multiple)
    np.testing.assert_array_equal(several, one)
    columns = len(tile_starts(-(-width // multiple) * multiple, tile, overlap))
    calls = -(-columns // batch)
    assert max(counts) <= batch and max(counts) - min(counts) <= 1 and len(counts) % calls == 0


def test_too_little_overlap_for_a_conv_net_is_seen() -> None:
    # so that the test above can fail: one pixel less of context, and a seam appears
    network = conv_net([2, 2])
    x = image(2, 60, 60)
    whole = apply_of(network)(x)
    exact = tiled_apply(apply_of(network), x, tile=24, overlap=10, blend=2)
    short = tiled_apply(apply_of(network), x, tile=24, overlap=8, blend=2)
    assert np.abs(exact - whole).max() < 1e-5 < 1e-3 < np.abs(short - whole).max()


@pytest.mark.parametrize("size", [(160, 208), (250, 130), (17, 300)])
def test_a_stride_16_autoencoder_is_the_same_tiled_and_untiled(size: tuple[int, int]) -> None:
    network = autoencoder()
    height, width = size
    x = image(1, height, width)
    radius = receptive_radius(network, 16)
    blend = 16
    overlap = -(-(2 * radius + blend) // 16) * 16
    tiled = tiled_apply(apply_of(network), x, tile=overlap + 32, overlap=overlap, blend=blend, multiple=16)
    padded = np.pad(x, ((0, 0), (0, -height % 16), (0, -width % 16)), mode="reflect")
    np.testing.assert_allclose(tiled, apply_of(network)(padded)[:, :height, :width], rtol=0, atol=1e-5)


@pytest.mark.parametrize("radii", [[0], [1], [1, 2, 3], [5, 5]])
def test_receptive_radius_of_stacked_convolutions_is_the_sum_of_theirs(radii: list[int]) -> None:
    assert receptive_radius(conv_net(radii), channels=2) == sum(radii)


def test_receptive_radius_does_not_depend_on_the_weights_and_leaves_the_model_alone() -> None:
    network = nn.Sequential(*conv_net([1, 3]), nn.BatchNorm2d(2), nn.ReLU())
    network[2].weight.data.zero_()  # layers that start at zero, or that are trained to let nothing through
    network[4].weight.data.zero_()
    network[4].running_mean.fill_(1e9)
    before = [parameter.clone() for parameter in network.parameters()]
    network.train()
    assert receptive_radius(network, channels=2) == 4
    assert network.training and all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def autoencoder_reach() -> int:
    """Return the reach of `autoencoder` by following each output pixel of one code back, layer by layer."""
    reach = 0
    for pixel in range(160, 176):
        seen = {pixel}
        for _ in range(4):  # transposed, kernel 4, stride 2, padding 1: output o takes code i where o = 2i - 1 + tap
            seen = {(o + 1 - tap) // 2 for o in seen for tap in range(4) if (o + 1 - tap) % 2 == 0}
        for _ in range(4):  # kernel 3, stride 2, padding 1: output o takes 2o - 1 to 2o + 1
            seen = {2 * o - 1 + tap for o in seen for tap in range(3)}
        reach = max(reach, pixel - min(seen), max(seen) - pixel)
    return reach


def test_receptive_radius_of_strided_networks_is_that_found_by_following_pixels_back() -> None:
    # stride 2, kernel 3, padding 1: code k sees inputs 2k-1 to 2k+1; nearest x2: outputs 2k and 2k+1 copy code k
    down_up = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.Upsample(scale_factor=2, mode="nearest"))
    assert receptive_radius(down_up, 2) == 2
    assert receptive_radius(autoencoder(), 16) == autoencoder_reach()


def test_a_network_that_sees_everything_is_refused() -> None:
    class Global(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.mean(dim=(2, 3), keepdim=True)

    with pytest.raises(MlkitError, match="Global sees 64 px or more, or the whole image; run it on whole images"):
        receptive_radius(Global(), limit=128)


@settings(max_examples=200, deadline=None)
@given(plans())
def test_weights_are_a_partition_of_unity_with_dead_margins(plan: tuple[int, int, int, int, int, int]) -> None:
    size, _, tile, overlap, blend, multiple = plan
    size = -(-size // multiple) * multiple
    total = np.zeros(size)
    starts = tile_starts(size, tile, overlap)
    margin = (overlap - blend) // 2
    for start, weights in tile_weights(size, tile, overlap, blend):
        assert start % multiple == 0 and weights.min() >= -1e-7
        total[start : start + len(weights)] += weights
        if start > 0:
            assert not weights[:margin].any()
        if start + len(weights) < size:
            assert not weights[len(weights) - margin :].any()
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-6)
    assert starts[0] == 0 and starts[-1] == max(0, size - tile)


def test_the_crossfade_is_smooth_and_as_wide_as_asked() -> None:
    weights = tile_weights(100, 60, 20, 8)[0][1]
    fading = np.flatnonzero((weights > 0) & (weights < 1))
    assert fading.tolist() == list(range(46, 54))  # the middle 8 of 40..59
    assert (np.diff(weights[45:55]) < 0).all()


def test_bands_come_in_order_and_memory_does_not_grow_with_height() -> None:
    def peak_bytes(height: int) -> int:
        def read(top: int, bottom: int) -> np.ndarray:
            assert 0 <= top < bottom <= height and bottom - top <= 64
            rows = np.arange(top, bottom, dtype=np.float32)[None, :, None]
            return np.broadcast_to(rows, (1, bottom - top, 300)).copy()

        next_row = 0
        tracemalloc.start()
        for first_row, band in tiled_rows(
            lambda x: 2 * x, read, height=height, width=300, channels_out=1, tile=64, overlap=16, blend=8, multiple=4
        ):
            assert first_row == next_row
            expected = 2.0 * np.arange(first_row, first_row + band.shape[1])
            np.testing.assert_allclose(band, np.broadcast_to(expected[:, None], band.shape[1:])[None], rtol=1e-6)
            next_row += band.shape[1]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert next_row == height
        return peak

    assert peak_bytes(6001) < 1.2 * peak_bytes(601)


@pytest.mark.parametrize(
    ("numbers", "sentences"),
    [
        ({"tile": 100, "overlap": 32, "blend": 0, "multiple": 16}, ["tile of 100 px is not a multiple of 16 px; 96"]),
        ({"tile": 64, "overlap": 10, "blend": 0, "multiple": 16}, ["overlap of 10 px is not a multiple .* 16 would"]),
        ({"tile": 64, "overlap": 64, "blend": 0, "multiple": 16}, ["overlap of 64 px leaves nothing .* less than 64"]),
        ({"tile": 64, "overlap": 16, "blend": 17, "multiple": 1}, ["blend of 17 px .* give 0 to 16"]),
        ({"tile": 7, "overlap": -1, "blend": 0, "multiple": 2}, ["tile of 7 px", "overlap of -1 px .* 0 would work"]),
        ({"tile": 64, "overlap": 16, "blend": 0, "multiple": 0}, ["multiples of 0 px; give 1 or more"]),
    ],
)
def test_numbers_that_do_not_fit_are_all_named_before_any_work(numbers: dict[str, int], sentences: list[str]) -> None:
    def never(*_: object) -> np.ndarray:
        raise AssertionError("work was begun")

    with pytest.raises(MlkitError) as caught:
        tiled_rows(never, never, height=100, width=100, channels_out=1, **numbers)
    for sentence in sentences:
        assert caught.match(sentence)
