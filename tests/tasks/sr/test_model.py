"""Claims of tasks/sr/model.py: what each stage computes, what trains in it, and what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlkit.errors import CheckpointError
from mlkit.tasks.sr.bases import open_base, save_base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae, open_vae
from mlkit.tasks.sr.model import FlowNet, LoraNet, VaeNet, padded, seeded_noise
from mlkit.tasks.sr.settings import FlowModel, LoraModel, VaeModel
from srbase import save_small_base

ODD = (37, 51)  # divides by nothing


def images(height: int = 32, width: int = 48, count: int = 2, seed: int = 0) -> Tensor:
    """Return smooth colours, [B, 3, H, W] in [0, 1]."""
    small = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=True)


def perturbed(net: LoraNet, seed: int = 2, std: float = 0.05) -> LoraNet:
    """Let the adapter do something: B starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return net


@pytest.fixture(scope="module")
def patch_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base on the patch transform with all its coefficients, which loses nothing."""
    return save_small_base(tmp_path_factory.mktemp("bases") / "patch")


@pytest.fixture(scope="module")
def learned_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base whose autoencoder has weights of its own."""
    torch.manual_seed(0)
    vae = new_vae((8, 16), 1, 4)
    transformer = new_transformer(vae, heads=1, double_blocks=1, single_blocks=1, prompt_channels=8)
    nn.init.normal_(transformer.proj_out.weight, std=0.1)
    folder = tmp_path_factory.mktemp("bases") / "learned"
    prompt: dict[str, Any] = {"prompt_embeds": torch.zeros(1, 8), "pooled": torch.zeros(8)}
    save_base(folder, transformer=transformer, vae=vae, card="", **prompt)
    return folder


def lora_net(base: Path, **settings: Any) -> LoraNet:
    torch.manual_seed(1)
    return LoraNet(LoraModel(base=str(base), rank=4, alpha=4.0, **settings))


# ---- the adapter --------------------------------------------------------------------------------------------------


def test_only_the_adapter_trains_and_the_decoded_image_reaches_all_of_it(learned_base: Path) -> None:
    net = perturbed(lora_net(learned_base)).train()
    frozen = {name: value.clone() for name, value in net.state_dict().items() if "lora_" not in name}
    trained = {name: value for name, value in net.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    image = images()
    with torch.no_grad():
        z_lr = net.base.encode(images(seed=1))
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.1)
    velocity, made = net(z_lr=z_lr)
    assert velocity is None
    (made - image).square().mean().backward()
    assert all(value.grad is not None for value in trained.values()), "a part without gradient is refused by DDP"
    still = {name.partition(".lora_")[0] for name, value in trained.items() if not value.grad.any()}
    fed_by_the_prompt = ("context_embedder", "time_text_embed.text_embedder.linear_1")  # which is zero
    assert still == {f"base.transformer.base_model.model.{name}" for name in fed_by_the_prompt}
    assert all(value.grad is None for name, value in net.named_parameters() if name not in trained)
    optimizer.step()
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in frozen.items()), "the base changed"


def test_the_gradient_of_the_decoded_image_is_its_difference_quotient(learned_base: Path) -> None:
    """Through one step of the flow and the whole decoder, along one direction of all adapter weights."""
    net = perturbed(lora_net(learned_base)).double()
    # The base converts to its own format; the whole is in double precision, so that a small step tells.
    net.base._dtype = torch.float64
    image = images().double()
    with torch.no_grad():
        z_lr = net.base.encode(images(seed=1))
    trained = [value for value in net.parameters() if value.requires_grad]
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in trained]

    def loss() -> Tensor:
        made = net(z_lr=z_lr)[1]
        assert made is not None
        return (made - image).square().mean()

    loss().backward()
    slope = sum(float((value.grad * along).sum()) for value, along in zip(trained, direction, strict=True))
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            for value, along in zip(trained, direction, strict=True):
                value += step * along
            values.append(float(loss()))
            for value, along in zip(trained, direction, strict=True):
                value -= step * along
    assert abs(slope) > 1e-5
    assert slope == pytest.approx((values[0] - values[1]) / 2e-2, rel=0.02)


@torch.no_grad()
def test_a_picture_is_encoded_moved_by_one_step_and_decoded(learned_base: Path) -> None:
    net = perturbed(lora_net(learned_base, t_lr=0.4)).eval()
    picture = images()
    z_lr = net.base.encode(picture)
    moved = z_lr - 0.4 * net.base.velocity(z_lr, torch.tensor([0.4, 0.4]))
    expected = net.base.decode(moved)
    for made in (net(picture=picture)[1], net(z_lr=z_lr)[1]):
        assert made is not None
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)
    z, t = torch.randn_like(z_lr), torch.tensor([0.6, 0.9])
    velocity, nothing = net(z, t)
    assert nothing is None
    assert torch.equal(velocity, net.base.velocity(z, t))
    both = net(z, t, z_lr)
    assert torch.equal(both[0], velocity) and torch.equal(both[1], net(z_lr=z_lr)[1])


