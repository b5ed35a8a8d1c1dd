"""Model folders in the layout of diffusers: finding them, reading one without a network, and telling them apart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mlkit.checkpoint import checkpoint_folders
from mlkit.errors import DataError, listing
from mlkit.files import sha256_json

_WEIGHTS = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors")  # no variants such as .fp16
_WHOLE_BELOW = 4096  # bytes of a tensor that are hashed as a whole
_SAMPLES, _SAMPLE = 8, 64  # places in a larger one, and bytes at each


def find_model(folder: Path, inside: Sequence[str], file: str, what: str) -> Path:
    """Return the first of `folder`/`inside` that holds `file`, in the folder, or in a run's best or newest checkpoint.

    Raises:
        DataError: when none does; `what` names it.
    """
    if not folder.is_dir():
        raise DataError(f"{what} {'is a file, not a folder' if folder.exists() else 'does not exist'}")
    pointed = [folder / (folder / name).read_text().strip() for name in ("best", "last") if (folder / name).is_file()]
    for place in (folder, *pointed, *reversed(checkpoint_folders(folder))):
        for name in inside:
            if (place / name / file).is_file():
                return place / name
    named = listing([str(Path(name) / file) for name in inside])
    raise DataError(f"{what} is none: it holds no {named}; give a folder of diffusers, or a run of that stage")


def read_config(folder: Path, what: str) -> dict[str, Any]:
    """Return config.json or model_index.json, whichever `folder` holds.

    Raises:
        DataError: when it is missing or damaged.
    """
    path = next((p for p in (folder / "config.json", folder / "model_index.json") if p.is_file()), None)
    if path is None:
        raise DataError(f"{what}: {folder} holds no config.json; is it a folder of diffusers, and whole?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{what}: {path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise DataError(f"{what}: {path} names no _class_name; is it of diffusers?")
    return config


def load_model(folder: Path, supported: Sequence[str], what: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model of one folder (config.json and *.safetensors), in eval mode; the network is never asked.

    Raises:
        DataError: when it is of another class, incomplete or damaged.
    """
    import diffusers
    from safetensors import SafetensorError

    kind = read_config(folder, what)["_class_name"]
    if kind not in supported:
        raise DataError(f"{what}: {folder.name} is a {kind}; supported: {', '.join(supported)}")
    if kind == "PatchAutoencoder":
        from mlkit.tasks.sr.bases import patch

        loaded: Any = patch.PatchAutoencoder
    else:
        loaded = getattr(diffusers, kind)
    try:
        model, told = loaded.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{what}: {folder} cannot be loaded: {_first_line(error)}; is it whole?") from error
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *(str(key[0]) for key in told["mismatched_keys"])]
    if wrong:
        raise DataError(f"{what}: the weights in {folder} do not fit its config.json: {listing(sorted(wrong), 4)}")
    return model.eval()


def fingerprint_of(folder: Path) -> str:
    """Return what tells a base from others, in hex: configurations, and names, shapes and samples of all tensors.

    It reads some hundred bytes of each tensor, so that 24 GB take no longer than 24 MB. How the tensors are split over
    files does not matter; text encoders and the scheduler do not count.
    """
    found: dict[str, Any] = {}
    for part in ("transformer", "vae"):
        config = read_config(folder / part, f"base {folder}")
        found[part] = {key: value for key, value in config.items() if key == "_class_name" or key[0] != "_"}
        for path in sorted((folder / part).iterdir()):
            if _WEIGHTS.fullmatch(path.name):
                found |= {f"{part}/{name}": value for name, value in _sampled(path).items()}
    return sha256_json(found)


def _sampled(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open("rb") as file:
            start = 8 + (length := int.from_bytes(file.read(8), "little"))
            if start > path.stat().st_size:
                raise DataError(f"{path} is cut short; fetch it again")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            sampled = {}
            for name, about in header.items():
                first, last = about["data_offsets"]
                if last - first <= _WHOLE_BELOW:
                    places, size = [first], last - first
                else:
                    places = [first + (last - first - _SAMPLE) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
                    size = _SAMPLE
                digest = hashlib.sha256()
                for place in places:
                    file.seek(start + place)
                    digest.update(file.read(size))
                sampled[name] = [about["dtype"], about["shape"], digest.hexdigest()]
            return sampled
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}; fetch it again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
