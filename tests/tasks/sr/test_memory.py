"""What the real bases cost: counts against published sizes, hand counts and a real small step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlkit.tasks.sr.bases import Base
from mlkit.tasks.sr.lora import adapt, targets
from mlkit.tasks.sr.memory import FLUX_DEV, MARKS, Z_IMAGE_TURBO, Cost, costs, meta_base, table


@pytest.fixture(scope="module")
def rows() -> list[Cost]:
    return list(costs())


def test_the_real_configurations_have_their_published_sizes(rows: list[Cost]) -> None:
    sizes = {row.base: row.parameters / 1e9 for row in rows}
    assert sizes["black-forest-labs/FLUX.1-dev"] == pytest.approx(11.90, abs=0.005)  # "12 billion parameters"
    assert sizes["Tongyi-MAI/Z-Image-Turbo"] == pytest.approx(6.15, abs=0.01)  # "6B"


def test_nothing_is_allocated() -> None:
    base = meta_base(FLUX_DEV)
    assert {p.device.type for p in base.parameters()} == {"meta"}
    assert next(base.transformer.parameters()).dtype == torch.bfloat16


def test_adapted_layers_and_their_parameters_are_the_hand_count(rows: list[Cost]) -> None:
    flux, zimage = rows[0], rows[2]
    # FLUX: 19 double blocks with 8 projections, 38 single ones with 3, each 3072 x 3072.
    assert flux.adapted_layers == 19 * 8 + 38 * 3
    assert flux.adapter_parameters == flux.adapted_layers * 16 * (3072 + 3072)
    # Z-Image: 30 + 2 + 2 blocks with 4 projections, each 3840 x 3840.
    assert zimage.adapted_layers == 34 * 4
    assert zimage.adapter_parameters == zimage.adapted_layers * 16 * (3840 + 3840)
    assert [row.rank for row in rows] == [16] * 4


def test_the_adapter_grows_with_its_rank_alone() -> None:
    (small,) = costs([Z_IMAGE_TURBO], sizes_px=[256], rank=4)
    (large,) = costs([Z_IMAGE_TURBO], sizes_px=[256], rank=64)
    assert large.adapter_parameters == 16 * small.adapter_parameters
    assert large.parameters == small.parameters and large.adapted_layers == small.adapted_layers
    assert large.adapter_gb == pytest.approx(large.adapter_parameters * 16 / 1e9)


def test_all_linear_never_takes_the_output_layer_of_a_real_base() -> None:
    for model, output in ((FLUX_DEV, "proj_out"), (Z_IMAGE_TURBO, "all_final_layer.2-1.linear")):
        transformer = meta_base(model).transformer
        assert transformer.get_submodule(output) is not None
        assert output not in targets(transformer, "all-linear")
        assert len(targets(transformer, "all-linear")) > len(targets(transformer, "attention"))


def test_tokens_and_memory_follow_the_size(rows: list[Cost]) -> None:
    assert [row.tokens for row in rows] == [1024 + 512, 4096 + 512, 1024 + 32, 4096 + 32]
    for small, large in (rows[:2], rows[2:]):
        assert small.weights_gb == large.weights_gb
        assert 3 < large.activations_gb / small.activations_gb < 4.5
        for row in (small, large):
            parts = row.weights_gb + row.adapter_gb + row.activations_gb
            assert row.total_gb == pytest.approx(parts)
    assert rows[0].weights_gb == pytest.approx(2 * 11.90 + 4 * 0.0838, abs=0.02)  # bf16, and the float32 autoencoder


def test_flops_of_the_linear_layers_are_the_hand_count(rows: list[Cost]) -> None:
    # Twice the weights that a token meets; 3 passes (forward, again, backward to the input), 2 velocities.
    width = 3072
    block = 4 * width**2 + 8 * width**2  # four projections and a hidden layer of four times the width
    per_token = 2 * (19 + 38) * block
    attention = (19 + 38) * 4 * 1536**2 * width  # QK^T and its product with V
    expected = 2 * (3 * per_token * 1536 + (2 + 2) * attention)
    decoder = 0.03e15
    assert rows[0].step_pflop * 1e15 == pytest.approx(expected + decoder, rel=0.15)


TINY = {
    "name": "tiny",
    "transformer": {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": 32,
        "axes_dims_rope": (4, 14, 14),
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 8,
        "num_attention_heads": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "pooled_projection_dim": 8,
    },
    "prompt_tokens": 128,
}


def test_counted_flops_are_those_of_a_real_step() -> None:
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    (counted,) = costs([TINY], sizes_px=[32], rank=4)
    config = {key: value for key, value in TINY["transformer"].items() if key[0] != "_"}
    vae = AutoencoderKL(**dict(meta_base(TINY).vae.config))
    base = Base.of(
        transformer=FluxTransformer2DModel(**config),
        vae=vae,
        prompt_embeds=torch.zeros(128, 8),
        pooled=torch.zeros(8),
        name="tiny",
    )
    adapt(base, 4, 4.0, 0.0, "attention", gradient_checkpointing=True)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.01)
    z = torch.randn(1, 16, 4, 4)
    with FlopCounterMode(display=False) as counter:
        both = [base.velocity(z, torch.full((1,), t)) for t in (0.7, 0.25)]
        (base.decode(z - 0.25 * both[1]).square().mean() + both[0].square().mean()).backward()
    assert counted.step_pflop * 1e15 == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_another_block_keeps_its_input_once_a_velocity() -> None:
    deeper = {**TINY, "transformer": {**TINY["transformer"], "num_single_layers": 4}}
    (less,), (more,) = (list(costs([model], sizes_px=[64], rank=4)) for model in (TINY, deeper))
    width, bf16 = 512, 2
    assert more.activations_gb - less.activations_gb == pytest.approx(2 * less.tokens * width * bf16 / 1e9)


def test_every_figure_of_the_table_says_how_it_was_found(rows: list[Cost]) -> None:
    figures = {field.name for field in dataclasses.fields(Cost)} - {"base", "size_px", "rank", "targets"}
    assert set(MARKS) == figures
    text = table(rows)
    assert text.count("counted (meta device)") + text.count("estimated") == len(figures)
    lines = text.splitlines()
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1
    assert "| 11.90 |" in lines[2] and "| 266 |" in lines[2]