@torch.no_grad()
def test_without_the_adapter_the_base_answers_bit_for_bit(patch_base: Path) -> None:
    net, picture = perturbed(lora_net(patch_base)).eval(), images(*ODD)
    base = open_base(str(patch_base))
    z_lr = base.encode(padded(picture, base.multiple))
    moved = z_lr - 0.25 * base.velocity(z_lr, torch.tensor([0.25, 0.25]))
    alone = net(picture=picture, adapted=False)[1]
    assert alone is not None
    assert torch.equal(alone, base.decode(moved)[..., : ODD[0], : ODD[1]])
    adapted = net(picture=picture)[1]
    assert (adapted - alone).abs().max() > 1e-3, "the adapter does nothing, so nothing was proved"
    assert torch.equal(net(picture=picture)[1], adapted), "asking the base left a trace"
    fresh = lora_net(patch_base).eval()  # B is zero
    assert torch.equal(fresh(picture=picture)[1], alone)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [ODD, (8, 8), (1, 3), (64, 9)])
def test_images_of_any_size_come_back_whole_and_in_place(height: int, width: int, patch_base: Path) -> None:
    """A base that answers zero leaves the round trip of a transform that loses nothing: the picture itself."""
    net, picture = lora_net(patch_base).eval(), images(height, width)
    net.base.transformer.get_submodule("base_model.model.proj_out").weight.zero_()
    made = net(picture=picture)[1]
    assert made is not None and made.shape == picture.shape
    torch.testing.assert_close(made, picture, rtol=0, atol=1e-5)


def test_dropout_acts_in_training_alone_and_on_the_adapter_alone(patch_base: Path) -> None:
    net, picture = perturbed(lora_net(patch_base, dropout=0.5)), images()

    def made(**asked: Any) -> Tensor:
        with torch.no_grad():
            found = net(picture=picture, **asked)[1]
        assert found is not None
        return found

    net.train()
    assert not torch.equal(made(), made())
    assert torch.equal(made(adapted=False), made(adapted=False))
    assert not net.base.vae.training
    net.eval()
    assert torch.equal(made(), made())


def test_an_adapter_goes_through_its_files_and_another_rank_is_refused(patch_base: Path, tmp_path: Path) -> None:
    net, other = perturbed(lora_net(patch_base)), lora_net(patch_base)
    net.save_files(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"adapter_config.json", "adapter_model.safetensors"}
    held = list(other.parameters())
    other.load_files(tmp_path)
    assert all(one is two for one, two in zip(held, other.parameters(), strict=True)), "an optimizer would lose them"
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    wide = LoraNet(LoraModel(base=str(patch_base), rank=8, alpha=8.0))
    with pytest.raises(CheckpointError, match=r"has rank 4 and this run has rank 8; set model\.rank = 4"):
        wide.load_files(tmp_path)


# ---- the base -----------------------------------------------------------------------------------------------------


def flow_net(**settings: Any) -> FlowNet:
    torch.manual_seed(0)
    size: dict[str, Any] = {"heads": 1, "double_blocks": 1, "single_blocks": 1, "prompt_channels": 4}
    net = FlowNet(FlowModel(kind="flow", **size, **settings))
    nn.init.normal_(net.base.transformer.get_submodule("proj_out").weight, std=0.05)
    return net


@torch.no_grad()
def test_a_flow_is_shown_the_line_from_latent_to_noise_and_its_slope() -> None:
    net, image = flow_net(), images()
    z0 = net.base.encode(image)
    eps = torch.stack([torch.randn(z0.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)])
    t = torch.tensor([0.2, 0.7])
    wide = t[:, None, None, None]
    z_t = (1 - wide) * z0 + wide * eps
    velocity, target, noisy, clean = net(t, image=image, seeds=[5, 6], pictures=True)
    torch.testing.assert_close(target, eps - z0)
    torch.testing.assert_close(velocity, net.base.velocity(z_t, t))
    torch.testing.assert_close(noisy, net.base.decode(z_t))
    torch.testing.assert_close(clean, net.base.decode(z_t - wide * net.base.velocity(z_t, t)))
    given, nothing, *_ = net(t, z=z_t)
    assert nothing is None
    torch.testing.assert_close(given, velocity)


