"""The faster attention of Flux transformers gives what that of diffusers gives."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from mlkit.tasks.sr.bases.flux_attention import ComplexRotary, hasten


def transformer(dtype: torch.dtype) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    made = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 6, 6),
    )
    return made.to(dtype).eval()


def velocity(net: FluxTransformer2DModel, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    with torch.inference_mode():
        out: Tensor = net(
            hidden_states=drawn(3, 35, 16),
            encoder_hidden_states=drawn(3, 4, 32),
            pooled_projections=drawn(3, 24),
            timestep=torch.tensor([0.2, 0.5, 0.9]),
            img_ids=torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3),
            txt_ids=torch.zeros(4, 3),
            return_dict=False,
        )[0]
    return out


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_complex_products_give_what_diffusers_attention_gives(dtype: torch.dtype) -> None:
    net = transformer(dtype)
    expected = velocity(net, dtype)
    hasten(net)
    assert {type(processor) for processor in net.attn_processors.values()} == {ComplexRotary}
    torch.testing.assert_close(velocity(net, dtype), expected, rtol=0, atol=2e-2 if dtype == torch.bfloat16 else 2e-6)


def test_places_of_tokens_matter() -> None:
    """A processor that forgets the rotation would pass a test whose tokens all lie at one place."""
    net = transformer(torch.float32)
    hasten(net)
    before = velocity(net, torch.float32)
    net.pos_embed.forward = lambda ids: (torch.ones(len(ids), 16), torch.zeros(len(ids), 16))
    assert (velocity(net, torch.float32) - before).abs().max() > 1e-3


def test_other_networks_stay_as_they_are() -> None:
    net = torch.nn.Linear(2, 2)
    hasten(net)
    assert type(net).__name__ == "Linear"
