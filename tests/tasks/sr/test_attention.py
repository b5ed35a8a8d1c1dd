"""The attention diversification loss: its value, which outputs it sees, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, ZImageTransformer2DModel
from torch import Tensor, nn

from mlkit.tasks.sr.attention import AttentionDiversity, attentions, token_similarity
from mlkit.tasks.sr.bases import Base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae
from mlkit.tasks.sr.lora import adapt

NUM_TEXT = 3


def base(channels: int = 4) -> Base:
    torch.manual_seed(0)
    transformer = new_transformer(new_vae(), heads=1, double_blocks=1, single_blocks=2, prompt_channels=channels)
    nn.init.normal_(transformer.proj_out.weight, std=0.05)
    prompt = torch.randn(NUM_TEXT, channels)
    return Base.of(transformer=transformer, vae=new_vae(), prompt_embeds=prompt, pooled=torch.zeros(channels), name="t")


def latents(base: Base) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, base.latent_channels, 4, 6, generator=generator), torch.tensor([0.25, 0.7])


def adapted(gradient_checkpointing: bool = False) -> Base:
    made = base()
    adapt(made, rank=2, alpha=2.0, gradient_checkpointing=gradient_checkpointing)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in made.transformer.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made.train()


def numpy_similarity(tokens: np.ndarray) -> float:
    values = []
    for image in tokens:
        mean = image.mean(axis=0)
        values += [token @ mean / (np.linalg.norm(token) * np.linalg.norm(mean)) for token in image]
    return float(np.mean(values))


def test_the_value_is_the_mean_cosine_to_the_mean_token_of_each_image() -> None:
    tokens = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert token_similarity(tokens).item() == pytest.approx(numpy_similarity(tokens.double().numpy()), abs=1e-6)


def test_equal_tokens_cost_one_and_opposed_ones_less() -> None:
    same = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]])
    assert token_similarity(same).item() == pytest.approx(1.0)
    orthogonal = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert token_similarity(orthogonal).item() == pytest.approx(np.sqrt(0.5))
    assert token_similarity(same.bfloat16()).dtype == torch.float32


def test_each_layers_image_tokens_count_and_no_text() -> None:
    made = base()
    seen: list[np.ndarray] = []
    blocks = [*made.transformer.transformer_blocks, *made.transformer.single_transformer_blocks]
    for block in blocks:
        single = type(block).__name__ == "FluxSingleTransformerBlock"
        block.attn.register_forward_hook(
            lambda module, args, output, single=single: seen.append(
                (output[:, NUM_TEXT:] if single else output[0]).detach().double().numpy()
            )
        )
    with torch.no_grad(), AttentionDiversity(made) as diversity:
        made.velocity(*latents(made))
    assert [tokens.shape[1] for tokens in seen] == [2 * 3] * 3
    assert diversity.loss().item() == pytest.approx(np.mean([numpy_similarity(tokens) for tokens in seen]), abs=1e-5)


def test_several_passes_are_averaged() -> None:
    made = base()
    z, t = latents(made)

    def loss(*passes: Tensor) -> float:
        with torch.no_grad(), AttentionDiversity(made) as diversity:
            for one in passes:
                made.velocity(one, t)
        return diversity.loss().item()

    assert loss(z, -z) == pytest.approx((loss(z) + loss(-z)) / 2, abs=1e-6)
    assert loss(z) != loss(-z)


def test_nothing_is_left_on_the_model_and_nothing_is_there_when_it_is_off() -> None:
    made = base()

    def num_hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in made.modules())

    before = num_hooks()
    with AttentionDiversity(made, enabled=False):
        assert num_hooks() == before
    with AttentionDiversity(made):
        assert num_hooks() == before + 3 + 2  # the single blocks' text is noted, too
    assert num_hooks() == before
    with pytest.raises(RuntimeError, match="stopped"), AttentionDiversity(made):
        raise RuntimeError("stopped")
    assert num_hooks() == before


def test_the_gradient_reaches_the_adapter_and_is_the_same_with_gradient_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        made = adapted(checkpointing)
        with AttentionDiversity(made) as diversity:
            velocity = made.velocity(*latents(made))
        (velocity.square().mean() + diversity.loss()).backward()
        gradients.append({name: p.grad for name, p in made.named_parameters() if p.requires_grad})
    alone = adapted()
    with AttentionDiversity(alone) as diversity:
        alone.velocity(*latents(alone))
    diversity.loss().backward()
    reached = [name for name, p in alone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("single_transformer_blocks.1.attn.to_v.lora_B" in name for name in reached)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_a_few_steps_of_it_make_tokens_differ() -> None:
    made = adapted()
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=0.02)
    values = []
    for _ in range(8):
        with AttentionDiversity(made) as diversity:
            made.velocity(*latents(made))
        optimizer.zero_grad()
        loss = diversity.loss()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.02


def test_attentions_of_both_families_are_found_and_none_of_autoencoders() -> None:
    zimage = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
        axes_dims=[4, 6, 6],
    )  # fmt: skip
    assert list(attentions(zimage)) == ["noise_refiner.0.attention", "layers.0.attention", "layers.1.attention"]
    flux = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    assert list(attentions(flux)) == ["transformer_blocks.0.attn", "single_transformer_blocks.0.attn"]
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    assert any("attentions" in name for name, _ in vae.named_modules())
    assert not attentions(vae)
