"""Low-rank adapters (Hu et al. 2022) on a base, through PEFT and in PEFT's files.

An adapted layer computes W x + (alpha / rank) B A x. A and B are float32 whatever format the base is held in, and
B starts at zero: a fresh adapter changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit.errors import CheckpointError, SettingsError, did_you_mean, listing
from mlkit.files import write_json

if TYPE_CHECKING:
    from peft import LoraConfig

    from mlkit.tasks.sr.bases import Base

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PRESETS = ("attention", "all-linear")
_ATTENTION = re.compile(r".*\.(attn|attention)\..*")
# The final layer of Flux; of Z-Image. The modulation before it (norm_out, adaLN_modulation) is no output layer: without
# it an adapter could not change how large a velocity is, since what it modulates is normalised.
_OUTPUT = re.compile(r"proj_out|all_final_layer\..*\.linear")
_PREFIX = "base_model.model."  # of PEFT's names
_PLAIN: dict[str, Any] = {  # what other values would make of an adapter is not W x + s B A x
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "layer_replication": None,
    "lora_bias": False,
}


def targets(transformer: nn.Module, spec: str | Sequence[str]) -> list[str]:
    """Return the full names of the linear layers that `spec` chooses, in the model's order; never its output layer.

    Args:
        transformer: without adapter.
        spec: `attention` (all projections of all attentions), `all-linear`, a regex that must match whole names, or
            names: full ones, or their ends, such as "attn.to_q".

    Raises:
        SettingsError: naming each part of `spec` that chooses nothing, with near names.
    """
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    chosen: set[str] = set()
    problems = []
    for item in [spec] if isinstance(spec, str) else spec:
        found = _matching(linear, item, regex=isinstance(spec, str))
        inner = {name for name in found if not _OUTPUT.fullmatch(name)}
        if found and not inner:
            problems.append(f"model.targets: '{item}' is the output layer, which is never adapted; name layers within")
        elif not found:
            problems.append(_nothing(linear, item))
        chosen |= inner
    if problems:
        raise SettingsError(*problems)
    if not chosen:
        raise SettingsError(f"model.targets is empty; give {' or '.join(PRESETS)}, a regex or names of layers")
    return [name for name in linear if name in chosen]


def adapt(
    base: Base,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    gradient_checkpointing: bool = False,
) -> list[str]:
    """Put a fresh adapter on the base, the only thing in it that trains, and return the names of adapted layers.

    Args:
        base: not adapted yet; its transformer becomes the PEFT-wrapped one.
        rank: of A and B.
        alpha: the adapter is scaled by alpha / rank.
        dropout: of what enters A, in training mode.
        targets: as in `targets`.
        gradient_checkpointing: recompute the transformer's and the autoencoder's activations in the backward pass.

    Raises:
        SettingsError: when targets do not exist.
    """
    from peft import LoraConfig

    names = _targets(base.transformer, targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    if gradient_checkpointing:
        for model in (base.transformer, base.vae):
            if getattr(model, "_supports_gradient_checkpointing", False):
                model.enable_gradient_checkpointing()  # type: ignore[operator]
    _wrap(base, config)
    return names


def save_adapter(base: Base, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, in PEFT's layout, and nothing of the base.

    PEFT opens the folder as it is; so does diffusers, by `load_lora_adapter(folder,
    weight_name="adapter_model.safetensors", prefix="base_model.model")`, which finds rank and alpha in the header.
    """
    from safetensors.torch import save_file

    assert is_adapted(base)
    # "auto" would ask the hub for the base's vocabulary.
    base.transformer.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # a form to fill in
    stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # PEFT keeps targets as a set: sorted, so that equal adapters are equal files.
    chosen = stored["target_modules"]
    stored["target_modules"] = chosen if isinstance(chosen, str) else sorted(chosen)
    stored["base_model_name_or_path"] = base.name
    write_json(folder / CONFIG_FILE, dict(sorted(stored.items())))
    about = {name: stored[name] for name in ("r", "lora_alpha", "target_modules")}
    # One entry: safetensors writes several in an order of chance.
    header = {"lora_adapter_metadata": json.dumps({f"{_PREFIX}{name}": value for name, value in about.items()})}
    values = {name: value.detach().cpu().contiguous() for name, value in _adapter_parameters(base.transformer)}
    save_file(dict(sorted(values.items())), folder / WEIGHTS_FILE, metadata=header)


def load_adapter(base: Base, folder: Path) -> None:
    """Copy a stored adapter into that of the base, in place; onto a base without one, put it there, frozen.

    Raises:
        CheckpointError: when it is missing or damaged, is no plain LoRA, or is of another rank, scale, set of layers or
            shape of base.
    """
    config = _read_config(folder)
    values = _read_weights(folder)
    fresh = not is_adapted(base)
    if fresh:
        try:
            _wrap(base, config)
        except ValueError as error:  # PEFT finds no such layers
            raise CheckpointError(f"adapter {folder} does not fit base {base.name}: {error}") from error
    own = dict(_adapter_parameters(base.transformer))
    problems = [] if fresh else _different_scale(base, config, folder)
    if not problems:
        problems = _different_tensors(own, values, f"adapter {folder}")
    if problems:
        if fresh:
            base.transformer = base.transformer.unload()  # type: ignore[operator]
        raise CheckpointError(*problems)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(values[name])
    if fresh:
        base.requires_grad_(False)


