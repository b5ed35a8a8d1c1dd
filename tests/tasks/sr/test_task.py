"""Claims of tasks/sr/task.py, and of the stages as they are trained: losses, scores, panels, files, resuming."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from mlkit.checkpoint import load_weights, open_checkpoint
from mlkit.data.manifest import open_manifest
from mlkit.data.sampler import stack
from mlkit.evaluation.evaluate import evaluate
from mlkit.imaging.grids import comparison_grid
from mlkit.tasks.sr import task as task_module
from mlkit.tasks.sr.bases import open_base
from mlkit.tasks.sr.bases.build import open_vae
from mlkit.tasks.sr.dataset import build_dataset
from mlkit.tasks.sr.perceptual import Perceptual
from mlkit.tasks.sr.settings import SrBuild, SrSettings
from mlkit.tasks.sr.task import SrTask
from running import Job, build_sample, fingerprint, run, task_of

ADAPTER = {"kind": "lora", "rank": 4, "alpha": 4.0}
TINY: Mapping[str, Mapping[str, Any]] = {
    "vae": {"kind": "vae", "channels": [8, 16], "latent_channels": 4},
    "flow": {"kind": "flow", "heads": 1, "double_blocks": 1, "single_blocks": 1, "prompt_channels": 4},
}
needs_posix = pytest.mark.skipif(os.name != "posix", reason="fork servers are POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a few pairs of photographs, and beside them the small base that made them (data-base)."""
    out = tmp_path_factory.mktemp("pairs") / "data"
    build_sample("sr", out)
    return out


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return photographs alone, as the stages that make a base read them."""
    out = tmp_path_factory.mktemp("photographs") / "data"
    build_dataset(None, out, build=SrBuild(pairs="none", size=64, reduce=(4,)))
    return out


def task_with(model: Mapping[str, Any], **loss: Any) -> SrTask:
    values = {"task": "sr", "model": model, "loss": loss, "train": {"steps": 1}}
    return SrTask(SrSettings.model_validate(values))


def lora_task(data: Path, **loss: Any) -> SrTask:
    return task_with({"base": f"{data}-base", **ADAPTER}, **loss)


def batch_of(data: Path, count: int = 4, task: SrTask | None = None) -> dict[str, Tensor]:
    source = (task or lora_task(data)).eval_source(open_manifest(data))
    samples = [source.sample(index, np.random.default_rng(index)) for index in range(count)]
    return stack([{**sample, "index": torch.tensor(index)} for index, sample in enumerate(samples)])


class Returns(nn.Module):
    """A network in place of an adapted base: its velocity is a function of (z, t), its image is given."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor], made: Tensor) -> None:
        super().__init__()
        self.velocity, self.made = velocity, made
        self.asked: list[dict[str, Any]] = []

    def forward(self, z: Tensor | None = None, t: Tensor | None = None, z_lr: Tensor | None = None) -> tuple[Any, Any]:
        self.asked.append({"z": z, "t": t, "z_lr": z_lr})
        velocity = None if z is None or t is None else self.velocity(z, t)
        return velocity, None if z_lr is None else self.made


# ---- what an adapter minimises ------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_its_parts_by_numpy(data: Path) -> None:
    batch = batch_of(data)
    made = (batch["image"] + 0.1 * torch.randn(batch["image"].shape)).requires_grad_()
    net = Returns(lambda z, t: torch.zeros_like(z), made)
    torch.manual_seed(0)
    loss = lora_task(data, ftd=0.5, reconstruction=2.0, l1=3.0).loss(net, batch, step=0)
    z0, z_lr, image = (batch[key].double().numpy() for key in ("z0", "z_lr", "image"))
    # (T/(1-T))^2 || v - (z_L - z_0)/T ||^2 with v = 0 and T = 1/4
    ftd = np.mean((z_lr - z0) ** 2) * 16 / 9
    error = made.detach().double().numpy() - image
    mse, l1 = np.mean(error**2), np.mean(np.abs(error))
    assert {key: float(value) for key, value in loss.parts.items()} == pytest.approx(
        {"ftd": ftd, "mse": mse, "l1": l1}, rel=1e-4
    )
    assert float(loss.total.detach()) == pytest.approx(0.5 * ftd + 2 * mse + 3 * l1, rel=1e-4)
    loss.total.backward()
    assert made.grad is not None and not any(value.requires_grad for value in loss.parts.values())


def test_the_velocity_that_is_learned_leads_from_low_to_high_resolution(data: Path) -> None:
    batch = batch_of(data)
    right = (batch["z_lr"] - batch["z0"]) / 0.25
    loss = lora_task(data).loss(Returns(lambda z, t: right, batch["image"]), batch, step=0)
    assert float(loss.parts["ftd"]) < 1e-9
    assert float(loss.parts["mse"]) == 0


