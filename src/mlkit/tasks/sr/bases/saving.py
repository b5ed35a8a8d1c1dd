"""Writing a base in the layout of diffusers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mlkit.files import write_json, write_text

PROMPT_FILE = "prompt.safetensors"
_PIPELINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "FluxTransformer2DModel": ("FluxPipeline", ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    "ZImageTransformer2DModel": ("ZImagePipeline", ("text_encoder", "tokenizer")),
}


def save_base(
    folder: Path, *, transformer: nn.Module, vae: nn.Module, prompt_embeds: Tensor, pooled: Tensor, card: str
) -> None:
    """Write a folder that `open_base` opens, and diffusers where the autoencoder is one of its own.

    Args:
        folder: made if need be; what it has under the same names is written over.
        transformer: of diffusers, without adapter.
        vae: AutoencoderKL or PatchAutoencoder.
        prompt_embeds: [S, D], what the base is given as its prompt.
        pooled: [P]; P may be 0.
        card: Markdown for README.md; "" writes none.
    """
    import diffusers
    from diffusers import FlowMatchEulerDiscreteScheduler
    from safetensors.torch import save_file

    pipeline, absent = _PIPELINES[type(transformer).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    transformer.save_pretrained(folder / "transformer")  # type: ignore[operator]
    vae.save_pretrained(folder / "vae")  # type: ignore[operator]
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    prompt = {"prompt_embeds": prompt_embeds} | ({"pooled_prompt_embeds": pooled} if pooled.numel() else {})
    save_file({name: value.detach().cpu().contiguous() for name, value in prompt.items()}, folder / PROMPT_FILE)
    if card:
        write_text(folder / "README.md", card)
    library = {"PatchAutoencoder": "mlkit.tasks.sr.bases.patch"}
    kind = type(vae).__name__
    index = {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["diffusers", type(transformer).__name__],
        "vae": [library.get(kind, "diffusers"), kind],
        **{name: [None, None] for name in absent},
    }
    write_json(folder / "model_index.json", index)  # last: a folder with an index is whole
