"""What the network guarantees untrained: colours at their sites, exactness on ramps, exposure, phases, sizes, tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlkit.errors import DataError
from mlkit.tasks.demosaic.interpolation import OWN_ORDER, detail_kernels, interpolating_kernels
from mlkit.tasks.demosaic.model import XTransNet
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import PATTERN, Phase, mosaic, moved

PHASES: list[Phase] = [(row, column) for row in range(3) for column in range(6)]


@pytest.fixture(scope="module")
def net() -> XTransNet:
    torch.manual_seed(0)
    made = XTransNet(DemosaicModel(channels=16, blocks=2)).eval().requires_grad_(False)
    made.tail.weight.mul_(20.0)  # so that the network counts
    return made


def given(image_hwc: np.ndarray, phase: Phase) -> tuple[Tensor, Tensor]:
    values = mosaic(image_hwc.astype(np.float32), phase)
    return torch.from_numpy(values.copy())[None, None], torch.tensor([phase])


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def test_the_kernels_of_a_site_add_up_to_its_color_alone() -> None:
    """Of a picture that is 1 in one colour and 0 in the others, the estimate of that colour is 1, of the others 0."""
    window = np.array([[PATTERN[(y - 3) % 6, (x - 3) % 6] for x in range(9)] for y in range(9)])
    for kernel, color in zip(interpolating_kernels(), OWN_ORDER * 9, strict=True):
        for measured in range(3):
            assert kernel[window == measured].sum() == pytest.approx(float(measured == color), abs=1e-9)
    for kernel in detail_kernels():
        assert kernel.sum() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("phase", PHASES)
def test_ramps_of_any_color_come_back_exactly_whatever_the_weights(net: XTransNet, phase: Phase) -> None:
    y, x = np.mgrid[0:60, 0:66].astype(np.float32)
    ramp = np.stack([0.2 + 0.003 * x, 0.9 - 0.002 * y, 0.1 + 0.001 * x + 0.004 * y], axis=2)
    made = net(*given(ramp, phase))[0].permute(1, 2, 0).numpy()
    inner = slice(net.reach, -net.reach)
    assert made[inner, inner].size > 0
    np.testing.assert_allclose(made[inner, inner], ramp[inner, inner], atol=2e-5)


@pytest.mark.parametrize("phase", [(0, 0), (2, 5), (1, 3)])
def test_a_flat_color_comes_back_exactly_up_to_the_edges(net: XTransNet, phase: Phase) -> None:
    flat = np.broadcast_to(np.array([0.8, 0.3, 0.05], np.float32), (31, 29, 3))
    made = net(*given(flat, phase))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made, flat, atol=5e-6)


def test_a_flat_color_stays_exact_in_bf16(net: XTransNet) -> None:
    flat = np.broadcast_to(np.array([0.8, 0.3, 0.05], np.float32), (24, 24, 3))
    with torch.autocast("cpu", torch.bfloat16):
        made = net(*given(flat, (1, 2)))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made, flat, atol=5e-6)


@pytest.mark.parametrize("phase", PHASES)
def test_interpolation_keeps_what_was_measured(net: XTransNet, phase: Phase) -> None:
    image = picture(24, 30)
    made = net(*given(image, phase), interpolate_only=True)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(mosaic(made, phase), mosaic(image, phase), atol=1e-4)


def test_a_network_that_sees_samples_is_not_exact_on_ramps() -> None:
    """The guarantee comes from what the network sees, and the tests above could fail."""
    torch.manual_seed(0)
    plain = XTransNet(DemosaicModel(channels=16, blocks=2, input="samples")).eval().requires_grad_(False)
    flat = np.broadcast_to(np.array([0.8, 0.3, 0.05], np.float32), (24, 24, 3))
    made = plain(*given(flat, (0, 0)))[0].permute(1, 2, 0).numpy()
    assert np.abs(made - flat).max() > 1e-3


def test_exposure_does_not_matter(net: XTransNet) -> None:
    values, phase = given(picture(30, 36), (0, 0))
    whole = net(values, phase)
    torch.testing.assert_close(net(values / 16.0, phase) * 16.0, whole, rtol=0, atol=0)  # four stops, without rounding
    torch.testing.assert_close(net(values * 3.0, phase) / 3.0, whole, rtol=1e-4, atol=1e-5)


def test_red_and_blue_are_treated_alike(net: XTransNet) -> None:
    image = picture(24, 24)
    made = net(*given(image, (0, 0)))
    exchanged = net(*given(image[..., ::-1], (3, 0)))  # moved by (3, 0), red and blue have changed places
    torch.testing.assert_close(exchanged.flip(1), made, rtol=0, atol=0)


def test_a_crop_is_demosaicked_as_the_whole_at_every_place(net: XTransNet) -> None:
    image = picture(110, 112)
    whole = net(*given(image, (1, 4)))
    margin = net.reach
    for top, left in [(0, 0), (1, 2), (2, 1), (3, 4), (5, 3), (7, 8)]:
        part = net(*given(image[top:, left:], moved((1, 4), top, left)))
        torch.testing.assert_close(
            part[..., margin:-margin, margin:-margin],
            whole[..., top + margin : -margin, left + margin : -margin],
            rtol=1e-4,
            atol=1e-5,
        )


def test_nothing_beyond_the_reach_matters(net: XTransNet) -> None:
    values, phase = given(picture(80, 80), (2, 3))
    values.requires_grad_(True)
    net(values, phase)[0, :, 40, 40].sum().backward()
    assert values.grad is not None
    rows, columns = np.nonzero(values.grad[0, 0].numpy())
    assert max(abs(rows - 40).max(), abs(columns - 40).max()) <= net.reach
    assert abs(rows - 40).max() > net.reach - 9  # and it is not much too large


def test_a_batch_may_mix_phases(net: XTransNet) -> None:
    image = picture(27, 32)
    pairs = [given(image, phase) for phase in PHASES]
    together = net(torch.cat([values for values, _ in pairs]), torch.cat([phase for _, phase in pairs]))
    for place, (values, phase) in enumerate(pairs):
        torch.testing.assert_close(together[place], net(values, phase)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 11), (8, 6), (13, 100)])
def test_any_size_from_six_pixels(net: XTransNet, height: int, width: int) -> None:
    for phase in PHASES:
        made = net(*given(picture(height, width), phase))
        assert made.shape == (1, 3, height, width)
        assert bool(torch.isfinite(made).all())


def test_less_than_six_pixels_is_refused(net: XTransNet) -> None:
    with pytest.raises(DataError, match="mosaic of 5 x 9 px is too small"):
        net(torch.zeros(1, 1, 9, 5), torch.zeros(1, 2, dtype=torch.long))
