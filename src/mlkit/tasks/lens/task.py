"""The lens task: a distorted picture and its shape in; lens parameters, a residual flow and the corrected one out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest
from mlkit.imaging.grids import Panel
from mlkit.imaging.images import IMAGE_SUFFIXES
from mlkit.metrics.geometry import inside, jacobian, jacobian_stats
from mlkit.task import Batch, DataChecks, Loss, Source
from mlkit.tasks.lens.geometry import identity_grid, profile_grid, warp
from mlkit.tasks.lens.model import build_net, maps_of, saturated
from mlkit.tasks.lens.objective import objective
from mlkit.tasks.lens.pictures import flow_colors, jacobian_picture, jacobian_scale, unsqueezed
from mlkit.tasks.lens.scores import map_scores, picture_scores
from mlkit.tasks.lens.settings import LensBuild, LensSettings

if TYPE_CHECKING:
    from mlkit.settings import RunSettings

_ERROR_GAIN = 8
_WATCH_EVERY = 10  # steps between looks at saturation: each is a wait for the device
_SATURATED_SHARE = 0.05  # of the images, above which a parameter at its bound is told
_LARGE_FLOW = 0.9  # of max_disp
_LARGE_SHARE = 0.05  # of the flow, above which its size is told
_DET_SPAN = 0.3


class LensTask:
    """The verbs of `mlkit.task.Task` for lens correction.

    Batches hold "image" [B, 3, S, S], "frame" [B, 2] and, where they are known, "target" [B, 3, S, S] and "profile"
    [B, 7] (source.py). Outputs hold those of the network, "parametric_map" and "map" [B, S, S, 2], "parametric_image"
    and "image" [B, 3, S, S], and "valid" [B, S, S].
    """

    primary_metric: ClassVar[str] = "psnr"
    image_suffixes: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES

    def __init__(self, settings: RunSettings) -> None:
        assert isinstance(settings, LensSettings)
        self.settings: LensSettings = settings
        self.facts: Mapping[str, float] = {}
        size = settings.data.size
        self.signatures: Mapping[str, str] = {
            "psnr": f"psnr|rgb|squeezed{size}|true-and-own-valid-area|clip01|mean-of-images|v1",
            "ssim": f"ssim|rgb|squeezed{size}|gauss11s1.5|windows-valid-whole|clip01|mean-of-images|v1",
        }
        self._has_flow = settings.model.stage != "param_only"

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        from mlkit.tasks.lens.dataset import build_dataset

        return build_dataset([source] if source else None, out, build=LensBuild()).manifest

    def build_model(self) -> nn.Module:
        return build_net(self.settings.model)

    def build_bare_model(self) -> nn.Module:
        return build_net(self.settings.model, with_weights=False)

    def train_source(self, data: DatasetManifest) -> Source:
        return self._source(data, "train")

    def eval_source(self, data: DatasetManifest) -> Source:
        return self._source(data, "validation")

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        from mlkit.tasks.lens import checks

        return checks.data_checks(data)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        from mlkit.tasks.lens.images import ImagesSource

        model = self.settings.model
        sure = model.sure if model.lines else None
        return ImagesSource(paths, self.settings.data.size, sure=sure, upscale=upscale, fit_multiple=fit_multiple)

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        outputs = model(batch["image"], batch["frame"])
        total, parts = objective(outputs, batch, self.settings.loss, has_flow=self._has_flow)
        return Loss(total, parts, self._warnings(outputs) if step % _WATCH_EVERY == 0 else ())

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        image, frame = batch["image"], batch["frame"]
        lines = (batch["lines_params"], batch["lines_facts"]) if "lines_params" in batch else None
        outputs = model(image, frame, lines)
        parametric, grid = maps_of(outputs, frame, *image.shape[-2:])
        valid = inside(grid)
        if "profile" in batch:
            valid = valid & inside(profile_grid(batch["profile"], frame, *image.shape[-2:]))
        return {
            **outputs,
            "parametric_map": parametric,
            "map": grid,
            "parametric_image": warp(image, parametric).clamp(0, 1),
            "image": warp(image, grid).clamp(0, 1),
            "valid": valid,
        }

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        found = {**map_scores(outputs, batch), **jacobian_stats(outputs["map"])}
        target = batch.get("target")
        if target is None:  # the user's own photograph: there is nothing to compare with
            missing = outputs["map"].new_full((len(outputs["map"]),), torch.nan)
            return {"loss": missing, "psnr": missing, "ssim": missing, **found}
        losses = []
        for index in range(len(target)):
            one = slice(index, index + 1)
            mine = {key: value[one] for key, value in batch.items()}
            made = {key: outputs[key][one] for key in ("params", "flow")}
            losses.append(objective(made, mine, self.settings.loss, has_flow=self._has_flow)[0])
        return {
            "loss": torch.stack(losses),
            **picture_scores(outputs["image"], target, outputs["valid"]),
            **found,
        }

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        one = slice(index, index + 1)
        sample = {key: value[one] for key, value in batch.items()}
        made = {key: value[one] for key, value in outputs.items()}
        frame = sample["frame"][0]
        scores = {key: float(value[0]) for key, value in self.metrics(made, sample).items()}
        panels = [Panel("Distorted", unsqueezed(sample["image"][0], frame), role="given")]
        if "target" in sample:
            panels.append(Panel("Truth", unsqueezed(sample["target"][0], frame), role="given"))
        if self._has_flow:
            note = f"{scores['epe_param_px']:.2f} px" if "profile" in sample else ""
            panels.append(Panel("Parameters alone", unsqueezed(made["parametric_image"][0], frame), note))
        title = "Parameters and flow" if self._has_flow else "Corrected"
        notes = [f"PSNR {scores['psnr']:.2f} dB"] if "target" in sample else []
        if "profile" in sample:
            without = self._epe_without(sample)
            notes.append(f"EPE {scores['epe_px']:.2f} px of {without:.2f}")
        panels.append(Panel(title, unsqueezed(made["image"][0], frame), "\n".join(notes), role="made"))
        if "target" in sample:
            error = (made["image"] - sample["target"]).abs() * made["valid"][:, None] * _ERROR_GAIN
            panels.append(Panel(f"|error| x{_ERROR_GAIN}", unsqueezed(error[0], frame)))
            return panels
        return [*panels, *self._map_panels(made, frame, scores)]

    def _map_panels(self, made: Mapping[str, Tensor], frame: Tensor, scores: Mapping[str, float]) -> list[Panel]:
        """Return pictures of the map itself: where it moves places to, and how it changes areas."""
        grid = made["map"]
        flow = ((grid - identity_grid(*grid.shape[1:3], device=grid.device)) * frame)[0]
        largest = float(flow.norm(dim=-1).max())
        px = largest * 500 / float(frame[0])
        wheel = torch.from_numpy(flow_colors(flow.cpu().numpy(), largest)).permute(2, 0, 1)
        det = jacobian_picture(jacobian(grid)[0].cpu().numpy(), scale := jacobian_scale(_DET_SPAN))
        shown = torch.from_numpy(det).permute(2, 0, 1)
        return [
            Panel("Flow", unsqueezed(wheel, frame), f"up to {px:.1f} px of 1000"),
            Panel("Jacobian", unsqueezed(shown, frame), f"least {scores['det_min']:.3f}", scale),
        ]

    def _epe_without(self, sample: Mapping[str, Tensor]) -> float:
        from mlkit.metrics.geometry import end_point_error

        height, width = sample["image"].shape[-2:]
        truth = profile_grid(sample["profile"], sample["frame"], height, width)
        identity = identity_grid(height, width, device=truth.device).expand_as(truth)
        return float(end_point_error(identity, truth, sample["frame"]).mean())

    def _source(self, data: DatasetManifest, split: str) -> Source:
        from mlkit.tasks.lens.pairs import PairSource
        from mlkit.tasks.lens.source import LensSource

        assert split in ("train", "validation")
        kind = PairSource if data.preprocessing.get("kind") == "pairs" else LensSource
        model = self.settings.model
        return kind(data, split, self.settings.data, sure=model.sure if model.lines else None)  # type: ignore[arg-type]

    def _warnings(self, outputs: Mapping[str, Tensor]) -> list[str]:
        """Return what is at its bound: parameters, and the residual flow."""
        model = self.settings.model
        told = [
            f"{name} at its bound: in {share:.0%} of the images; widen its range in model, or look at those images"
            for name, share in saturated(outputs["place"], model.saturation)
            if share > _SATURATED_SHARE
        ]
        if self._has_flow:
            size = outputs["flow"].detach().abs()
            share = float((size > _LARGE_FLOW * model.max_disp).float().mean())
            if share > _LARGE_SHARE:
                told.append(
                    f"residual flow at its bound: {share:.0%} of it is beyond {_LARGE_FLOW:.0%} of model.max_disp = "
                    f"{model.max_disp:g} (mean {float(size.mean()):.4f}); raise loss.flow_mag, or model.max_disp"
                )
        return told


TASK = LensTask
