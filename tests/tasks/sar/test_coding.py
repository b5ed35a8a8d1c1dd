"""The coder: what goes in comes out, in as many bytes as the model says, with tables that are exact everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from mlkit.tasks.sar import coding
from mlkit.tasks.sar.coding import ONE, decode, encode, level_of, whole_prior
from mlkit.tasks.sar.entropy import MAX_SCALE, MIN_SCALE, Prior, logistic_bits


def prior_of(channels: int, context: bool = True) -> Prior:
    torch.manual_seed(0)
    prior = Prior(channels, "noise", context).eval()
    with torch.no_grad():
        prior.root_base.uniform_(0.3, 1.5)
        if context:
            prior.mean_taps.normal_(0, 0.05)
    return prior


def values(channels: int, height: int, width: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.rint(rng.laplace(0, scale, (channels, height, width))).clip(-127, 127).astype(np.int64)


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("shape", [(6, 7, 5), (3, 1, 1), (2, 9, 1), (2, 1, 9)])
def test_values_come_back(shape: tuple[int, int, int], context: bool) -> None:
    q, prior = values(*shape), whole_prior(prior_of(shape[0], context))
    np.testing.assert_array_equal(decode(encode(q, prior), shape, prior, level_of(q)), q)


def test_nothing_but_zeros_takes_hardly_a_byte() -> None:
    q, prior = np.zeros((8, 16, 16), np.int64), whole_prior(prior_of(8))
    content = encode(q, prior)
    assert level_of(q) == 1 and len(content) <= 8
    np.testing.assert_array_equal(decode(content, q.shape, prior, 1), q)


def test_the_largest_values_come_back() -> None:
    q = values(2, 6, 6, 60.0)
    q[0, :2, :2] = [[127, -127], [-127, 127]]
    prior = whole_prior(prior_of(2))
    np.testing.assert_array_equal(decode(encode(q, prior), q.shape, prior, level_of(q)), q)


def test_the_bytes_are_those_that_training_counted() -> None:
    prior = prior_of(8)
    q = values(8, 24, 24)
    with torch.no_grad():
        mean, scale = prior.mean_and_scale(torch.from_numpy(q)[None].float())
        bits = float(logistic_bits(torch.from_numpy(q)[None] - mean, scale).sum())
    coded = 8 * len(encode(q, whole_prior(prior)))
    assert abs(coded - bits) < 0.01 * bits + 64


def test_means_and_scales_are_those_of_training_to_the_rounding_of_taps() -> None:
    prior = prior_of(4)
    for q in (values(4, 6, 7), values(4, 6, 7, 9.0), values(4, 6, 7, 0.2)):
        with torch.no_grad():
            mean, scale = prior.mean_and_scale(torch.from_numpy(q)[None].float())
        padded = np.pad(q.astype(float), ((0, 0), (1, 1), (1, 1)))
        whole = whole_prior(prior)
        for channel in range(4):
            found = np.array(coding._earlier(padded, whole, channel, level_of(q)))
            found += np.array(coding._own(padded, whole, channel, np.arange(42)))
            np.testing.assert_allclose(found[0] / ONE, mean[0, channel].flatten(), atol=5e-3)
            clamped = (found[1] / ONE).clip(MIN_SCALE, MAX_SCALE)
            np.testing.assert_allclose(clamped, scale[0, channel].flatten(), atol=5e-3)


@pytest.mark.parametrize(("level", "fraction"), [(0, 0), (20, 1), (63, 3)])
def test_tables_are_the_logistic_distribution_of_scipy(level: int, fraction: int) -> None:
    scale = MIN_SCALE * (MAX_SCALE / MIN_SCALE) ** (level / 63)
    edges = np.arange(-255, 257) - 0.5
    expected = np.diff(logistic.cdf(edges, loc=fraction / 4, scale=scale)) * 2**24
    np.testing.assert_allclose(coding._table(level, fraction), np.maximum(expected, 1), atol=1.01)


def test_tables_are_the_same_on_every_machine() -> None:
    # Counts from decimals with correct rounding; another value here means that older files can no longer be read.
    tables = b"".join(
        coding._table(level, fraction).astype("<f4").tobytes() for level in (3, 30) for fraction in (0, 2)
    )
    thresholds = coding._thresholds().astype("<i8").tobytes()
    assert hashlib.sha256(tables + thresholds).hexdigest()[:16] == "4d9b2bc3e954a798"
    assert len(np.unique(coding._thresholds())) == 63
    assert math.isclose(coding._thresholds()[0] / ONE, MIN_SCALE * (MAX_SCALE / MIN_SCALE) ** (0.5 / 63), rel_tol=1e-3)


def test_a_file_of_an_older_mlkit_is_still_read() -> None:
    prior = coding.WholePrior(
        np.zeros((1, 1, 3, 3)),
        np.full((1, 1, 3, 3), 6554.0) * [[[[1, 1, 1], [1, 0, 0], [0, 0, 0]]]],
        np.array([40_000]),
    )
    q = np.array([[[0, 1, -2, 0], [3, 0, 0, 5], [0, -1, 0, 0]]])
    assert encode(q, prior).hex() == "dff0a29557d54637"
    np.testing.assert_array_equal(decode(bytes.fromhex("dff0a29557d54637"), q.shape, prior, level_of(q)), q)


def test_altered_bytes_give_other_values_or_an_error_but_never_hang() -> None:
    q, prior = values(3, 8, 8), whole_prior(prior_of(3))
    content = bytearray(encode(q, prior))
    content[3] ^= 0xFF
    try:
        changed = decode(bytes(content), q.shape, prior, level_of(q))
    except (ValueError, AssertionError):
        return
    assert not np.array_equal(changed, q)