def test_the_network_is_asked_on_the_line_from_low_resolution_to_noise(data: Path) -> None:
    batch, task = batch_of(data), lora_task(data)
    net = Returns(lambda z, t: torch.zeros_like(z), batch["image"])
    times = []
    for step in range(20):
        torch.manual_seed(step)
        task.loss(net, batch, step=step)
        asked = net.asked[-1]
        share = ((asked["t"] - 0.25) / 0.75)[:, None, None, None]
        torch.testing.assert_close(asked["z"], (1 - share) * batch["z_lr"] + share * batch["eps"])
        assert torch.equal(asked["z_lr"], batch["z_lr"])
        times += asked["t"].tolist()
    assert min(times) >= 0.25 and max(times) <= 1 and len(set(times)) == 80
    assert min(times) < 0.3 and max(times) > 0.95


@pytest.mark.parametrize(("share", "count"), [(1.0, 4), (0.5, 2), (0.01, 1)])
def test_a_share_of_the_batch_takes_the_distillation_loss_and_at_least_one(
    share: float, count: int, data: Path
) -> None:
    batch = batch_of(data)
    net = Returns(lambda z, t: torch.zeros_like(z), batch["image"])
    loss = lora_task(data, ftd_share=share).loss(net, batch, step=0)
    asked = net.asked[0]
    assert len(asked["z"]) == len(asked["t"]) == count
    assert len(asked["z_lr"]) == 4, "the image's terms take the whole batch"
    expected = (batch["z_lr"] - batch["z0"])[:count].double().square().mean() * 16 / 9
    assert float(loss.parts["ftd"]) == pytest.approx(float(expected), rel=1e-4)


def test_the_image_is_decoded_at_every_so_many_updates_alone(data: Path) -> None:
    batch = batch_of(data)
    net = Returns(lambda z, t: torch.zeros_like(z), batch["image"])
    task = lora_task(data, image_every=3)
    parts = [set(task.loss(net, batch, step=step).parts) for step in range(7)]
    assert parts == [{"ftd", "mse", "l1"} if step in (0, 3, 6) else {"ftd"} for step in range(7)]
    assert [asked["z_lr"] is not None for asked in net.asked] == [step in (0, 3, 6) for step in range(7)]


def test_a_term_of_weight_0_costs_no_pass(data: Path) -> None:
    batch = batch_of(data)
    net = Returns(lambda z, t: torch.zeros_like(z), batch["image"])
    assert "ftd" not in lora_task(data, ftd=0.0).loss(net, batch, step=0).parts
    assert net.asked[0]["z"] is None
    asked: list[int] = []
    task = lora_task(data)
    task._perceptual = lambda *images: asked.append(1)  # type: ignore[assignment]
    task.loss(net, batch, step=0)
    assert not asked


def test_the_perceptual_term_and_the_diversity_of_attention_are_added(data: Path) -> None:
    batch = batch_of(data)
    torch.manual_seed(0)
    task = lora_task(data, perceptual=2.0, attention_diversity=3.0, ftd=0.5)
    net = task.build_model()
    loss = task.loss(net, batch, step=0)
    assert loss.parts.keys() == {"ftd", "mse", "l1", "perceptual", "diversity"}
    parts = {name: float(value) for name, value in loss.parts.items()}
    total = 0.5 * parts["ftd"] + parts["mse"] + 2 * parts["perceptual"] + 3 * parts["diversity"]
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-5)
    with torch.no_grad():
        made = net(z_lr=batch["z_lr"])[1]
        assert parts["perceptual"] == pytest.approx(float(Perceptual(None)(made, batch["image"])), rel=1e-4)
    assert 0 < parts["diversity"] <= 1
    loss.total.backward()
    plain = lora_task(data, ftd=0.5)
    gradient = [value.grad.clone() for value in net.parameters() if value.grad is not None]
    net.zero_grad()
    plain.loss(net, batch, step=0).total.backward()
    other = [value.grad for value in net.parameters() if value.grad is not None]
    assert any(not torch.allclose(one, two, rtol=0.1) for one, two in zip(gradient, other, strict=True))


# ---- what the other stages minimise -------------------------------------------------------------------------------


def test_an_autoencoder_minimises_its_error_and_its_divergence() -> None:
    image, made, kl = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.tensor(0.7)
    task = task_with(TINY["vae"], reconstruction=2.0, l1=0.5, kl=0.1)
    loss = task.loss(lambda image: (made, kl), {"image": image}, step=0)  # type: ignore[arg-type]
    error = (made - image).double().numpy()
    mse, l1 = np.mean(error**2), np.mean(np.abs(error))
    assert float(loss.total) == pytest.approx(2 * mse + 0.5 * l1 + 0.07, rel=1e-5)