def is_adapted(base: Base) -> bool:
    """Return whether the base has an adapter."""
    return hasattr(base.transformer, "peft_config")


@contextmanager
def base_only(base: Base) -> Iterator[None]:
    """Within, the base computes what it does without its adapter, exactly."""
    if not is_adapted(base):
        yield
        return
    # PEFT lets everything train that it switches back on.
    trained = [(parameter, parameter.requires_grad) for parameter in base.transformer.parameters()]
    try:
        with base.transformer.disable_adapter():  # type: ignore[operator]
            yield
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


# ---- which layers ----------------------------------------------------------------------------------------------

_targets = targets


def _matching(linear: Sequence[str], item: str, *, regex: bool) -> list[str]:
    if item == "all-linear":
        return list(linear)
    if item == "attention":
        return [name for name in linear if _ATTENTION.fullmatch(name)]
    if found := [name for name in linear if name == item or name.endswith(f".{item}")]:
        return found
    if not regex:
        return []
    try:
        return [name for name in linear if re.fullmatch(item, name)]
    except re.error as error:
        raise SettingsError(f"model.targets: '{item}' is neither a name nor a regex: {error}") from error


def _nothing(linear: Sequence[str], item: str) -> str:
    """Return the sentence for an item that chooses nothing, with what layers are called inside a block."""
    kinds = list(dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in linear if not _OUTPUT.fullmatch(name)))
    near = did_you_mean(item, [*kinds, *PRESETS, *linear])
    return f"model.targets: no linear layer of the base is '{item}'{near}; there are: {listing(kinds, 24)}"


# ---- PEFT ------------------------------------------------------------------------------------------------------


def _wrap(base: Base, config: LoraConfig) -> None:
    from peft import get_peft_model

    training = base.transformer.training
    base.transformer = get_peft_model(base.transformer, config)
    base.transformer.train(training)  # new dropout layers start in training mode


def _adapter_parameters(transformer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the adapter's parameters by their names in PEFT's files."""
    for name, parameter in transformer.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            yield name.replace(".default.weight", ".weight"), parameter


def _read_config(folder: Path) -> LoraConfig:
    from peft import LoraConfig

    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"adapter {folder} holds no {CONFIG_FILE}; give a checkpoint of the stage 'lora'")
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        kind = stored["peft_type"]
        if kind != "LORA":
            raise CheckpointError(f"adapter {folder} is a {kind} of PEFT; mlkit reads LORA")
        odd = [f"{key} = {stored[key]}" for key, plain in _PLAIN.items() if (stored.get(key) or plain) != plain]
        if odd:
            raise CheckpointError(f"adapter {folder} is no plain LoRA: {', '.join(odd)}; mlkit reads LoRA without them")
        if not isinstance(stored["r"], int) or not isinstance(stored["lora_alpha"], int | float):
            raise TypeError(f"r = {stored['r']!r}, lora_alpha = {stored['lora_alpha']!r}")
        known = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora")
        return LoraConfig(**{key: stored[key] for key in known if key in stored})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"adapter {folder / CONFIG_FILE} is damaged: {error!r}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"adapter {folder / WEIGHTS_FILE} is missing or damaged: {error}") from error
    return values


def _different_scale(base: Base, config: LoraConfig, folder: Path) -> list[str]:
    own: LoraConfig = base.transformer.peft_config["default"]  # type: ignore[index]
    if own.r != config.r:
        return [
            f"adapter {folder} has rank {config.r} and this run has rank {own.r}; set model.rank = {config.r} and "
            f"model.alpha = {config.lora_alpha:g}"
        ]

    def scale(config: LoraConfig) -> float:
        return float(config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r))

    if abs(scale(own) - scale(config)) > 1e-6 * scale(own):
        return [
            f"adapter {folder} is scaled by {scale(config):g} and this run's by {scale(own):g}; set model.alpha = "
            f"{scale(config) * own.r:g}"
        ]
    return []


def _different_tensors(own: dict[str, nn.Parameter], values: dict[str, Tensor], what: str) -> list[str]:
    problems = []
    for names, where in (
        (own.keys() - values.keys(), "lacks"),
        (values.keys() - own.keys(), "has, and the run lacks,"),
    ):
        layers = sorted({re.sub(r"\.lora_[AB]\.weight$", "", name.removeprefix(_PREFIX)) for name in names})
        if layers:
            problems.append(f"{what} {where} {len(layers)} layers: {listing(layers, 4)}; is model.targets the same?")
    shapes = [name for name in own.keys() & values.keys() if own[name].shape != values[name].shape]
    if shapes and not problems:
        name = min(shapes)
        sizes = f"{list(values[name].shape)}, here it has {list(own[name].shape)}"
        problems.append(f"{what}: {name.removeprefix(_PREFIX)} has shape {sizes}; it is of another base")
    return problems
