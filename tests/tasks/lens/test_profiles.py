"""Profiles against lensfun's own maps; lenses are split whole."""

from __future__ import annotations

import lensfunpy
import numpy as np
import pytest

from mlkit.errors import DataError
from mlkit.tasks.lens.profiles import (
    FARTHEST,
    Profile,
    database_profiles,
    in_half_diagonals,
    is_usable,
    split_lenses,
)


def profile(*terms: float) -> Profile:
    return Profile("a lens", "a camera", 20.0, "ptlens", (*terms, *[0.0] * (5 - len(terms))))


@pytest.fixture(scope="module")
def canon() -> list[Profile]:
    return database_profiles("canon ef ", seed=0)[0]


def lensfun_radius(one: Profile, width: int, height: int, column: int) -> tuple[float, float]:
    """Return the undistorted and lensfun's distorted radius of a pixel on the middle row, in half-diagonals."""
    database = lensfunpy.Database()
    lens = next(
        lens
        for lens in database.lenses
        if one.lens in (lens.model, f"{lens.maker} {lens.model}")
        and any(abs(known.focal - one.focal_mm) < 1e-3 for known in lens.calib_distortion)
    )
    camera = next(
        camera for camera in database.cameras if one.camera in (camera.model, f"{camera.maker} {camera.model}")
    )
    modifier = lensfunpy.Modifier(lens, camera.crop_factor, width, height)
    flags = lensfunpy.ModifyFlags.DISTORTION
    modifier.initialize(one.focal_mm, 8.0, 1000.0, scale=1.0, flags=flags)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    seen = modifier.apply_geometry_distortion(column, (height - 1) // 2, 1, 1)[0, 0]
    half_diagonal = np.hypot(width - 1, height - 1) / 2
    return abs(column - middle[0]) / half_diagonal, float(np.hypot(*(seen - middle))) / half_diagonal


@pytest.mark.parametrize(("width", "height"), [(1501, 1001), (1601, 901), (1201, 1201)])
def test_a_profile_is_lensfuns_map_whatever_the_pictures_shape(canon: list[Profile], width: int, height: int) -> None:
    by_model = {one.model: one for one in sorted(canon, key=lambda one: abs(one.corner_share))}  # the strongest of each
    assert len(by_model) >= 2 and all(abs(one.corner_share) > 0.01 for one in by_model.values())
    for one in by_model.values():
        for column in (0, width // 5):
            radius, theirs = lensfun_radius(one, width, height, column)
            assert float(one.distorted(np.asarray(radius))) == pytest.approx(theirs, abs=0.6 / 900)


@pytest.mark.parametrize(
    ("model", "terms", "formula"),
    [
        ("poly3", [0.03], lambda r: r * (1 - 0.03 + 0.03 * r**2)),
        ("poly5", [0.03, -0.01], lambda r: r * (1 + 0.03 * r**2 - 0.01 * r**4)),
        ("ptlens", [0.01, -0.03, 0.02], lambda r: r * (0.01 * r**3 - 0.03 * r**2 + 0.02 * r + 1)),
    ],
)
def test_lensfuns_formulas_in_other_units(model: str, terms: list[float], formula: object) -> None:
    unit = 1.7
    made = profile(*in_half_diagonals(model, terms, unit))
    radius = np.linspace(0, 1, 11)
    np.testing.assert_allclose(made.distorted(radius), formula(radius * unit) / unit, atol=1e-12)  # type: ignore[operator]


def test_undistorting_undoes_distorting(canon: list[Profile]) -> None:
    radius = np.linspace(0, 1.05, 50)
    for one in sorted(canon, key=lambda one: one.corner_share)[:: max(1, len(canon) // 20)]:
        np.testing.assert_allclose(one.distorted(one.undistorted(radius)), radius, atol=1e-9)


def test_strength_is_a_factor_of_the_displacement() -> None:
    one = profile(0.99, 0.01, -0.05)
    radius = np.linspace(0, 1, 9)
    moved = one.distorted(radius) - radius
    np.testing.assert_allclose(one.stronger(2.5).distorted(radius) - radius, 2.5 * moved, atol=1e-12)
    assert one.corner_share == pytest.approx(-0.05)


def test_what_folds_or_is_beyond_reason_is_unusable() -> None:
    assert is_usable(profile(1.0, 0.0, -0.05))
    assert not is_usable(profile(1.0, 0.0, -0.2))  # 20 % in the corner
    assert not is_usable(profile(1.0, 0.0, 0.1, -0.09, -0.08))  # turns back beyond the corner
    assert not is_usable(profile(float("nan")))
    shown = profile(1.0, 0.0, -0.1)
    assert is_usable(shown) and shown.distorted(np.asarray(FARTHEST)) > 1


def test_all_that_is_taken_is_usable_and_there_are_many(canon: list[Profile]) -> None:
    assert len(canon) > 300
    assert all(is_usable(one) and "canon ef " in one.lens.lower() for one in canon)
    assert database_profiles("canon ef ", seed=0)[0] == canon
    assert database_profiles("canon ef ", seed=1)[0] != canon  # other cameras


def test_lensfuns_own_words_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    database_profiles("35-70", seed=0)
    assert capfd.readouterr().err == ""


def test_a_lens_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match=r"contains 'nikonn' \(did you mean 'Nikon'\?\); it has 1,\d\d\d lenses"):
        database_profiles("nikonn", seed=0)
    with pytest.raises(DataError, match=r"no lens of lensfun's data base contains 'Cannon EF 17-40'.* lenses"):
        database_profiles("Cannon EF 17-40", seed=0)


def test_no_lens_is_on_both_sides(canon: list[Profile]) -> None:
    splits = split_lenses(canon, 0.2, 3)
    sides = {side: {one.lens for one, of in zip(canon, splits, strict=True) if of == side} for side in set(splits)}
    assert not sides["train"] & sides["validation"]
    assert len(sides["validation"]) == round(0.2 * len({one.lens for one in canon}))
    with pytest.raises(DataError, match="only the lens a lens is left"):
        split_lenses([profile(1.0)], 0.5, 0)
