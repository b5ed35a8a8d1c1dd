"""Bases against the pipelines of diffusers: one Euler loop with our velocity is their sampling."""

from __future__ import annotations

import json
import shutil
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from safetensors.torch import load_file, save_file

from mlkit.errors import DataError
from mlkit.tasks.sr import bases
from mlkit.tasks.sr.bases import Base, embedded_base_folder, open_base, save_base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae, open_vae

STEPS = 4
HEIGHT, WIDTH = 64, 96  # px; latents are 32 x 48


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).eval()


def tiny_flux(guidance: bool = True) -> FluxTransformer2DModel:
    torch.manual_seed(2)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def tiny_zimage() -> ZImageTransformer2DModel:
    torch.manual_seed(3)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 64, 64],
    )
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad)
    return transformer.eval()


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flux_pipeline(guidance: bool = True, kind: type = FluxPipeline) -> Any:
    pipeline = kind(
        scheduler=scheduler(),
        vae=tiny_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny_flux(guidance),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def base_of(pipeline: Any, prompt: torch.Tensor, pooled: torch.Tensor) -> Base:
    return Base.of(transformer=pipeline.transformer, vae=pipeline.vae, prompt_embeds=prompt, pooled=pooled, name="tiny")


@torch.no_grad()
def sampled(base: Base, noise: torch.Tensor, sigmas: list[float]) -> torch.Tensor:
    z = noise
    for sigma, following in pairwise(sigmas):
        z = z + (following - sigma) * base.velocity(z, torch.full((len(z),), sigma))
    return z


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def flux_folder(tmp_path: Path) -> Path:
    save_base(
        tmp_path / "flux",
        transformer=tiny_flux(),
        vae=tiny_vae(),
        prompt_embeds=drawn(5, 32),
        pooled=drawn(24),
        card="# A card",
    )
    return tmp_path / "flux"


# ---- the velocity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_velocity_samples_as_the_pipeline_of_diffusers(guidance: bool) -> None:
    pipeline = flux_pipeline(guidance)
    noise, prompt, pooled = drawn(2, 4, HEIGHT // 2, WIDTH // 2), drawn(5, 32, seed=1), drawn(24, seed=2)
    packed = FluxPipeline._pack_latents(noise, 2, 4, HEIGHT // 2, WIDTH // 2)
    expected = pipeline(
        prompt_embeds=prompt.expand(2, -1, -1),
        pooled_prompt_embeds=pooled.expand(2, -1),
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        latents=packed,
        output_type="latent",
    ).images
    expected = FluxPipeline._unpack_latents(expected, HEIGHT, WIDTH, 2)
    made = sampled(base_of(pipeline, prompt, pooled), noise, pipeline.scheduler.sigmas.tolist())
    assert float((expected - noise).abs().mean()) > 0.1  # it went somewhere
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_zimage_velocity_samples_as_the_pipeline_of_diffusers() -> None:
    pipeline = ZImagePipeline(
        scheduler=scheduler(), vae=tiny_vae(), text_encoder=None, tokenizer=None, transformer=tiny_zimage()
    )
    pipeline.set_progress_bar_config(disable=True)
    noise, prompt = drawn(2, 4, HEIGHT // 2, WIDTH // 2), drawn(7, 24, seed=1)
    expected = pipeline(
        prompt_embeds=[prompt, prompt],
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=0.0,
        latents=noise,
        output_type="latent",
    ).images
    base = base_of(pipeline, prompt, torch.zeros(0))
    assert (base.family, base.latent_channels, base.factor, base.multiple) == ("zimage", 4, 2, 4)
    made = sampled(base, noise, pipeline.scheduler.sigmas.tolist())
    assert float((expected - noise).abs().mean()) > 0.1
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_each_latent_of_a_batch_has_its_own_time() -> None:
    for base in (
        base_of(flux_pipeline(), drawn(5, 32), drawn(24)),
        Base.of(
            transformer=tiny_zimage(), vae=tiny_vae(), prompt_embeds=drawn(5, 24), pooled=torch.zeros(0), name="tiny"
        ),
    ):
        z, t = drawn(2, 4, 8, 8), torch.tensor([0.25, 0.9])
        with torch.no_grad():
            both = base.velocity(z, t)
            for i in range(2):
                torch.testing.assert_close(both[i : i + 1], base.velocity(z[i : i + 1], t[i : i + 1]))
            assert not torch.allclose(both, base.velocity(z, t.flip(0)), atol=1e-4)


def test_places_met_in_inference_mode_serve_training_later() -> None:
    base = base_of(flux_pipeline(), drawn(5, 32), drawn(24))
    z = drawn(1, 4, 8, 6)
    with torch.inference_mode():
        before = base.velocity(z, torch.full((1,), 0.5)).clone()
    assert not any(places.is_inference() for places in base._call._places.values())
    z.requires_grad_()
    after = base.velocity(z, torch.full((1,), 0.5))
    after.sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(after.detach(), before)


def test_more_sizes_than_are_kept_do_not_mix_places() -> None:
    used = base_of(flux_pipeline(), drawn(5, 32), drawn(24))
    sizes = [(height, width) for height in (4, 6, 8, 12) for width in (4, 6, 8, 12)]
    with torch.no_grad():
        for height, width in (*sizes, *sizes):
            z, t = drawn(1, 4, height, width), torch.full((1,), 0.5)
            fresh = base_of(flux_pipeline(), drawn(5, 32), drawn(24))
            assert torch.equal(used.velocity(z, t), fresh.velocity(z, t))


def test_latents_in_any_memory_order_give_one_velocity() -> None:
    base = base_of(flux_pipeline(), drawn(5, 32), drawn(24))
    z = drawn(2, 4, 8, 6)
    with torch.no_grad():
        expected = base.velocity(z, torch.full((2,), 0.5))
        made = base.velocity(z.contiguous(memory_format=torch.channels_last), torch.full((2,), 0.5))
    torch.testing.assert_close(made, expected)


def test_a_bf16_base_takes_and_gives_float32() -> None:
    pipeline = flux_pipeline()
    expected = base_of(pipeline, drawn(5, 32), drawn(24))
    z, t = drawn(1, 4, 8, 8), torch.full((1,), 0.25)
    with torch.no_grad():
        wanted = expected.velocity(z, t)
        pipeline.transformer.to(torch.bfloat16)
        made = base_of(pipeline, drawn(5, 32), drawn(24)).velocity(z, t)
    assert made.dtype == torch.float32
    assert 0 < float((made - wanted).abs().max()) < 0.1


# ---- the autoencoder -------------------------------------------------------------------------------------------


def test_decode_is_the_pipelines_decode() -> None:
    pipeline = flux_pipeline()
    prompt, pooled = drawn(5, 32, seed=1), drawn(24, seed=2)
    given = dict(
        prompt_embeds=prompt[None],
        pooled_prompt_embeds=pooled[None],
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=1,
        latents=FluxPipeline._pack_latents(drawn(1, 4, HEIGHT // 2, WIDTH // 2), 1, 4, HEIGHT // 2, WIDTH // 2),
    )
    latents = FluxPipeline._unpack_latents(pipeline(**given, output_type="latent").images, HEIGHT, WIDTH, 2)
    expected = pipeline(**given, output_type="pt").images
    with torch.no_grad():
        made = base_of(pipeline, prompt, pooled).decode(latents)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(made.clamp(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_encode_is_the_pipelines_encode_of_the_posteriors_mode() -> None:
    pipeline = flux_pipeline(kind=FluxImg2ImgPipeline)
    with torch.no_grad():  # a posterior of hardly any width: their sample is then its mode
        pipeline.vae.encoder.conv_out.weight[4:] = 0
        pipeline.vae.encoder.conv_out.bias[4:] = -40
    image = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    base = base_of(pipeline, drawn(5, 32), drawn(24))
    with torch.no_grad():
        expected = pipeline._encode_vae_image(pipeline.image_processor.preprocess(image), torch.Generator())
        torch.testing.assert_close(base.encode(image), expected, atol=1e-5, rtol=1e-5)


def test_decode_has_a_gradient_to_the_latent_and_is_not_clamped() -> None:
    base = base_of(flux_pipeline(), drawn(5, 32), drawn(24))
    z = (drawn(1, 4, 8, 8) * 20).requires_grad_()
    image = base.decode(z)
    image.square().mean().backward()
    assert z.grad is not None and bool((z.grad != 0).any())
    vae = new_vae()
    patch = Base.of(
        transformer=new_transformer(vae, heads=1, double_blocks=1, single_blocks=1, prompt_channels=4),
        vae=vae,
        prompt_embeds=torch.zeros(1, 4),
        pooled=torch.zeros(4),
        name="small",
    )
    assert float(patch.decode(drawn(1, vae.config.latent_channels, 4, 4) * 5).max()) > 1


def test_an_upcast_autoencoder_stays_out_of_autocast(flux_folder: Path) -> None:
    image = torch.rand(1, 3, 16, 16)
    for upcast in (True, False):
        base = open_base(str(flux_folder), dtype=torch.bfloat16, vae_force_upcast=upcast)
        assert base.vae.dtype == (torch.float32 if upcast else torch.bfloat16)
        assert base.transformer.dtype == torch.bfloat16
        with torch.no_grad():
            expected = open_base(str(flux_folder)).encode(image)
            with torch.autocast("cpu", torch.bfloat16):
                made = base.encode(image)
                assert base.decode(made).dtype == torch.float32
        assert torch.equal(made, expected) == upcast


# ---- files -----------------------------------------------------------------------------------------------------


def test_a_saved_base_opens_frozen_in_eval_mode_and_equal(flux_folder: Path, no_network: None) -> None:
    base = open_base(str(flux_folder))
    assert (base.family, base.name, base.latent_channels, base.factor, base.multiple) == (
        "flux",
        str(flux_folder),
        4,
        2,
        4,
    )
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert not any(module.training for module in base.modules())
    base.train()
    assert base.transformer.training and not base.vae.training
    whole = Base.of(transformer=tiny_flux(), vae=tiny_vae(), prompt_embeds=drawn(5, 32), pooled=drawn(24), name="tiny")
    z, t = drawn(1, 4, 8, 8), torch.full((1,), 0.3)
    with torch.no_grad():
        assert torch.equal(base.eval().velocity(z, t), whole.velocity(z, t))
        assert torch.equal(base.decode(z), whole.decode(z))
    assert (flux_folder / "README.md").read_text() == "# A card"
    assert not list(flux_folder.rglob("*.bin"))


def test_diffusers_opens_a_saved_base(flux_folder: Path, no_network: None) -> None:
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxPipeline.from_pretrained(flux_folder, **absent)
    base = open_base(str(flux_folder))
    own = {name: value for name, value in base.transformer.state_dict().items()}
    assert all(torch.equal(value, own[name]) for name, value in pipeline.transformer.state_dict().items())
    # In equal steps: the scheduler must not shift what our own integration does not.
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=base.prompt_embeds[None],
        pooled_prompt_embeds=base.pooled_prompt_embeds[None],
        height=32,
        width=32,
        num_inference_steps=4,
        output_type="latent",
    )
    np.testing.assert_allclose(pipeline.scheduler.sigmas, [1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_a_zimage_base_opens_from_its_folder(tmp_path: Path, no_network: None) -> None:
    given = dict(transformer=tiny_zimage(), vae=tiny_vae(), prompt_embeds=drawn(5, 24))
    save_base(tmp_path, **given, pooled=torch.zeros(0), card="")
    base = open_base(str(tmp_path))
    assert base.family == "zimage"
    assert not (tmp_path / "README.md").exists()
    z, t = drawn(1, 4, 8, 8), torch.full((1,), 0.3)
    with torch.no_grad():
        expected = Base.of(**given, pooled=torch.zeros(0), name="tiny").velocity(z, t)
        assert torch.equal(base.velocity(z, t), expected)


@pytest.mark.parametrize("place", ["", "base", "ckpt-000007/base", "ckpt-000004/base"])
def test_a_run_or_checkpoint_of_the_stage_flow_is_a_base(place: str, flux_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(flux_folder, run / place)
    if place.startswith("ckpt-000004"):
        shutil.copytree(flux_folder, run / "ckpt-000007" / "base")
        (run / "ckpt-000007" / "base" / "transformer" / "config.json").unlink()  # not the one that `best` names
        (run / "best").write_text("ckpt-000004\n")
    assert open_base(str(run)).fingerprint == open_base(str(flux_folder)).fingerprint
    assert type(open_vae(run)) is AutoencoderKL


def test_text_encoders_make_the_prompt_once_and_are_dropped(tmp_path: Path, no_network: None) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    # CLIP's vocabulary starts with a printable character for each byte, and these again as ends of words.
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    clip = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=8)
    t5 = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), ("a", -1.0)], extra_ids=0)
    torch.manual_seed(6)
    sizes = dict(num_hidden_layers=1, num_attention_heads=2, vocab_size=len(words))
    text = CLIPTextModel(CLIPTextConfig(hidden_size=24, intermediate_size=24, eos_token_id=len(words) - 1, **sizes))
    text_2 = T5EncoderModel(T5Config(vocab_size=4, d_model=32, d_ff=32, d_kv=8, num_layers=1, num_heads=2))
    pipeline = FluxPipeline(scheduler(), tiny_vae(), text.eval(), clip, text_2.eval(), t5, tiny_flux())
    pipeline.save_pretrained(tmp_path)
    with torch.no_grad():
        prompt, pooled, _ = pipeline.encode_prompt("")
    base = open_base(str(tmp_path))
    assert torch.equal(base.prompt_embeds, prompt[0])
    assert torch.equal(base.pooled_prompt_embeds, pooled[0])
    assert not [module for module in base.modules() if "T5" in type(module).__name__ or "CLIP" in type(module).__name__]


def test_a_prompt_file_takes_the_place_of_the_folders_own(flux_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"prompt_embeds": drawn(1, 9, 32, seed=7), "pooled_prompt_embeds": drawn(1, 24, seed=8)}, file)
    base = open_base(str(flux_folder), prompt_embeds=file)
    assert torch.equal(base.prompt_embeds, drawn(9, 32, seed=7))
    assert torch.equal(base.pooled_prompt_embeds, drawn(24, seed=8))


def test_the_fingerprint_tells_weights_and_not_files_apart(flux_folder: Path, tmp_path: Path) -> None:
    known = open_base(str(flux_folder)).fingerprint
    assert len(known) == 64 and int(known, 16)
    split = tmp_path / "split"
    shutil.copytree(flux_folder, split)
    shutil.rmtree(split / "transformer")
    tiny_flux().save_pretrained(split / "transformer", max_shard_size="20KB")
    assert len(list((split / "transformer").glob("*.safetensors"))) > 2
    assert open_base(str(split)).fingerprint == known
    for part in ("transformer", "vae"):
        other = tmp_path / f"other-{part}"
        shutil.copytree(flux_folder, other)
        file = other / part / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        name = max(tensors, key=lambda name: tensors[name].numel())
        save_file(tensors | {name: tensors[name] + 1e-3}, file)
        assert open_base(str(other)).fingerprint != known
    config = json.loads((flux_folder / "vae" / "config.json").read_text())
    (flux_folder / "vae" / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5}))
    assert open_base(str(flux_folder)).fingerprint != known


# ---- bad input -------------------------------------------------------------------------------------------------


def told(model_id: str | Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        open_base(str(model_id), **options)
    assert all("\n" not in problem for problem in error.value.problems)
    return str(error.value)


def test_a_base_that_is_nowhere_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "black-forest-labs/FLUX.1-dev" in told(tmp_path / "none")
    assert told("nobody/nothing-at-all") == (
        "base nobody/nothing-at-all is neither a folder nor in the hub's local cache, and the hub cannot be reached; "
        "connect, or give the folder of a copy"
    )
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in told(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in told(tmp_path / "empty")


def test_a_missing_embedded_base_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedded_base_folder().parts[-5:] == ("mlkit", "tasks", "sr", "embedded", "base")
    monkeypatch.setattr(bases.opening, "embedded_base_folder", lambda: tmp_path)
    assert "no embedded base" in told("embedded")


def test_a_base_without_text_encoders_says_how_to_give_a_prompt(flux_folder: Path, tmp_path: Path) -> None:
    (flux_folder / "prompt.safetensors").unlink()
    message = told(flux_folder)
    assert "no text_encoder and no text_encoder_2" in message
    assert "--prompt-embeds" in message and "prompt.safetensors" in message and "pooled_prompt_embeds [P]" in message
    assert "does not exist" in told(flux_folder, prompt_embeds=tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    assert "is no safetensors file" in told(flux_folder, prompt_embeds=tmp_path / "text.safetensors")
    save_file({"prompt_embeds": drawn(5, 32)}, tmp_path / "half.safetensors")
    assert "missing: pooled_prompt_embeds" in told(flux_folder, prompt_embeds=tmp_path / "half.safetensors")
    save_file({"prompt_embeds": drawn(5, 31), "pooled_prompt_embeds": drawn(23)}, tmp_path / "narrow.safetensors")
    message = told(flux_folder, prompt_embeds=tmp_path / "narrow.safetensors")
    assert "[5, 31], the transformer takes [S, 32]" in message and "[23], the transformer takes [24]" in message


def test_a_family_that_is_not_supported_is_named(flux_folder: Path) -> None:
    config = flux_folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace("FluxTransformer2DModel", "SD3Transformer2DModel"))
    message = told(flux_folder)
    assert (
        "SD3Transformer2DModel is not supported; supported: FluxTransformer2DModel, ZImageTransformer2DModel" in message
    )
    config.write_text("{")
    assert "is damaged" in told(flux_folder)
    config.unlink()
    assert "config.json" in told(flux_folder)


def test_weights_that_are_cut_short_missing_or_of_another_shape_are_refused(flux_folder: Path) -> None:
    file = flux_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    for cut in (4, 100, len(whole) - 100):
        file.write_bytes(whole[:cut])
        assert str(flux_folder) in told(flux_folder)
    save_file({name: value for name, value in tensors.items() if name != "proj_out.weight"}, file)
    assert "proj_out.weight" in told(flux_folder)
    save_file(tensors | {"proj_out.weight": torch.zeros(3, 3)}, file)
    assert "proj_out.weight" in told(flux_folder)
    file.unlink()
    assert str(flux_folder / "transformer") in told(flux_folder)


def test_an_autoencoder_of_another_model_is_refused(flux_folder: Path) -> None:
    shutil.rmtree(flux_folder / "vae")
    new_vae((8, 8), 1, 6).save_pretrained(flux_folder / "vae")
    assert "takes 4 latent channels, its autoencoder makes 6" in told(flux_folder)