def test_a_flow_minimises_the_error_of_its_velocity_at_uniform_times() -> None:
    image = torch.rand(500, 3, 2, 2)
    asked: list[Tensor] = []

    def net(t: Tensor, *, image: Tensor) -> tuple[Tensor, Tensor, None, None]:
        asked.append(t)
        return torch.full_like(image, 2.0), torch.zeros_like(image), None, None

    torch.manual_seed(0)
    loss = task_with(TINY["flow"]).loss(net, {"image": image}, step=0)  # type: ignore[arg-type]
    assert float(loss.total) == pytest.approx(4.0)
    assert 0 <= asked[0].min() < 0.02 and 0.98 < asked[0].max() <= 1
    assert float(asked[0].mean()) == pytest.approx(0.5, abs=0.05)


# ---- scores and panels --------------------------------------------------------------------------------------------


def by_scikit_image(made: Tensor, image: Tensor) -> tuple[float, float]:
    """Return PSNR and SSIM of two images [3, H, W]."""
    x, y = (value.permute(1, 2, 0).double().numpy() for value in (made, image))
    gaussian: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(x, y, data_range=1.0, channel_axis=2, **gaussian)
    return float(peak_signal_noise_ratio(y, x, data_range=1.0)), float(ssim)


def test_scores_are_those_of_an_independent_library_image_by_image(data: Path) -> None:
    batch, task = batch_of(data), lora_task(data, l1=0.5)
    noise = torch.randn(batch["image"].shape, generator=torch.Generator().manual_seed(0))
    made = (batch["image"] + torch.tensor([0.02, 0.05, 0.1, 0.2])[:, None, None, None] * noise).clamp(0, 1)
    scores = task.metrics({"image": made}, batch)
    assert scores.keys() == {"loss", "psnr", "psnr_y", "ssim", "ms_ssim", "gms"}
    assert scores["ms_ssim"].isnan().all(), "64 px are too few for five scales"
    for place in range(4):
        psnr, ssim = by_scikit_image(made[place], batch["image"][place])
        error = (made - batch["image"])[place].double()
        assert float(scores["psnr"][place]) == pytest.approx(psnr, abs=1e-3)
        assert float(scores["ssim"][place]) == pytest.approx(ssim, abs=1e-4)
        loss = error.square().mean() + 0.5 * error.abs().mean()
        assert float(scores["loss"][place]) == pytest.approx(float(loss), rel=1e-4)


@torch.no_grad()
def test_the_panels_of_a_pair_show_base_and_adapter_between_given_images(data: Path) -> None:
    batch, task = batch_of(data), lora_task(data)
    torch.manual_seed(0)
    net = task.build_model().eval()
    for name, value in net.named_parameters():
        if "lora_B" in name:
            value.normal_(std=0.05)
    outputs = task.predict(net, batch)
    panels = task.panels(outputs, batch, 1)
    assert [panel.title for panel in panels] == ["LR", "base SR", "LoRA SR", "HR"]
    assert [panel.role for panel in panels] == ["given", "detail", "made", "given"]
    expected = [batch["lr_up"], outputs["base"], outputs["image"], batch["image"]]
    for panel, image in zip(panels, expected, strict=True):
        assert np.array_equal(panel.image_hwc, image[1].permute(1, 2, 0).numpy())
    psnr, ssim = by_scikit_image(outputs["image"][1], batch["image"][1])
    assert panels[2].note == f"PSNR {psnr:.2f} dB   SSIM {ssim:.3f}"
    assert panels[3].note == ""
    # The base is asked as it is, without a trace of the adapter.
    base = open_base(f"{data}-base")
    z_lr = base.encode(batch["lr_up"])
    alone = base.decode(z_lr - 0.25 * base.velocity(z_lr, torch.full((4,), 0.25)))
    assert torch.equal(outputs["base"], alone.clamp(0, 1))
    assert not torch.equal(outputs["base"], outputs["image"])


