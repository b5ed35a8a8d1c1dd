"""The super-resolution task: an autoencoder, a base or an adapter, by the stage that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.data.manifest import DatasetManifest
from mlkit.imaging.grids import Panel, Role, apply_scale, heat
from mlkit.imaging.images import IMAGE_SUFFIXES
from mlkit.metrics import image as image_metrics
from mlkit.metrics import photo as photo_metrics
from mlkit.seeding import derive_seed
from mlkit.task import Batch, DataChecks, Loss, Source
from mlkit.tasks.sr.attention import AttentionDiversity
from mlkit.tasks.sr.flow import ftd_loss, integrate, noise_to_lr
from mlkit.tasks.sr.perceptual import Perceptual
from mlkit.tasks.sr.settings import FlowModel, LoraModel, SrBuild, SrSettings, VaeModel
from mlkit.tasks.sr.source import ImagesSource, source_of

if TYPE_CHECKING:
    from mlkit.settings import RunSettings

PROTOCOL = "rgb|crop0|clip01"
_DENOISED_AT = 0.5  # the stage `flow` is scored by one step from here
_SAMPLE_STEPS = 16
_LARGEST_ERROR = 0.2


class SrTask:
    """The verbs of `mlkit.task.Task` for super-resolution.

    Batches hold "image" [B, 3, H, W] in [0, 1]; pairs also "lr_up" of the same size and the latents "eps", "z0" and
    "z_lr"; the user's own images "lr_up" alone. Outputs hold "image", and in the stage `lora` "base": the base alone.
    """

    primary_metric: ClassVar[str] = "psnr"
    signatures: ClassVar[Mapping[str, str]] = {
        "psnr": f"psnr|{PROTOCOL}|mean-of-images|v1",
        "ssim": "ssim|rgb|gauss11s1.5|crop5|mean-of-images|v1",
        "ms_ssim": "ms_ssim|rgb|gauss11s1.5|crop5|5scales|mean-of-images|v1",
    }
    image_suffixes: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES

    def __init__(self, settings: RunSettings) -> None:
        assert isinstance(settings, SrSettings)
        self.settings: SrSettings = settings
        self.facts: Mapping[str, float] = {}
        self._perceptual: Perceptual | None = None

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        from mlkit.tasks.sr.dataset import build_dataset

        return build_dataset([source] if source else None, out, build=SrBuild(), skip_broken=False).manifest

    def next_command(self, run: Path) -> str:
        """Return how the next stage begins with a run: an autoencoder goes into a base, a base into pairs."""
        if isinstance(self.settings.model, VaeModel):
            return f"mlkit train --preset sr_flow_tiny --set 'model.vae=\"{run}\"'"
        if isinstance(self.settings.model, FlowModel):
            return f"mlkit dataset build sr --source PHOTOS --base {run}"
        return ""

    def build_model(self) -> nn.Module:
        from mlkit.tasks.sr.model import FlowNet, LoraNet, VaeNet

        model = self.settings.model
        if isinstance(model, VaeModel):
            return VaeNet(model)
        if isinstance(model, FlowModel):
            return FlowNet(model)
        return LoraNet(model)

    def train_source(self, data: DatasetManifest) -> Source:
        return source_of(data, "train", self.settings)

    def eval_source(self, data: DatasetManifest) -> Source:
        return source_of(data, "validation", self.settings)

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        from mlkit.tasks.sr import checks

        return checks.data_checks(data)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        return ImagesSource(paths, upscale=upscale, fit_multiple=fit_multiple)

    # ---- training ------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        stage = self.settings.model
        if isinstance(stage, VaeModel):
            return self._vae_loss(model, batch)
        if isinstance(stage, FlowModel):
            return self._flow_loss(model, batch)
        return self._ftd_loss(model, batch, stage, step)

    def _vae_loss(self, model: nn.Module, batch: Batch) -> Loss:
        made, kl = model(batch["image"])
        mse = functional.mse_loss(made, batch["image"])
        l1 = functional.l1_loss(made, batch["image"])
        weights = self.settings.loss
        total = weights.reconstruction * mse + weights.l1 * l1 + weights.kl * kl
        return Loss(total, {"mse": mse.detach(), "l1": l1.detach(), "kl": kl.detach()})

    def _flow_loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Conditional flow matching (Lipman et al. 2023): v(z_t, t) to eps - z_0, t uniform."""
        image = batch["image"]
        t = torch.rand(image.shape[0], device=image.device)
        velocity, target, _, _ = model(t, image=image)
        return Loss(functional.mse_loss(velocity, target))

    def _ftd_loss(self, model: nn.Module, batch: Batch, stage: LoraModel, step: int) -> Loss:
        weights = self.settings.loss
        eps, z0, z_lr = batch["eps"], batch["z0"], batch["z_lr"]
        parts: dict[str, Tensor] = {}
        z_t = t = None
        some = slice(0)
        if weights.ftd:
            some = slice(max(1, round(weights.ftd_share * len(z0))))
            t = stage.t_lr + (1.0 - stage.t_lr) * torch.rand(len(z0[some]), device=z0.device)
            z_t = noise_to_lr(eps[some], z_lr[some], t, stage.t_lr)
        with AttentionDiversity(model, enabled=weights.attention_diversity > 0) as diversity:
            velocity, made = model(z_t, t, z_lr if step % weights.image_every == 0 else None)
        total = torch.zeros((), device=z0.device)
        if velocity is not None:
            parts["ftd"] = ftd_loss(velocity, eps[some], z0[some], z_lr[some], stage.t_lr)
            total = total + weights.ftd * parts["ftd"]
        if made is not None:
            parts["mse"] = functional.mse_loss(made, batch["image"])
            parts["l1"] = functional.l1_loss(made, batch["image"])
            total = total + weights.reconstruction * parts["mse"] + weights.l1 * parts["l1"]
            if weights.perceptual:
                parts["perceptual"] = self.perceptual(made, batch["image"])
                total = total + weights.perceptual * parts["perceptual"]
        if weights.attention_diversity:
            parts["diversity"] = diversity.loss()
            total = total + weights.attention_diversity * parts["diversity"]
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    @property
    def perceptual(self) -> Perceptual:
        """The perceptual term, made at its first use: LPIPS reads a file."""
        if self._perceptual is None:
            self._perceptual = Perceptual(self.settings.loss.lpips_weights, tv_share=self.settings.loss.tv_share)
        return self._perceptual

    # ---- evaluation ----------------------------------------------------------------------------------------------

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        stage = self.settings.model
        if isinstance(stage, VaeModel):
            outputs = {"image": model(_original(batch))[0]}
        elif isinstance(stage, FlowModel):
            outputs = _denoised(model, _original(batch), batch["index"].tolist())
        else:
            picture = batch["lr_up"]
            outputs = {"image": model(picture=picture)[1], "base": model(picture=picture, adapted=False)[1]}
        return {name: value.clamp(0, 1) if name != "loss" else value for name, value in outputs.items()}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        made, image = outputs["image"], self._reference(batch)
        if image is None:  # the user's own images: there is nothing to compare with
            return dict.fromkeys(
                ("loss", "psnr", "psnr_y", "ssim", "ms_ssim", "gms"), made.new_full((len(made),), torch.nan)
            )
        error = made - image
        weights = self.settings.loss
        loss = outputs.get("loss")
        if loss is None:
            mse, l1 = error.square().mean(dim=(1, 2, 3)), error.abs().mean(dim=(1, 2, 3))
            loss = weights.reconstruction * mse + weights.l1 * l1
        return {
            "loss": loss,
            "psnr": image_metrics.psnr(made, image),
            "psnr_y": photo_metrics.psnr_y(made, image),
            "ssim": image_metrics.ssim(made, image),
            "ms_ssim": image_metrics.ms_ssim(made, image),
            "gms": photo_metrics.gms(made, image),
        }

    def _reference(self, batch: Batch) -> Tensor | None:
        """Return what outputs are scored by: the high-resolution image; None for a low-resolution one of the user's."""
        return batch.get("image") if isinstance(self.settings.model, LoraModel) else _original(batch)

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        reference = self._reference(batch)
        original = None if reference is None else reference[index]

        def panel(title: str, image: Tensor, role: Role = "detail") -> Panel:
            note = ""
            if original is not None and image is not original:
                psnr = image_metrics.psnr(image[None], original[None])
                ssim = image_metrics.ssim(image[None], original[None])
                note = f"PSNR {float(psnr):.2f} dB   SSIM {float(ssim):.3f}"
            return Panel(title, image.permute(1, 2, 0).float().cpu().numpy(), note, role=role)

        made = outputs["image"][index]
        if isinstance(self.settings.model, LoraModel):
            panels = [
                panel("LR", batch["lr_up"][index], "given"),
                panel("base SR", outputs["base"][index]),
                panel("LoRA SR", made, "made"),
            ]
            return [*panels, panel("HR", original, "given")] if original is not None else panels
        assert original is not None
        if isinstance(self.settings.model, FlowModel):
            sample = outputs["sample"][index].permute(1, 2, 0).float().cpu().numpy()
            return [
                panel("Original", original, "given"),
                panel(f"Noisy, t = {_DENOISED_AT:g}", outputs["noisy"][index], "given"),
                panel("One step", made, "made"),
                Panel("From noise alone", sample),
            ]
        difference = (made - original).abs().mean(dim=0).float().cpu().numpy()
        error = heat("|difference|, mean of the channels", 0.0, _LARGEST_ERROR)
        return [
            panel("Original", original, "given"),
            panel("Round trip", made, "made"),
            Panel("|difference|", apply_scale(difference, error), scale=error),
        ]


def _original(batch: Batch) -> Tensor:
    """Return what an autoencoder or a flow is shown: an image of the dataset, or one of the user's own."""
    return batch["image"] if "image" in batch else batch["lr_up"]


def _denoised(model: nn.Module, image: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
    """Return what shows a flow base: noisy images, one step from them, images from noise alone, and the loss [B].

    The noise of an image is a function of its index.
    """
    from mlkit.tasks.sr.model import seeded_noise

    t = torch.full((image.shape[0],), _DENOISED_AT, device=image.device)
    seeds = [derive_seed(0, "validation noise", index) for index in indices]
    velocity, target, noisy, estimate = model(t, image=image, seeds=seeds, pictures=True)
    loss = (velocity - target).square().mean(dim=(1, 2, 3))
    z = integrate(lambda z, t: model(t, z=z)[0], seeded_noise(target, seeds), 1.0, 0.0, _SAMPLE_STEPS)
    sample = model(torch.zeros_like(t), z=z, pictures=True)[2]
    return {
        "image": estimate,
        "noisy": noisy,
        "sample": sample[..., : image.shape[-2], : image.shape[-1]],
        "loss": loss,
    }


TASK = SrTask
