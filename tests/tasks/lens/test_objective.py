"""The loss: parts by hand and by other libraries, finite where nothing is valid, and each part pulls the right way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel
from skimage.metrics import structural_similarity

from mlkit.errors import SettingsError
from mlkit.presets import validate
from mlkit.tasks.lens.geometry import IDENTITY, frame_of
from mlkit.tasks.lens.objective import objective
from mlkit.tasks.lens.settings import LensLoss

NONE = {"map": 0.0, "pixel": 0.0, "ssim": 0.0, "edge": 0.0, "orientation": 0.0}
SIZE = 48


def smooth(seed: int) -> torch.Tensor:
    rough = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, size=SIZE, mode="bicubic").clamp(0, 1)


def batch(
    image: torch.Tensor, target: torch.Tensor, profile: tuple[float, ...] | None = None
) -> dict[str, torch.Tensor]:
    found = {"image": image, "target": target, "frame": torch.tensor([frame_of(2, 3)] * len(image))}
    if profile is not None:
        found["profile"] = torch.tensor([profile] * len(image))
    return found


def outputs(flow: torch.Tensor | None = None, **params: float) -> dict[str, torch.Tensor]:
    from mlkit.tasks.lens.geometry import NAMES

    values = [params.get(name, IDENTITY[place]) for place, name in enumerate(NAMES)]
    return {"params": torch.tensor([values]), "flow": torch.zeros(1, 2, 6, 6) if flow is None else flow}


def part(name: str, made: dict[str, torch.Tensor], given: dict[str, torch.Tensor], **weights: Any) -> float:
    loss = LensLoss.model_validate({**NONE, "pixel": 1e-9, **weights})
    parts = objective(made, given, loss, has_flow=True)[1]
    return float(parts[name])


def test_the_distance_of_maps_is_in_hundredths_of_a_half_diagonal() -> None:
    """A shift of the lens's axis of a pure scale moves everything equally far: (s - 1) (x - c)."""
    image = smooth(0)
    given = batch(image, image, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    flow = torch.zeros(1, 2, 6, 6)
    flow[:, 0], flow[:, 1] = 0.003, 0.004
    assert part("map", outputs(flow), given, map=1.0) == pytest.approx(0.5, rel=1e-3)
    assert part("map", outputs(), given, map=1.0) < 0.01


def test_pixels_are_compared_by_charbonnier_or_l1_over_two_sizes() -> None:
    image, target = smooth(0), smooth(1)
    halves = [torch.nn.functional.avg_pool2d(one, 2) for one in (image, target)]
    pairs = [(image, target), tuple(halves)]
    l1 = np.mean([float((a - b).abs().mean()) for a, b in pairs])
    charbonnier = np.mean([float(((a - b).square() + 1e-6).sqrt().mean()) for a, b in pairs])
    given = batch(image, target)
    assert part("pixel", outputs(), given, pixel=1.0, pixel_kind="l1") == pytest.approx(l1, rel=2e-3)
    assert part("pixel", outputs(), given, pixel=1.0) == pytest.approx(charbonnier, rel=2e-3)


def test_ssim_is_that_of_scikit_image() -> None:
    image, target = smooth(0), smooth(1)
    values = []
    for _ in range(2):
        x, y = (one[0].permute(1, 2, 0).numpy() for one in (image, target))
        options: dict[str, Any] = {"channel_axis": 2, "data_range": 1.0, "gaussian_weights": True}
        values.append(1 - structural_similarity(x, y, use_sample_covariance=False, **options))
        image, target = (torch.nn.functional.avg_pool2d(one, 2) for one in (image, target))
    assert part("ssim_loss", outputs(), batch(smooth(0), smooth(1)), ssim=1.0) == pytest.approx(
        np.mean(values), abs=2e-3
    )


def test_edges_are_sobels() -> None:
    values = []
    image, target = smooth(0), smooth(1)
    for _ in range(2):
        sizes = []
        for one in (image, target):
            luma = one[0].mean(dim=0).double().numpy()
            sizes.append(np.hypot(sobel(luma, axis=1) / 8, sobel(luma, axis=0) / 8)[1:-1, 1:-1])
        values.append(np.abs(sizes[0] - sizes[1]).mean())
        image, target = (torch.nn.functional.avg_pool2d(one, 2) for one in (image, target))
    made = part("edge", outputs(), batch(smooth(0), smooth(1)), edge=1.0)
    assert made == pytest.approx(float(np.mean(values)), rel=0.05)


def test_directions_count_as_equal_when_opposite_and_most_when_across() -> None:
    ramp = torch.linspace(0, 1, SIZE)
    level, upright = ramp.expand(1, 3, SIZE, SIZE), ramp[:, None].expand(1, 3, SIZE, SIZE)
    opposite = part("orientation", outputs(), batch(level, 1 - level), orientation=1.0)
    across = part("orientation", outputs(), batch(level, upright.contiguous()), orientation=1.0)
    assert opposite < 0.01 and across > 0.95


def test_parts_of_the_flow_by_hand() -> None:
    image = smooth(0)
    flow = torch.zeros(1, 2, 4, 4)
    flow[0, 0] = torch.tensor([0.0, 0.01, 0.02, 0.04])  # along x; in hundredths 0, 1, 2, 4
    given = batch(image, image)
    assert part("flow_tv", outputs(flow), given, flow_tv=1.0) == pytest.approx((1 + 1 + 2) / 3 / 2, rel=1e-5)
    assert part("flow_mag", outputs(flow), given, flow_mag=1.0) == pytest.approx((0 + 1 + 4 + 16) / 4 / 2, rel=1e-5)
    assert part("flow_curv", outputs(flow), given, flow_curv=1.0) == pytest.approx((0 + 1) / 2 / 2, rel=1e-5)
    assert part("flow_curv", outputs(flow[..., :2, :2]), given, flow_curv=1.0) == 0.0  # too small for any


def test_a_fold_is_punished_and_no_other_map() -> None:
    image = smooth(0)
    given = batch(image, image)
    assert part("jacobian", outputs(k1=-0.2), given, jacobian=1.0, jacobian_margin=0.1) == 0
    assert part("jacobian", outputs(k1=-0.6), given, jacobian=1.0, jacobian_margin=0.1) > 0.01


def test_each_part_falls_towards_the_truth() -> None:
    """A distorted picture and its truth: with the right k1 every part is smaller than without."""
    from mlkit.tasks.lens.geometry import parametric_grid, undistorted_points, warp

    target = torch.nn.functional.interpolate(smooth(2), size=SIZE)
    frame = torch.tensor([frame_of(2, 3)])
    lens = outputs(k1=-0.1)["params"]
    from mlkit.tasks.lens.geometry import identity_grid

    back = undistorted_points(lens, identity_grid(SIZE, SIZE)[None] * frame[:, None, None]) / frame[:, None, None]
    image = warp(target, back.float())
    given = batch(image, target, (1.0, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0))
    assert parametric_grid(lens, frame, 2, 2).shape == (1, 2, 2, 2)
    for name, key in (("map", "map"), ("pixel", "pixel"), ("ssim_loss", "ssim"), ("edge", "edge")):
        right, none, wrong = (part(name, outputs(k1=k1), given, **{key: 1.0}) for k1 in (-0.1, 0.0, 0.1))
        assert right < 0.6 * none < none < wrong, name


def test_where_nothing_is_valid_everything_stays_finite() -> None:
    image = smooth(0)
    made = outputs(cx=0.0)
    made["params"][:, 7] = 0.01  # a hundredth of the scale: all sources lie outside
    made["params"].requires_grad_(True)
    given = batch(image, image, (1.0, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0))
    total, parts = objective(made, given, LensLoss(flow_tv=0.1, jacobian=0.1), has_flow=True)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(value).all()) for value in (total, made["params"].grad, *parts.values()))


