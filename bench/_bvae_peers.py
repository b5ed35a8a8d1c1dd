"""The peers of bvae.py: what simple ways make of held-out grids, knowing the training grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlkit.tasks.bvae.source import GridSource

BACKGROUND, MODE, NEAREST = "all background", "mode of each cell", "nearest training grid"
PCA_WHOLE, PCA_CELLS, PCA_DRAWN = "PCA of whole grids", "PCA of 4x4 cells", "PCA of as many nat, drawn"
COPIES = 2  # turned and recoloured ones that PCA also sees, of each training grid
SITE = 4  # cells a side that one site of the latent stands for
Labels = np.ndarray  # uint8 [N, S, S]


@dataclass(frozen=True, slots=True)
class Grids:
    """Grids on their padded squares."""

    labels: Labels  # [N, S, S]; the number of classes is padding
    names: list[str]
    classes: int
    background: int

    @classmethod
    def of(cls, source: GridSource, count: int) -> Grids:
        """Return the first grids of a source."""
        rng = np.random.default_rng(0)
        samples = [source.sample(index, rng)["labels"].numpy() for index in range(count)]
        prepared = source.preparation
        names = [source.sample_id(index) for index in range(count)]
        return cls(np.stack(samples), names, prepared.classes, prepared.background)

    @property
    def valid(self) -> np.ndarray:
        return self.labels < self.classes

    def one_hot(self, labels: Labels) -> np.ndarray:
        """Return [..., C] float32, all 0 in the padding."""
        return (labels[..., None] == np.arange(self.classes, dtype=np.uint8)).astype(np.float32)


def peers(training: Grids, held: Grids, latent: int, of_a_site: int, nat: float) -> dict[str, Labels]:
    """Return what each way makes of the held-out grids, [N, S, S].

    Args:
        training: the grids that they know.
        held: the grids.
        latent: numbers that a whole grid may go through.
        of_a_site: numbers that the cells of one site may go through; 0: there are no sites.
        nat: information that a drawn latent carries of a grid.
    """
    counts = training.one_hot(training.labels).sum(axis=0)
    counts[..., training.background] += 0.5  # where no training grid reaches
    found = {
        BACKGROUND: np.full_like(held.labels, held.background),
        MODE: np.broadcast_to(counts.argmax(axis=-1).astype(np.uint8), held.labels.shape),
        NEAREST: nearest(training, held),
    }
    seen = np.concatenate([training.labels, *(changed(training, copy) for copy in range(COPIES))])
    whole, cells = Linear(training.one_hot(seen), latent), held.one_hot(held.labels)
    found |= {PCA_WHOLE: whole(cells), PCA_DRAWN: whole.drawn(cells, nat)}
    if of_a_site:
        # sites in the padding alone teach nothing
        known = sites(seen, training.classes)
        known = known[(known < training.classes).any(axis=(1, 2))]
        made = Linear(training.one_hot(known), of_a_site)(held.one_hot(sites(held.labels, held.classes)))
        found[PCA_CELLS] = from_sites(made, held.labels.shape)
    return found


class Linear:
    """scikit-learn's PCA of one-hot cells [N, ..., C]; what it makes is the class of the largest value."""

    def __init__(self, seen: np.ndarray, components: int) -> None:
        from sklearn.decomposition import PCA

        flat = seen.reshape(len(seen), -1)
        self.fitted = PCA(min(components, *flat.shape), svd_solver="randomized", random_state=0).fit(flat)

    def __call__(self, cells: np.ndarray) -> Labels:
        """Return labels [N, ...] made of the components as they are."""
        return self._labels(self._components(cells), cells.shape)

    def drawn(self, cells: np.ndarray, nat: float) -> Labels:
        """Return labels made of components with noise: Gaussian ones that carry `nat` with the least squared error.

        Components of variance v above a level d carry log(v / d) / 2 and are drawn from N((1 - d/v) x, d (1 - d/v));
        the others carry nothing (reverse water-filling; a linear VAE comes to it too).
        """
        variance = self.fitted.explained_variance_.astype(np.float64)
        low, high = 0.0, float(variance.max())
        for _ in range(100):
            level = (low + high) / 2
            too_much = 0.5 * np.log(np.maximum(variance / level, 1)).sum() > nat
            low, high = (level, high) if too_much else (low, level)
        kept = np.maximum(1 - level / variance, 0)
        noise = np.random.default_rng(0).standard_normal((len(cells), len(variance)))
        components = kept * self._components(cells) + np.sqrt(level * kept) * noise
        return self._labels(components.astype(np.float32), cells.shape)

    def _components(self, cells: np.ndarray) -> np.ndarray:
        return self.fitted.transform(cells.reshape(len(cells), -1))

    def _labels(self, components: np.ndarray, shape: tuple[int, ...]) -> Labels:
        return self.fitted.inverse_transform(components).reshape(shape).argmax(axis=-1).astype(np.uint8)


def nearest(training: Grids, held: Grids) -> Labels:
    """Return for each grid the training grid with the fewest wrong cells; its padding counts as background."""
    known = np.where(training.valid, training.labels, training.background).reshape(len(training.labels), -1)
    made = np.empty_like(held.labels)
    for place, (labels, valid) in enumerate(zip(held.labels, held.valid, strict=True)):
        inside = valid.ravel()
        equal = (known[:, inside] == labels.ravel()[inside]).sum(axis=1)
        made[place] = known[equal.argmax()].reshape(labels.shape)
    return made


def changed(grids: Grids, seed: int) -> Labels:
    """Return the grids turned or mirrored, and recoloured but for the background, as training does."""
    rng = np.random.default_rng(seed)
    made = np.full_like(grids.labels, grids.classes)
    for place, (labels, valid) in enumerate(zip(grids.labels, grids.valid, strict=True)):
        height, width = valid.any(axis=1).sum(), valid.any(axis=0).sum()
        turn = rng.integers(8)
        grid = labels[:height, :width]
        grid = np.rot90(grid[:, ::-1] if turn & 4 else grid, turn & 3)
        table = np.arange(grids.classes, dtype=np.uint8)
        others = np.flatnonzero(table != grids.background)
        table[others] = rng.permutation(others)
        made[place, : grid.shape[0], : grid.shape[1]] = table[grid]
    return made


def sites(labels: Labels, padding: int) -> Labels:
    """Return the 4 x 4 cells of each site, [M, 4, 4]."""
    more = -labels.shape[1] % SITE
    whole = np.pad(labels, ((0, 0), (0, more), (0, more)), constant_values=padding)
    count, side = len(whole), whole.shape[1] // SITE
    return whole.reshape(count, side, SITE, side, SITE).swapaxes(2, 3).reshape(-1, SITE, SITE)


def from_sites(cells: Labels, shape: tuple[int, int, int]) -> Labels:
    """Return grids from the cells of their sites: the inverse of `sites`."""
    side = -(-shape[1] // SITE)
    whole = cells.reshape(shape[0], side, side, SITE, SITE).swapaxes(2, 3).reshape(shape[0], side * SITE, side * SITE)
    return whole[:, : shape[1], : shape[2]]
