"""Copies of a picture are found however they were made; pictures that only look alike are not taken for copies."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from mlkit.data.duplicates import Picture, near_duplicates, picture_of
from mlkit.data.limit import Limit

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")


def photograph(name: str) -> np.ndarray:
    return np.asarray(getattr(photographs, name)())


def compressed(image: np.ndarray) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=30)
    return np.asarray(Image.open(stored))


def half(image: np.ndarray) -> np.ndarray:
    return np.asarray(
        Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.BICUBIC)
    )


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same": lambda image: image,
    "compressed": compressed,
    "half as large and mirrored": lambda image: half(image)[:, ::-1],
    "turned and darker": lambda image: np.rot90((image * 0.6).astype(np.uint8)),
    "grey": lambda image: np.asarray(Image.fromarray(image).convert("L")),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255),
}


def found(pictures: list[Picture]) -> list[tuple[str, str]]:
    return [(pair.train, pair.validation) for pair in near_duplicates(pictures, Limit(60.0))]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_among_others(how: str) -> None:
    pictures = [picture_of("train", name, photograph(name)) for name in NAMES]
    pictures += [picture_of("validation", f"{name} copied", COPIES[how](photograph(name))) for name in NAMES[:3]]
    assert sorted(found(pictures)) == [(name, f"{name} copied") for name in sorted(NAMES[:3])]


def test_different_photographs_and_shades_are_no_copies() -> None:
    y, x = np.mgrid[:200, :300] / 300
    skies = [0.5 + 0.4 * y + 0.1 * tilt * x for tilt in (-1, 0, 1)]
    shown = [photograph(name) for name in NAMES]
    pictures = [picture_of("train", str(place), image) for place, image in enumerate([*shown[:4], skies[0], skies[1]])]
    pictures += [picture_of("validation", str(place), image) for place, image in enumerate(shown[4:])]
    assert found(pictures) == []


def test_flat_and_empty_pictures_are_like_nothing() -> None:
    flat = [np.zeros((64, 64)), np.full((64, 64), 0.7), np.full((64, 64), np.nan)]
    pictures = [picture_of(part, "flat", image) for part in ("train", "validation") for image in flat]
    assert found(pictures) == []


def test_of_one_origin_only_mirrored_copies_count_and_nothing_is_a_copy_of_itself() -> None:
    image = photograph("coffee")
    train = picture_of("train", "a", image, "scene")
    assert found([train, picture_of("validation", "b", image, "scene")]) == []
    assert found([train, picture_of("validation", "b", image, "other")]) == [("a", "b")]
    assert found([train, picture_of("validation", "b", image[::-1], "scene")]) == [("a", "b")]
    assert found([train, picture_of("validation", "a", image[::-1], "scene")]) == []  # the very same


def test_nan_and_tiny_pictures_can_be_compared() -> None:
    image = np.random.default_rng(0).random((20, 7)).astype(np.float32)
    image[3, 2] = np.nan
    assert found([picture_of("train", "a", image), picture_of("validation", "b", image[::-1])]) == [("a", "b")]


def test_what_the_time_did_not_allow_is_in_the_limit() -> None:
    pictures = [picture_of(part, str(seed), np.random.default_rng(seed).random((40, 40)))
                for part in ("train", "validation") for seed in range(5)]  # fmt: skip
    limit = Limit(0.0)
    assert len(near_duplicates(pictures, limit)) == 1 and (limit.done, limit.total) == (1, 5)
    assert limit.told == "1 of 5"