def test_a_flow_trains_its_transformer_alone() -> None:
    net = flow_net().train()
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    assert trained == {f"base.transformer.{name}" for name, _ in net.base.transformer.named_parameters()}
    velocity, target, _, _ = net(torch.tensor([0.3, 0.8]), image=images())
    assert not target.requires_grad
    (velocity - target).square().mean().backward()
    assert all(value.grad is not None for value in net.base.transformer.parameters())


@torch.no_grad()
def test_the_noise_of_an_image_is_its_seeds_whatever_else_is_in_the_batch() -> None:
    like = torch.zeros(3, 2, 4, 4)
    together = seeded_noise(like, [1, 2, 3])
    assert torch.equal(together[1:2], seeded_noise(like[:1], [2]))
    assert together.unique().numel() == together.numel()
    before = torch.get_rng_state()
    assert torch.equal(seeded_noise(like, [1, 2, 3]), together)
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
def test_a_flow_takes_images_of_any_size() -> None:
    net, image = flow_net(), images(*ODD)
    velocity, target, noisy, clean = net(torch.tensor([0.5, 0.5]), image=image, seeds=[1, 2], pictures=True)
    assert velocity.shape == target.shape == (2, 24, 10, 14)
    assert noisy.shape == clean.shape == image.shape


@torch.no_grad()
def test_a_flow_is_a_base_once_it_is_saved(tmp_path: Path) -> None:
    net = flow_net()
    net.save_files(tmp_path)
    base = open_base(str(tmp_path))
    z, t = torch.randn(2, 24, 8, 6), torch.tensor([0.1, 0.9])
    assert torch.equal(base.velocity(z, t), net.base.velocity(z, t))
    assert torch.equal(base.encode(images()), net.base.encode(images()))
    again = FlowNet(FlowModel(kind="flow", heads=1, double_blocks=1, single_blocks=1, prompt_channels=4))
    held = list(again.parameters())
    again.load_files(tmp_path)
    assert all(one is two for one, two in zip(held, again.parameters(), strict=True))
    assert torch.equal(again.base.velocity(z, t), net.base.velocity(z, t))


def test_weights_of_another_flow_are_refused(tmp_path: Path) -> None:
    flow_net().save_files(tmp_path)
    wider = FlowNet(FlowModel(kind="flow", heads=2, double_blocks=1, single_blocks=1, prompt_channels=4))
    with pytest.raises(CheckpointError, match="are of another model"):
        wider.load_files(tmp_path)


# ---- the autoencoder ----------------------------------------------------------------------------------------------


def vae_net(channels: tuple[int, ...] = (8, 16)) -> VaeNet:
    torch.manual_seed(0)
    return VaeNet(VaeModel(kind="vae", channels=channels, latent_channels=4))


@torch.no_grad()
def test_an_autoencoder_returns_its_round_trip_and_the_divergence_of_its_posterior() -> None:
    net, image = vae_net().eval(), images()
    posterior = net.vae.encode(image * 2 - 1).latent_dist
    expected = net.vae.decode(posterior.mean).sample / 2 + 0.5
    made, kl = net(image)
    torch.testing.assert_close(made, expected)
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl, divergence)


@torch.no_grad()
def test_an_autoencoder_takes_images_of_any_size_and_continues_them_by_their_border() -> None:
    net, image = vae_net().eval(), images(*ODD)
    continued = torch.cat([image, image[..., -1:]], dim=3)  # 37 x 52
    continued = torch.cat([continued, continued[..., -1:, :]], dim=2)  # 38 x 52
    made = net(image)[0]
    assert made.shape == image.shape
    assert torch.equal(made, net(continued)[0][..., : ODD[0], : ODD[1]])


@torch.no_grad()
def test_an_autoencoder_is_opened_from_its_files_and_by_a_flow(tmp_path: Path) -> None:
    net = vae_net()
    net.save_files(tmp_path)
    again = vae_net()
    with torch.no_grad():
        for value in again.parameters():
            value.zero_()
    again.load_files(tmp_path)
    opened = open_vae(tmp_path)
    assert torch.equal(again.eval()(images())[0], net.eval()(images())[0])
    flow = flow_net(vae=str(tmp_path))
    z = opened.encode(images() * 2 - 1).latent_dist.mode()
    assert torch.equal(flow.base.encode(images()), z)
    assert flow.base.latent_channels == 4 and flow.multiple == 4
    with pytest.raises(CheckpointError, match="are of another model"):
        vae_net((8, 16, 16)).load_files(tmp_path)
