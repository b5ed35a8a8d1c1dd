"""Opening a base: the one in the package, a local folder, a run of the stage `flow`, or a model of the hub."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from mlkit.errors import DataError
from mlkit.tasks.sr.bases.base import FAMILIES, Base
from mlkit.tasks.sr.bases.files import find_model, fingerprint_of, load_model, read_config
from mlkit.tasks.sr.bases.saving import PROMPT_FILE
from mlkit.tasks.sr.settings import EMBEDDED

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = (
    "model_index.json",
    PROMPT_FILE,
    "transformer/*",
    "vae/*",
    "scheduler/*",
    "text_encoder*/*",
    "tokenizer*/*",
)
_ENCODERS = {"flux": ("text_encoder", "text_encoder_2"), "zimage": ("text_encoder",)}


def embedded_base_folder() -> Path:
    """Return where the base in the package lies."""
    return Path(__file__).parents[1] / "embedded" / "base"


def open_base(
    model_id: str,
    *,
    dtype: torch.dtype = torch.float32,
    vae_force_upcast: bool = True,
    prompt_embeds: Path | None = None,
) -> Base:
    """Return a frozen base in eval mode, on the CPU.

    Args:
        model_id: "embedded", a folder of diffusers, a run or checkpoint of the stage `flow`, or a hub id. Only a hub id
            may ask the network.
        dtype: of the transformer, and of an autoencoder that is not upcast.
        vae_force_upcast: hold the autoencoder in float32 where its configuration asks for that (`force_upcast`).
        prompt_embeds: a safetensors file with prompt_embeds [S, D] and pooled_prompt_embeds [P]; None: the folder's
            own prompt.safetensors, else its text encoders' answer to the empty prompt.

    Raises:
        DataError: when it is absent, incomplete, of an unknown family, or nothing says what its prompt is.
    """
    what = f"base {model_id}"
    folder = _folder_of(model_id)
    kind = read_config(folder / "transformer", what)["_class_name"]
    if kind not in FAMILIES:
        raise DataError(f"{what}: transformer {kind} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[kind][0]
    upcast = vae_force_upcast and bool(read_config(folder / "vae", what).get("force_upcast", True))
    prompt, pooled = _prompt_of(folder, family, dtype, prompt_embeds, what)
    return Base(
        transformer=load_model(folder / "transformer", tuple(FAMILIES), what, dtype),
        vae=load_model(folder / "vae", ("AutoencoderKL", "PatchAutoencoder"), what, torch.float32 if upcast else dtype),
        prompt_embeds=prompt,
        pooled=pooled,
        name=model_id,
        fingerprint=fingerprint_of(folder),
        upcast_vae=upcast,
    )


def _folder_of(model_id: str) -> Path:
    if model_id == EMBEDDED:
        folder = embedded_base_folder()
        if not (folder / "model_index.json").is_file():
            raise DataError(f"this installation has no embedded base ({folder}); give a folder or a hub id of another")
        return folder
    folder = Path(model_id).expanduser()
    if folder.exists():
        return find_model(folder, ("", "base"), "model_index.json", f"base {model_id}")
    if not _HUB_ID.fullmatch(model_id):
        raise DataError(
            f"base {model_id} does not exist; give '{EMBEDDED}', a folder of diffusers, a run of the stage 'flow' or a "
            "hub id such as black-forest-labs/FLUX.1-dev"
        )
    return _fetched(model_id)


def _fetched(model_id: str) -> Path:
    """Return the local copy of a model of the hub, fetched if need be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=list(_HUB_FILES)))
    except GatedRepoError as error:
        raise DataError(
            f"base {model_id}: its licence must be accepted on the hub first; then run `hf auth login` and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(f"base {model_id} is neither a folder nor a model of the hub; is it spelled right?") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            f"base {model_id} is neither a folder nor in the hub's local cache, and the hub cannot be reached; "
            "connect, or give the folder of a copy"
        ) from error


def _prompt_of(folder: Path, family: str, dtype: torch.dtype, file: Path | None, what: str) -> tuple[Tensor, Tensor]:
    """Return prompt_embeds [S, D] and pooled_prompt_embeds [P]."""
    if file is None and (folder / PROMPT_FILE).is_file():
        file = folder / PROMPT_FILE
    if file is not None:
        return _read_prompt(file, family)
    missing = [name for name in _ENCODERS[family] if not (folder / name / "config.json").is_file()]
    if missing:
        wanted = "prompt_embeds [S, D] and pooled_prompt_embeds [P]" if family == "flux" else "prompt_embeds [S, D]"
        raise DataError(
            f"{what} has no {' and no '.join(missing)}, so nothing makes its prompt; save {wanted} of the empty prompt "
            f"in a safetensors file, elsewhere, and give it with --prompt-embeds (model.prompt_embeds in training) or "
            f"put it into the folder as {PROMPT_FILE}"
        )
    return _encoded_prompt(folder, family, dtype, what)


def _read_prompt(file: Path, family: str) -> tuple[Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        why = "does not exist" if not file.exists() else f"is no safetensors file: {error}"
        raise DataError(f"prompt embeddings {file}: it {why}") from error
    absent = {"prompt_embeds", *(("pooled_prompt_embeds",) if family == "flux" else ())} - set(stored)
    if absent:
        raise DataError(f"prompt embeddings {file} hold {sorted(stored)}; missing: {', '.join(sorted(absent))}")
    prompt, pooled = stored["prompt_embeds"], stored.get("pooled_prompt_embeds", torch.zeros(0))
    # The pipelines have them with a batch axis of one.
    return prompt[0] if prompt.ndim == 3 and len(prompt) == 1 else prompt, pooled.flatten()


def _encoded_prompt(folder: Path, family: str, dtype: torch.dtype, what: str) -> tuple[Tensor, Tensor]:
    """Return what the folder's own text encoders make of the empty prompt; they are dropped afterwards."""
    import diffusers
    from safetensors import SafetensorError

    pipeline = diffusers.FluxPipeline if family == "flux" else diffusers.ZImagePipeline
    try:
        loaded = pipeline.from_pretrained(
            folder, transformer=None, vae=None, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise DataError(f"{what}: its text encoders cannot be loaded: {first}; give --prompt-embeds FILE") from error
    with torch.no_grad():
        if family == "flux":
            prompt, pooled, _ = loaded.encode_prompt("")
            return prompt[0].clone(), pooled[0].clone()
        prompts, _ = loaded.encode_prompt("", do_classifier_free_guidance=False)
        return prompts[0].clone(), torch.zeros(0)