@pytest.fixture(scope="module")
def own_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return images of the user's own, of sizes that divide by nothing; one is grey."""
    folder = tmp_path_factory.mktemp("own")
    for name, shape in (("a", (37, 51, 3)), ("b", (23, 41)), ("c", (64, 7, 3))):
        levels = np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("lora", ["LR", "base SR", "LoRA SR"]),
        ("vae", ["Original", "Round trip", "|difference|"]),
        ("flow", ["Original", "Noisy, t = 0.5", "One step", "From noise alone"]),
    ],
)
def test_images_of_the_users_own_of_any_size_are_shown_and_scored_where_they_can_be(
    kind: str, titles: list[str], data: Path, own_images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "_SAMPLE_STEPS", 2)
    task = lora_task(data) if kind == "lora" else task_with(TINY[kind])
    torch.manual_seed(0)
    net = task.build_model()
    source = task.images_source(open_manifest(data), own_images, upscale=2)
    found = evaluate(task, net, source, device=torch.device("cpu"), batch_size=1, indices=range(3), panels_of=range(3))
    assert not found.failures
    assert found.ids == ["a.png", "b.png", "c.png"]
    sides = {0: (74, 102), 1: (46, 82), 2: (128, 14)}
    for place, panels in found.panels.items():
        assert [panel.title for panel in panels] == titles
        assert {panel.image_hwc.shape for panel in panels} == {(*sides[place], 3)}
        assert comparison_grid([panels]).dtype == np.uint8
    if kind == "lora":  # what they should look like, nobody knows
        assert all(np.isnan(values).all() for values in found.scores.values())
        assert {panel.note for panels in found.panels.values() for panel in panels} == {""}
    else:
        assert np.isfinite(found.scores["psnr"]).all() and np.isfinite(found.scores["loss"]).all()


@torch.no_grad()
def test_what_shows_a_flow_is_a_function_of_the_image_and_its_index(photographs: Path) -> None:
    task = task_with(TINY["flow"])
    torch.manual_seed(0)
    net = task.build_model().eval()
    nn.init.normal_(net.base.transformer.get_submodule("proj_out").weight, std=0.05)  # type: ignore[union-attr]
    batch = batch_of(photographs, 2, task)
    torch.manual_seed(1)
    one = task.predict(net, batch)
    torch.manual_seed(2)
    alone = task.predict(net, {key: value[1:] for key, value in batch.items()})
    assert one.keys() == {"image", "noisy", "sample", "loss"}
    for key, value in one.items():
        torch.testing.assert_close(value[1:], alone[key], rtol=1e-4, atol=1e-5)
    assert not torch.equal(one["noisy"][0], one["noisy"][1])
    assert one["loss"].shape == (2,) and torch.equal(task.metrics(one, batch)["loss"], one["loss"])


# ---- the stages in training ---------------------------------------------------------------------------------------

STEPS = {"train.steps": 4, "checkpoint.every": 2, "tracking.every": 1, "train.batch_size": 2, "eval.max_samples": 2}


def stage(kind: str, data: Path, **more: Any) -> Job:
    model = {f"model.{key}": value for key, value in TINY[kind].items() if key != "kind"}
    changes = {**STEPS, "data.crop": 32, "checkpoint.grid": False, "train.warmup_steps": 0, **model, **more}
    return Job("sr", data, changes, preset=f"sr_{kind}_tiny")


