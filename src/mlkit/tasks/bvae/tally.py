"""What only a whole set of grids can tell: KL of each latent dimension, active units, recall of each class over all
cells, collapse. One `Tally` a set; its sums do not depend on how the grids were batched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlkit.metrics.labels import ACTIVE_VARIANCE, kl_by_dimension
from mlkit.task import Batch
from mlkit.tasks.bvae.guards import mode_collapse, posterior_collapse
from mlkit.tasks.bvae.objective import cells_of, reached
from mlkit.tasks.bvae.settings import BvaeModel

Floats = NDArray[np.float64]
FEWEST_GRIDS = 4  # that a dimension must have something to tell of before a guard judges it


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a set of grids."""

    num_grids: int
    kl_by_dim: Floats  # [D] nat, mean over the grids
    kl_where_reached: Floats  # [D] the same over the grids that a dimension has something to tell of; 0 without any
    num_reached: NDArray[np.int64]  # [D] how many those are
    mean_variance: Floats  # [D] of the posterior means over the grids (Burda et al. 2016)
    confusion: NDArray[np.int64]  # [C, C] cells, true class by predicted class
    background: int

    @property
    def active(self) -> list[bool]:
        """Which latent dimensions are active, [D]."""
        return [bool(value > ACTIVE_VARIANCE) for value in self.mean_variance]

    def scores(self) -> dict[str, float]:
        """Return the figures by name; a recall is NaN where no cell has the class."""
        labels, right = self.confusion.sum(axis=1), np.diag(self.confusion)
        others = np.arange(len(labels)) != self.background
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = right / labels
            objects = float(right[others].sum() / labels[others].sum())
        return {
            "cell_accuracy": float(right.sum() / labels.sum()),
            "cell_majority_share": float(labels[self.background] / labels.sum()),
            "cell_object_accuracy": objects,
            "cell_balanced_accuracy": float(np.nanmean(recalls)),
            "predicted_classes": float((self.confusion.sum(axis=0) > 0).sum()),
            "kl_min_dim": float(self.kl_by_dim.min()),
            "active_units": float(sum(self.active)),
            "active_share": float(np.mean(self.active)),
            **{f"cell_recall_{index}": float(value) for index, value in enumerate(recalls)},
            **{f"kl_dim_{index}": float(value) for index, value in enumerate(self.kl_by_dim)},
        }

    def warnings(self, kl_floor_nat: float) -> list[str]:
        """Return one sentence for each kind of collapse."""
        scores = self.scores()
        found = (
            mode_collapse(
                accuracy=scores["cell_accuracy"],
                majority_share=scores["cell_majority_share"],
                object_accuracy=scores["cell_object_accuracy"],
                predicted_counts=self.confusion.sum(axis=0).tolist(),
                label_counts=self.confusion.sum(axis=1).tolist(),
            ),
            posterior_collapse(
                self.kl_where_reached.tolist(), kl_floor_nat, self.active, (self.num_reached >= FEWEST_GRIDS).tolist()
            ),
        )
        return [sentence for sentence in found if sentence]


class Tally:
    """Sums over the batches of a set; `figures` divides them.

    Args:
        model: what tells C, D and where the latent lies.
        kl_floor_nat: mean KL below which a dimension counts as collapsed.
    """

    def __init__(self, model: BvaeModel, kl_floor_nat: float) -> None:
        self.model, self.kl_floor_nat = model, kl_floor_nat
        classes, latent = model.classes, model.latent_dims
        self._num_grids = 0
        self._kl, self._kl_reached = np.zeros(latent), np.zeros(latent)
        self._num_reached = np.zeros(latent, np.int64)
        self._mu, self._mu_square = np.zeros(latent), np.zeros(latent)
        self._confusion = np.zeros((classes, classes), np.int64)
        self._background = 0

    def add(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch: what `predict` returned, and what it was given."""
        mu, log_variance = outputs["mu"].double().cpu(), outputs["log_variance"].double().cpu()
        self._num_grids += len(mu)
        cells = cells_of(batch["labels"], self.model.classes)
        kl_bd, reached_bd = kl_by_dimension(mu, log_variance), reached(cells, self.model).cpu()
        self._kl += kl_bd.sum(dim=0).numpy()
        self._kl_reached += (kl_bd * reached_bd).sum(dim=0).numpy()
        self._num_reached += reached_bd.sum(dim=0).numpy()
        self._mu += mu.sum(dim=0).numpy()
        self._mu_square += mu.square().sum(dim=0).numpy()
        classes = self.model.classes
        pairs = cells.labels[cells.valid] * classes + outputs["labels"][cells.valid]
        counts = torch.bincount(pairs.cpu(), minlength=classes**2)
        self._confusion += counts.numpy().reshape(classes, classes)
        self._background = int(batch["background"][0])

    def figures(self) -> Figures:
        """Return the figures of what was counted."""
        assert self._num_grids, "nothing was counted"
        num = self._num_grids
        variance = (self._mu_square / num - (self._mu / num) ** 2).clip(0)
        return Figures(
            num_grids=num,
            kl_by_dim=self._kl / num,
            kl_where_reached=self._kl_reached / np.maximum(self._num_reached, 1),
            num_reached=self._num_reached.copy(),
            mean_variance=variance,
            confusion=self._confusion.copy(),
            background=self._background,
        )

    def scores(self) -> dict[str, float]:
        """Return the figures by name."""
        return self.figures().scores()

    def warnings(self) -> list[str]:
        """Return one sentence for each kind of collapse."""
        return self.figures().warnings(self.kl_floor_nat)
