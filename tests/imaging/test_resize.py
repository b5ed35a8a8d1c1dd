"""Cutting to multiples moves no pixel; enlargement is the bicubic interpolation that others compute."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F

from mlkit.errors import MlkitError
from mlkit.imaging.resize import resize_to_multiple, upscale


@pytest.mark.parametrize(("height", "width", "multiple"), [(50, 67, 16), (48, 64, 16), (16, 31, 16), (7, 9, 1)])
def test_resize_to_multiple_keeps_the_middle_unchanged(height: int, width: int, multiple: int) -> None:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack((rows, columns, rows), axis=2)
    cut = resize_to_multiple(image, multiple)
    assert cut.shape == (height - height % multiple, width - width % multiple, 3)
    top, left = cut[0, 0, 0], cut[0, 0, 1]
    assert np.array_equal(cut[..., 0] - top, np.mgrid[0 : cut.shape[0], 0 : cut.shape[1]][0])
    assert np.array_equal(cut[..., 1] - left, np.mgrid[0 : cut.shape[0], 0 : cut.shape[1]][1])
    assert abs(2 * top - height % multiple) <= 1 and abs(2 * left - width % multiple) <= 1


def test_resize_to_multiple_refuses_what_leaves_nothing() -> None:
    image = np.zeros((10, 40, 3), np.float32)
    with pytest.raises(MlkitError, match=r"an image of 40 x 10 px has no part .* multiples of 16 px; give 10 or less"):
        resize_to_multiple(image, 16)
    with pytest.raises(MlkitError, match=r"multiple of 0 px; give 1 or more"):
        resize_to_multiple(image, 0)


@pytest.mark.parametrize("factor", [2, 4, 2.5])
def test_upscale_agrees_with_torch_bicubic(factor: float) -> None:
    image = skimage.data.astronaut()[:40, 100:154].astype(np.float32) / 255
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    size = (round(40 * factor), round(54 * factor))
    # with antialias torch uses Keys' a = -0.5, without it -0.75
    expected = F.interpolate(tensor, size=size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)
    enlarged = upscale(image, factor)
    assert enlarged.dtype == np.float32 and enlarged.shape == (*size, 3)
    np.testing.assert_allclose(enlarged, expected.permute(1, 2, 0).numpy(), atol=1e-5)


def test_upscale_by_one_is_the_image_and_constants_stay() -> None:
    image = np.random.default_rng(0).random((5, 6, 3), dtype=np.float32)
    assert np.array_equal(upscale(image, 1), image)
    np.testing.assert_allclose(upscale(np.full((5, 6, 1), 0.3, np.float32), 3), 0.3, atol=1e-6)


@pytest.mark.parametrize("factor", [0, 0.5, -2, float("nan"), float("inf")])
def test_upscale_refuses_factors_below_one(factor: float) -> None:
    with pytest.raises(MlkitError, match=r"cannot be enlarged .* times; give a factor of 1 or more"):
        upscale(np.zeros((4, 4, 3), np.float32), factor)