@pytest.fixture(scope="module")
def chain(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of trained runs, each the next one's ground: vae/, flow/ on it, and pairs/ made with that."""
    root = tmp_path_factory.mktemp("chain")
    assert run(stage("vae", photographs), root / "vae")
    assert run(stage("flow", photographs, **{"model.vae": str(root / "vae")}), root / "flow")
    build_dataset(
        None, root / "pairs", build=SrBuild(base=str(root / "flow"), size=64, count=8, steps=1, val_share=0.3)
    )
    return root


@needs_posix
@torch.no_grad()
def test_a_trained_autoencoder_opens_from_its_run_and_checkpoint(chain: Path, photographs: Path) -> None:
    task = task_of(stage("vae", photographs))
    net = task.build_model()
    load_weights(net, open_checkpoint(chain / "vae" / "ckpt-4"), averaged=False)
    picture = torch.rand(1, 3, 16, 16)
    for place in (chain / "vae" / "ckpt-4", chain / "vae" / "ckpt-4" / "vae", chain / "vae"):
        vae = open_vae(place).eval()
        made = vae.decode(vae.encode(picture * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
        assert torch.equal(made, net.eval()(picture)[0])
    first, last = (open_vae(chain / "vae" / f"ckpt-{step}").state_dict() for step in (2, 4))
    assert any(not torch.equal(value, last[name]) for name, value in first.items())


@needs_posix
@torch.no_grad()
def test_a_trained_flow_is_a_base_with_the_autoencoder_it_was_trained_on(chain: Path, photographs: Path) -> None:
    task = task_of(stage("flow", photographs, **{"model.vae": str(chain / "vae")}))
    net = task.build_model()
    load_weights(net, open_checkpoint(chain / "flow" / "ckpt-4"), averaged=False)
    z, t, picture = torch.randn(1, 4, 8, 8), torch.tensor([0.6]), torch.rand(1, 3, 16, 16)
    expected = net(t, z=z)[0]
    assert expected.any()
    prints = set()
    for place in (chain / "flow" / "ckpt-4", chain / "flow" / "ckpt-4" / "base", chain / "flow"):
        base = open_base(str(place))
        assert torch.equal(base.velocity(z, t), expected)
        assert torch.equal(base.encode(picture), net.base.encode(picture))
        prints.add(base.fingerprint)
    assert len(prints) == 1
    vae = open_vae(chain / "vae" / "ckpt-4").state_dict()
    assert all(torch.equal(value, vae[name]) for name, value in net.base.vae.state_dict().items())


@needs_posix
@torch.no_grad()
def test_an_adapter_on_a_base_of_ones_own_holds_nothing_of_it_and_opens_in_peft(chain: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    changes = {**STEPS, "model.base": str(chain / "flow"), "model.rank": 3, "model.alpha": 6.0, "data.crop": 32}
    job = Job("sr", chain / "pairs", {**changes, "checkpoint.grid": False, "train.ema_decay": 0.5}, preset="ftd_tiny")
    assert run(job, tmp_path / "run")
    checkpoint = tmp_path / "run" / "ckpt-4"
    files = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    own = {"adapter_config.json", "adapter_model.safetensors", "ema.safetensors"}
    assert files == own | {"checkpoint.json", "training_state.json", "eval.json", "accelerator_state/optimizer.bin"}
    task = task_of(job)
    net = task.build_model().eval()
    load_weights(net, open_checkpoint(checkpoint), averaged=False)
    base = open_base(str(chain / "flow"))
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([0.6])
    alone = base.velocity(z, t)
    base.transformer = PeftModel.from_pretrained(base.transformer, str(checkpoint)).eval()
    assert torch.equal(base.velocity(z, t), net.base.velocity(z, t))
    assert not torch.equal(base.velocity(z, t), alone), "nothing was learned, so nothing was proved"


@needs_posix
@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_a_stage_that_is_killed_and_resumed_gives_the_same_bits(kind: str, photographs: Path, tmp_path: Path) -> None:
    hard = {"train.ema_decay": 0.9, "train.accumulate": 2, "checkpoint.keep_last": 3}
    assert run(stage(kind, photographs, **hard), tmp_path / "one")
    # Before the last checkpoint is written; the other way to the same numbers has pictures and a data worker.
    job = stage(kind, photographs, **hard, **{"checkpoint.grid": True, "train.workers": 1})
    assert not run(job, tmp_path / "killed", die_at=46)
    assert (tmp_path / "killed" / "last").read_text() == "ckpt-2\n"
    assert run(job, tmp_path / "killed")
    expected, found = fingerprint(tmp_path / "one"), fingerprint(tmp_path / "killed")
    assert found == expected
    assert any(name.startswith("ckpt-4/") and name.endswith(".safetensors") for name in expected)
    assert (tmp_path / "killed" / "ckpt-4" / "grid.png").exists()


@needs_posix
def test_pictures_and_checkpoint_cadence_change_no_weight_of_an_adapter(
    data: Path, own_images: list[Path], tmp_path: Path
) -> None:
    for own in own_images:
        (tmp_path / "own").mkdir(exist_ok=True)
        shutil.copy(own, tmp_path / "own")
    plain = {**STEPS, "model.dropout": 0.2, "train.warmup_steps": 0}
    assert run(Job("sr", data, {**plain, "checkpoint.grid": False, "checkpoint.every": 4}), tmp_path / "plain")
    drawn = {"checkpoint.grid": True, "checkpoint.every": 1, "checkpoint.eval_images_dir": str(tmp_path / "own")}
    assert run(Job("sr", data, {**plain, **drawn}), tmp_path / "drawn")
    assert list((tmp_path / "drawn" / "ckpt-4").glob("*.png"))
    weights = [tmp_path / name / "ckpt-4" / "adapter_model.safetensors" for name in ("plain", "drawn")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("vae", ["train", "--preset", "sr_flow_tiny", "--set", 'model.vae="runs/mine"']),
        ("flow", ["dataset", "build", "sr", "--source", "PHOTOS", "--base", "runs/mine"]),
        ("lora", []),
    ],
)
def test_the_next_command_of_a_stage_is_that_of_the_stage_after_it(kind: str, words: list[str]) -> None:
    command = task_with({"kind": kind}).next_command(Path("runs/mine"))
    assert shlex.split(command)[1:] == words
