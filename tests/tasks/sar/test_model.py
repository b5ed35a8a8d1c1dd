"""Claims of tasks/sar/model.py: sizes, parameter counts, rate, blocks, and how far an output pixel sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlkit.imaging.tiling import receptive_radius
from mlkit.presets import resolve_preset
from mlkit.settings import TrainSettings
from mlkit.tasks.sar.model import RECEPTIVE_RADIUS_PX, Autoencoder, PreActBlock, ResBlock, build_autoencoder
from mlkit.tasks.sar.settings import SarModel, SarSettings
from mlkit.tasks.sar.task import SarTask

ARCHES = ("baseline", "resnet_lite_v2", "residual_v1")
NetOf = Callable[..., Autoencoder]


# ---- size -----------------------------------------------------------------------------------------------------------

# Weights of convolutions, two for each BatchNorm channel, biases of the last convolution of each half of the baseline.
BASELINE = 25 * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 16) + 2 * (64 + 128 + 256) + 16
BASELINE += 25 * (16 * 256 + 256 * 128 + 128 * 64 + 64 * 1) + 2 * (256 + 128 + 64) + 1


@pytest.mark.parametrize(
    ("preset", "exact", "published"),
    [
        ("baseline_c16", 2_257_809, 2.3e6),
        ("resnet_lite_v2_c16", 5_648_033, 5.6e6),
        ("residual_v1_c16", 23_836_257, 23.8e6),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset: str, exact: int, published: float) -> None:
    task = SarTask(resolve_preset(preset).settings)
    count = sum(parameter.numel() for parameter in task.build_model().parameters())
    assert count == exact
    assert abs(count / published - 1) < 0.02
    if preset == "baseline_c16":
        assert count == BASELINE


@pytest.mark.parametrize("preset", ["baseline_c16", "resnet_lite_v2_c16", "residual_v1_c16"])
def test_256_px_become_16_x_16_x_16_values(net_of: NetOf, preset: str) -> None:
    settings = resolve_preset(preset).settings
    assert isinstance(settings, SarSettings) and settings.model.latent_channels == 16
    net = net_of(settings.model.arch, latent=16)  # narrow: the sizes do not depend on the width
    with torch.no_grad():
        latent = net.encode(torch.rand(1, 1, 256, 256))
        assert latent.shape == (1, 16, 16, 16)
        assert net.decode(latent).shape == (1, 1, 256, 256)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 112), (160, 32)])
def test_any_multiple_of_16_comes_back_in_its_size_and_in_0_to_1(
    net_of: NetOf, arch: str, height: int, width: int
) -> None:
    net = net_of(arch, latent=3)
    with torch.no_grad():
        image = torch.rand(2, 1, height, width) * 100 - 50  # far out of range: the output stays in it
        assert net.encode(image).shape == (2, 3, height // 16, width // 16)
        output = net(image)
    assert output.shape == image.shape
    assert 0 <= output.min() < output.max() <= 1


@pytest.mark.parametrize("arch", ARCHES)
def test_other_sizes_are_a_mistake_of_the_caller(net_of: NetOf, arch: str) -> None:
    with pytest.raises(AssertionError, match="not multiples of 16"):
        net_of(arch)(torch.rand(1, 1, 40, 48))


@pytest.mark.parametrize(("channels", "ratio", "bits"), [(16, 16, 2.0), (64, 4, 8.0), (4, 64, 0.5)])
def test_values_and_bits_per_pixel_are_stated_together(channels: int, ratio: float, bits: float) -> None:
    model = SarModel(base_channels=4, latent_channels=channels)
    task = SarTask(SarSettings(model=model, train=TrainSettings(steps=1)))
    assert task.facts == {"values_ratio": ratio, "bits_per_px": bits}
    with torch.no_grad():
        values = task.build_model().eval().encode(torch.rand(1, 1, 64, 64))
    assert 64 * 64 / values.numel() == ratio
    assert values.numel() * values.element_size() * 8 / (64 * 64) == bits


# ---- blocks ---------------------------------------------------------------------------------------------------------


def batch_norm(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    mean, variance, scale, shift = (
        value.view(1, -1, 1, 1) for value in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (x - mean) / (variance + 1e-5) ** 0.5 * scale + shift


def conv(x: Tensor, layer: nn.Module, stride: int = 1) -> Tensor:
    assert isinstance(layer, nn.Conv2d) and layer.bias is None
    return nn.functional.conv2d(x, layer.weight, stride=stride, padding=layer.weight.shape[-1] // 2)


def unlike(block: Any) -> Any:
    """Return the block in evaluation mode with normalisations that do something."""
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.2, 1.5)
    return block.double().eval()


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(3, 3, 1), (3, 5, 1), (3, 3, 2), (3, 5, 2)])
def test_pre_activation_blocks_project_the_activated_input(c_in: int, c_out: int, stride: int) -> None:
    # He et al. 2016b, figure 4e and its section 4.2: nothing follows the addition, a projection takes relu(bn(x))
    block = unlike(PreActBlock(c_in, c_out, stride=stride))
    x = torch.randn(2, c_in, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        h = batch_norm(x, block.bn1).relu()
        skip = x if (c_in, stride) == (c_out, 1) else conv(h, block.proj, stride)
        expected = skip + conv(batch_norm(conv(h, block.conv1, stride), block.bn2).relu(), block.conv2)
        torch.testing.assert_close(block(x), expected)
    assert expected.min() < 0


@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(3, 3, 1), (3, 5, 1), (3, 3, 2), (3, 5, 2)])
@pytest.mark.parametrize("up", [False, True])
def test_post_activation_blocks_end_with_the_activation(c_in: int, c_out: int, stride: int, up: bool) -> None:
    # He et al. 2016a, equation 2 and option B of its section 3.3, each convolution with BatchNorm
    block = unlike(ResBlock(c_in, c_out, stride=stride, up=up))
    given = torch.randn(2, c_in, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        x = given.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) if up else given
        skip = x if (c_in, stride) == (c_out, 1) else batch_norm(conv(x, block.skip[0], stride), block.skip[1])
        h = batch_norm(conv(x, block.conv1, stride), block.bn1).relu()
        expected = (skip + batch_norm(conv(h, block.conv2), block.bn2)).relu()
        torch.testing.assert_close(block(given), expected)


# ---- reach ----------------------------------------------------------------------------------------------------------

# The layouts as documented, from input to output. ("conv", kernel, stride), padding kernel // 2; ("up", kernel) is a
# transposed convolution of stride 2, padding kernel // 2; "nearest" and "bilinear" double the size.
Layer = tuple[Any, ...]
CONV3: Layer = ("conv", 3, 1)
LAYOUTS: dict[str, list[Layer]] = {
    "baseline": [("conv", 5, 2)] * 4 + [("up", 5)] * 4,
    "resnet_lite_v2": [
        ("conv", 7, 1),
        *([CONV3, CONV3, ("conv", 3, 2), CONV3] * 4),
        *([("nearest",), CONV3, CONV3, CONV3, CONV3] * 4),
        ("conv", 7, 1),
    ],
    "residual_v1": [
        ("conv", 7, 1),
        *([("conv", 3, 2), CONV3, CONV3, CONV3] * 4),
        *([("bilinear",), CONV3, CONV3, CONV3, CONV3] * 4),
        ("conv", 7, 1),
    ],
}


def seen_by(pixel: int, layers: Iterable[Layer]) -> tuple[int, int]:
    """Return the first and last input position along an axis that output position `pixel` depends on.

    A skip connection sees no more than the convolutions beside it, so only these are followed.
    """
    low = high = pixel
    for name, *numbers in reversed(list(layers)):
        if name == "conv":
            kernel, stride = numbers
            low, high = low * stride - kernel // 2, high * stride + kernel // 2
        elif name == "up":  # output o takes input i through tap o + padding - 2 i, of 0 to kernel - 1
            reach = numbers[0] // 2
            low, high = math.ceil((low - reach) / 2), math.floor((high + reach) / 2)
        elif name == "nearest":
            low, high = low // 2, high // 2
        else:  # output o lies at input (o + 0.5) / 2 - 0.5, between two pixels
            low, high = math.floor((low - 0.5) / 2), math.floor((high - 0.5) / 2) + 1
    return low, high


def documented(arch: str) -> int:
    """Return the reach of a layout, the largest over the 16 places within a latent site."""
    ends = [(pixel, *seen_by(pixel, LAYOUTS[arch])) for pixel in range(16)]
    return max(max(pixel - low, high - pixel) for pixel, low, high in ends)


def reach_by_gradient(net: Autoencoder) -> int:
    """Return how far an output pixel sees along rows and columns, by float64 gradients in evaluation mode.

    Weights are made positive and the sigmoid is left out, so nothing is closed, cancelled or saturated. Images are one
    latent site wide: no layer mixes the axes, so the reach along the other one is the same, at a thirtieth of the time.
    """
    assert isinstance(net.decoder, nn.Sequential) and isinstance(net.decoder[-1], nn.Sigmoid)
    net = net.double().eval()
    open_net = nn.Sequential(net.encoder, net.decoder[:-1])
    with torch.no_grad():
        for parameter in net.parameters():
            # a mean near 1 through every layer, with spread enough that no two taps are alike
            size = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
            parameter.copy_((parameter.abs() / (parameter.abs().mean() + 1e-9)).clamp(0.1, 2) / size)
    reach, side = 0, 2 * 16 * (RECEPTIVE_RADIUS_PX["residual_v1"] // 16 + 3)
    for axis in (2, 3):
        image = torch.ones((1, 1, side, 16) if axis == 2 else (1, 1, 16, side), dtype=torch.float64, requires_grad=True)
        output = open_net(image)
        for pixel in range(side // 2, side // 2 + 16):
            (gradient,) = torch.autograd.grad(output.select(axis, pixel).sum(), image, retain_graph=True)
            seen = gradient.abs().sum(dim=5 - axis)[0, 0].nonzero()
            low, high = int(seen[0]), int(seen[-1])
            assert low > 0 and high < side - 1, "the image is too small to tell"
            reach = max(reach, pixel - low, high - pixel)
    return reach


@pytest.mark.parametrize("arch", ARCHES)
def test_the_known_receptive_radius_is_that_of_the_layout_and_what_gradients_say(arch: Any) -> None:
    torch.manual_seed(0)
    net = build_autoencoder(arch, 4, 4)
    assert net.receptive_radius_px == RECEPTIVE_RADIUS_PX[arch] == documented(arch)
    assert reach_by_gradient(net) == RECEPTIVE_RADIUS_PX[arch]


def test_the_layout_for_coding_sees_as_far_as_it_says() -> None:
    torch.manual_seed(0)
    net = build_autoencoder("gdn", 4, 4).double()
    with torch.no_grad():
        for parameter in net.parameters():  # the last layers start at 0
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert net.stride == 8 and net.latent_channels == 4
    image = torch.rand(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    made, reach = net(image), 0
    for place in range(72, 88):  # all places of a pixel in its latent site
        (gradient,) = torch.autograd.grad(made[0, 0, place, place], image, retain_graph=True)
        seen = gradient[0, 0].nonzero()
        reach = max(reach, place - int(seen.min()), int(seen.max()) - place)
    assert reach == RECEPTIVE_RADIUS_PX["gdn"]


@pytest.mark.parametrize("arch", ARCHES)
def test_the_known_receptive_radius_is_what_tiling_measures(arch: Any) -> None:
    # one channel: at width 4 the same measure takes more than a minute
    assert receptive_radius(build_autoencoder(arch, 1, 1), multiple=16) == RECEPTIVE_RADIUS_PX[arch]


@pytest.mark.parametrize("arch", ARCHES)
def test_an_input_pixel_beyond_the_radius_changes_nothing_and_one_within_does(net_of: NetOf, arch: Any) -> None:
    net = net_of(arch)
    radius = RECEPTIVE_RADIUS_PX[arch]
    side = 2 * 16 * (radius // 16 + 2)
    pixel = side // 2
    image = torch.rand(1, 1, side, side)
    beyond = torch.zeros_like(image, dtype=torch.bool)
    beyond[..., : pixel - radius, :] = beyond[..., pixel + radius + 1 :, :] = True
    beyond[..., : pixel - radius] = beyond[..., pixel + radius + 1 :] = True
    with torch.no_grad():
        before = net(image)[0, 0, pixel, pixel]
        assert torch.equal(net(torch.where(beyond, 1 - image, image))[0, 0, pixel, pixel], before)
        assert not torch.equal(net(torch.where(beyond, image, 1 - image))[0, 0, pixel, pixel], before)
