"""The task `bvae`: beta-VAEs for grids of classes, with the losses of the specification and the true ELBO."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest
from mlkit.imaging.grids import Panel
from mlkit.metrics import labels as label_metrics
from mlkit.task import Batch, DataChecks, GridFiles, Loss, Source
from mlkit.tasks.bvae.guards import mode_collapse, posterior_collapse
from mlkit.tasks.bvae.model import BetaVae
from mlkit.tasks.bvae.objective import Cells, beta_at, cells_of, kl_term, reached, reconstruction
from mlkit.tasks.bvae.pictures import cropped, draw_grid, shares_text
from mlkit.tasks.bvae.readers import SUFFIXES
from mlkit.tasks.bvae.settings import BvaeBuild, BvaeSettings
from mlkit.tasks.bvae.source import FileSource, GridSource, Preparation, Split, larger_left_out
from mlkit.tasks.bvae.tally import FEWEST_GRIDS, Tally
from mlkit.tasks.bvae.weights import exploding

if TYPE_CHECKING:
    from mlkit.settings import RunSettings

log = logging.getLogger(__name__)


class BvaeTask:
    """The verbs of `mlkit.task.Task` for beta-VAEs.

    Batches hold "labels" [B, S, S] uint8 (class C is padding), "class_weights" [B, C], "background" [B] and in training
    "noise" [B, D]. Outputs hold "labels" [B, S, S] int64, "logits" [B, C, S, S], "mu" and "log_variance", [B, D].
    """

    primary_metric: ClassVar[str] = "balanced_accuracy"
    image_suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    signatures: ClassVar[Mapping[str, str]] = {}
    grid_files: ClassVar[GridFiles] = GridFiles(
        train_images=10, by_epoch="reconstructions_epoch_{epoch}.png", best="reconstructions_best.png"
    )

    def __init__(self, settings: RunSettings) -> None:
        assert isinstance(settings, BvaeSettings)
        self.settings: BvaeSettings = settings
        self.facts: Mapping[str, float] = {"latent_dims": settings.model.latent_dims}

    # ---- data ----------------------------------------------------------------------------------------------------

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        from mlkit.tasks.bvae.dataset import build_dataset

        return build_dataset(None if source is None else str(source), out, build=BvaeBuild()).manifest

    def build_model(self) -> nn.Module:
        return BetaVae(self.settings.model)

    def train_source(self, data: DatasetManifest) -> Source:
        chosen = self.settings.data
        return self._grids(data, "train", chosen.symmetries, chosen.permute_colors, self.settings.model.latent_dims)

    def plain_train_source(self, data: DatasetManifest) -> Source:
        """Return the training grids as they are, for pictures of what the model has learnt from."""
        return self._grids(data, "train")

    def eval_source(self, data: DatasetManifest) -> Source:
        return self._grids(data, "validation")

    def _grids(
        self, data: DatasetManifest, split: Split, symmetries: bool = False, permute: bool = False, noise: int = 0
    ) -> GridSource:
        source = GridSource(
            data, split, self._preparation(data), symmetries=symmetries, permute_colors=permute, noise=noise
        )
        if told := larger_left_out(source):
            log.info("%s", told)
        return source

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        from mlkit.tasks.bvae import checks

        return checks.data_checks(data)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        return FileSource(paths, self._preparation(data), upscale=upscale, fit_multiple=fit_multiple)

    def _preparation(self, data: DatasetManifest) -> Preparation:
        # Weights are by what training sees; validation is scored by the same objective.
        return Preparation(data, self.settings.model, self.settings.loss, self.settings.data.permute_colors)

    # ---- training ------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        noise = batch.get("noise")
        if noise is None:  # a loader from outside
            noise = torch.randn(len(batch["labels"]), self.settings.model.latent_dims, device=batch["labels"].device)
        logits, mu, log_variance = model(batch["labels"], noise)
        chosen = self.settings.loss
        cells = cells_of(batch["labels"], self.settings.model.classes)
        recon = reconstruction(logits, cells, batch["class_weights"][0], chosen).mean()
        kl_bd = label_metrics.kl_by_dimension(mu, log_variance)
        kl = kl_term(kl_bd, chosen.free_bits)
        beta = beta_at(step, chosen)
        total = recon + beta * kl
        parts = {
            "reconstruction": recon.detach(),
            "kl": kl_bd.detach().sum(dim=1).mean(),
            "beta": torch.tensor(beta, device=total.device),
            # The same at every step, whatever the warm-up: what a curve of losses should be drawn of.
            "objective": (recon + chosen.beta * kl).detach(),
        }
        return Loss(total, parts, self._warnings(batch, logits.detach(), cells, kl_bd.detach(), step))

    def _warnings(self, batch: Batch, logits: Tensor, cells: Cells, kl_bd: Tensor, step: int) -> Sequence[str]:
        """Return what a look at a training batch finds, now and then: each look waits for the device."""
        chosen = self.settings.loss
        found = []
        if step == 0 and chosen.use_class_weights:
            found.append(exploding(batch["class_weights"][0].tolist(), chosen.class_weight_method))
        if step >= chosen.guard_after and (step - chosen.guard_after) % chosen.guard_every == 0:
            classes = self.settings.model.classes
            made, labels = logits.argmax(dim=1)[cells.valid], cells.labels[cells.valid]
            majority = batch["background"][0]
            others = labels != majority
            told = reached(cells, self.settings.model)
            num_told = told.sum(dim=0)
            found += [
                mode_collapse(
                    accuracy=float((made == labels).float().mean()),
                    majority_share=float((~others).float().mean()),
                    object_accuracy=float((made == labels)[others].float().mean()),
                    predicted_counts=made.bincount(minlength=classes).tolist(),
                    label_counts=labels.bincount(minlength=classes).tolist(),
                ),
                posterior_collapse(
                    ((kl_bd * told).sum(dim=0) / num_told.clamp_min(1)).tolist(),
                    chosen.kl_floor_nat,
                    judged=(num_told >= min(FEWEST_GRIDS, len(kl_bd))).tolist(),
                ),
            ]
        return [sentence for sentence in found if sentence]

    # ---- evaluation ----------------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits, mu, log_variance = model(batch["labels"])
        return {"labels": logits.argmax(dim=1), "logits": logits, "mu": mu, "log_variance": log_variance}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        chosen, classes = self.settings.loss, self.settings.model.classes
        cells, background = cells_of(batch["labels"], classes), batch["background"]
        made, labels, valid = outputs["labels"], cells.labels, cells.valid
        logits = outputs["logits"].float()
        kl_bd = label_metrics.kl_by_dimension(outputs["mu"], outputs["log_variance"])
        recon = reconstruction(logits, cells, batch["class_weights"][0], chosen)
        nat = nn.functional.cross_entropy(logits, labels, reduction="none")
        accuracy = label_metrics.accuracy(made, labels, valid)
        majority_share = label_metrics.class_share(labels, valid, background)
        recalls = label_metrics.recalls(made, labels, valid, classes)
        return {
            "loss": recon + chosen.beta * kl_bd.sum(dim=1),
            "accuracy": accuracy,
            "majority_share": majority_share,
            "accuracy_gain": accuracy - majority_share,
            "object_accuracy": label_metrics.accuracy_without(made, labels, valid, background),
            "balanced_accuracy": recalls.nanmean(dim=1),
            "exact_match": label_metrics.exact_match(made, labels, valid),
            "ce_nat": (nat * valid).flatten(1).sum(dim=1),
            "kl_nat": kl_bd.sum(dim=1),
            "kl_per_dim": kl_bd.mean(dim=1),
            **{f"recall_{index}": recalls[:, index] for index in range(min(classes, label_metrics.NUM_RECALLS))},
        }

    @property
    def warns_from(self) -> int:
        return self.settings.loss.guard_after

    def tally(self) -> Tally:
        """Return what counts over a whole set: KL of each dimension, active units, collapse."""
        return Tally(self.settings.model, self.settings.loss.kl_floor_nat)

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        classes, one = self.settings.model.classes, slice(index, index + 1)
        scores = self.metrics(
            {key: value[one] for key, value in outputs.items()}, {key: value[one] for key, value in batch.items()}
        )
        cells = cells_of(batch["labels"][one], classes)
        labels_ss, valid_ss = cells.labels[0].cpu().numpy(), cells.valid[0].cpu().numpy()
        area = cropped(labels_ss, valid_ss)
        original, made = labels_ss[area], outputs["labels"][index].cpu().numpy()[area]
        height, width = original.shape
        majority = shares_text([("majority share", float(scores["majority_share"][0]))])
        note = shares_text([("accuracy", float(scores["accuracy"][0]))])
        objects = shares_text([("non-background", float(scores["object_accuracy"][0]))])
        return [
            Panel("Original", draw_grid(original, classes), f"{majority}\n{width} x {height} cells", role="given"),
            Panel(
                "Reconstruction, wrong cells dotted",
                draw_grid(made, classes, wrong_hw=made != original),
                f"{note}\n{objects}".rstrip(),
                role="made",
            ),
        ]


TASK = BvaeTask