def test_without_a_true_map_there_is_no_part_of_it() -> None:
    image = smooth(0)
    parts = objective(outputs(), batch(image, smooth(1)), LensLoss(), has_flow=False)[1]
    assert set(parts) == {"pixel", "ssim_loss", "edge", "orientation"}


# ---- settings -----------------------------------------------------------------------------------------------------


def refused(**changes: Any) -> str:
    values: dict[str, Any] = {"task": "lens", "train": {"steps": 1}, **changes}
    with pytest.raises(SettingsError) as caught:
        validate(values)
    return str(caught.value)


def test_a_stage_and_a_loss_that_do_not_fit_are_both_named() -> None:
    told = refused(model={"stage": "param_only"}, loss={"flow_tv": 0.05})
    assert 'model.stage = "param_only" has no residual flow, but loss.flow_tv = 0.05' in told
    told = refused(model={"stage": "hybrid"}, loss={"flow_tv": 0.05})
    assert 'model.stage = "hybrid" trains a residual flow, but loss.jacobian = 0' in told
    told = refused(model={"stage": "finetune"}, loss={"jacobian": 0.05})
    assert "but all of loss.flow_tv, loss.flow_mag and loss.flow_curv = 0" in told
    assert "map, pixel, ssim, edge and orientation cannot all be 0" in refused(loss=NONE)


def test_values_out_of_range_are_told() -> None:
    assert "model.max_disp = 0.5: input should be less than or equal to 0.1" in refused(model={"max_disp": 0.5})
    assert "radial_range 1.5 is beyond 1" in refused(model={"radial_range": [1.5, 0.3, 0.1]})
    assert "data.size = 100: input should be a multiple of 32" in refused(data={"size": 100})
    assert "strength from 2 to 1 does not rise" in refused(data={"strength": [2.0, 1.0]})
