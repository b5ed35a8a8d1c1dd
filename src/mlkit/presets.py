"""Presets: TOML files, found by a name that is unique over all tasks; extended, overridden, validated, explained.

The order in which values win: default < extended preset < preset < its [quick_test] table < `--set` < flags.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mlkit.errors import SettingsError, did_you_mean, listing
from mlkit.settings import RunSettings
from mlkit.tasks import settings_class

# What people call our keys elsewhere: difflib alone finds no "lr" for "learning_rate".
ALIASES = {
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_steps": "steps",
    "total_iter": "steps",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_workers": "workers",
    "batch": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "accumulation": "accumulate",
    "max_grad_norm": "grad_clip_norm",
    "clip_grad_norm": "grad_clip_norm",
    "mixed_precision": "precision",
    "save_every": "every",
    "log_every": "every",
    "patience": "early_stop_patience",
    "ema": "ema_decay",
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with the origin of every value: `origins["train.lr"] == "flag --lr"`."""

    settings: RunSettings
    origins: Mapping[str, str]


def presets_root() -> Path:
    """Return the folder of the shipped presets: inside the wheel, or at the root of an editable install."""
    package = Path(__file__).parent
    for folder in (package / "presets", package.parent.parent / "presets"):
        if folder.is_dir():
            return folder
    raise SettingsError(f"the presets are missing beside {package}; install mlkit again")


def list_presets() -> dict[str, Path]:
    """Return the shipped presets by name, sorted; reads no file."""
    return {path.stem: path for path in sorted(presets_root().glob("*/*.toml"), key=lambda path: path.stem)}


def find_preset(name: str) -> Path:
    """Return the file of a preset name, or of a path to a user's own TOML file."""
    presets = list_presets()
    if name in presets:
        return presets[name]
    if name.endswith(".toml"):
        if Path(name).is_file():
            return Path(name)
        raise SettingsError(f"preset file {name} does not exist")
    raise SettingsError(
        f"unknown preset '{name}'{did_you_mean(name, presets)}; there are {listing(list(presets))}; or give a file"
    )


def resolve_preset(
    name: str, *, assignments: Sequence[str] = (), flags: Mapping[str, Any] | None = None, quick_test: bool = False
) -> Resolved:
    """Return the settings of a preset after all overrides.

    Args:
        name: a shipped preset's name or the path of a .toml file.
        assignments: TOML assignments with dotted keys, such as 'train.lr = 2e-4'.
        flags: dotted keys and values from command-line flags; None values are skipped.
        quick_test: apply the preset's [quick_test] table.

    Raises:
        SettingsError: with every problem at once, each naming its origin, key and the nearest known key.
    """
    values, origins = _read_chain(name)
    quick = values.pop("quick_test", {})
    quick_origins = {key: origin for key, origin in origins.items() if key.startswith("quick_test.")}
    origins = {key: origin for key, origin in origins.items() if not key.startswith("quick_test.")}
    if quick_test:
        if not quick:
            raise SettingsError(f"preset '{name}' has no [quick_test] table; give --max-steps instead")
        _merge(values, quick, origins, next(iter(quick_origins.values())) + " [quick_test]")
    _apply(values, origins, assignments, flags or {})
    return Resolved(validate(values, origins), origins)


def override(settings: RunSettings, *, assignments: Sequence[str] = (), flags: Mapping[str, Any]) -> RunSettings:
    """Return settings with `--set` assignments and flags over them; raises SettingsError as `resolve_preset` does."""
    values = settings.model_dump(mode="json", exclude_none=True)
    origins: dict[str, str] = {}
    _apply(values, origins, assignments, flags)
    return validate(values, origins)


def _apply(
    values: dict[str, Any], origins: dict[str, str], assignments: Sequence[str], flags: Mapping[str, Any]
) -> None:
    """Merge `--set` assignments, then flags, over nested values in place."""
    problems = []
    for assignment in assignments:
        try:
            parsed = tomllib.loads(assignment)
        except tomllib.TOMLDecodeError:
            key, _, text = assignment.partition("=")
            example = f'{key.strip()}="{text.strip()}"' if text.strip() else "train.lr=2e-4"
            problems.append(f"--set {assignment} is not a TOML assignment; strings want quotes: --set '{example}'")
            continue
        _merge(values, parsed, origins, "--set")
    if problems:
        raise SettingsError(*problems)
    for key, value in flags.items():
        if value is not None:
            _merge(values, _nest(key, value), origins, "flag")


def validate(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> RunSettings:
    """Return settings from plain values.

    Raises:
        SettingsError: one sentence a problem, all problems at once.
    """
    task = values.get("task")
    if not isinstance(task, str):
        raise SettingsError('settings need a task, such as task = "sar"')
    model = settings_class(task)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(*explain(error, model, origins or {})) from None


def explain(error: ValidationError, model: type[BaseModel], origins: Mapping[str, str]) -> list[str]:
    """Return one sentence for each problem that pydantic found: origin, key, value and what would work."""
    sentences = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path)
        origin = next((text for known, text in origins.items() if known == key or known.startswith(key + ".")), "")
        where = f"{origin}: " if origin else ""
        if problem["type"] == "extra_forbidden":
            known_keys = _fields_at(model, path[:-1])
            section = ".".join(path[:-1]) or "the top level"
            sentences.append(
                f"{where}unknown key '{key}'{did_you_mean(path[-1], known_keys, ALIASES)}; "
                f"{section} has {listing(sorted(known_keys), 30)}"
            )
        elif problem["type"] == "missing":
            sentences.append(f"{where}'{key}' is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
            message = message[0].lower() + message[1:]
            sentences.append(f"{where}{key or 'settings'}{shown}: {message}")
    return sentences


def to_toml(settings: RunSettings) -> str:
    """Return the settings as TOML that `load_settings` reads back unchanged."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def load_settings(path: Path) -> RunSettings:
    """Return the settings of a run's settings.toml."""
    values = _read(path)
    return validate(values, dict.fromkeys(flatten(values), str(path)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None


def _read_chain(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a preset over those it extends, with the file that each came from."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    next_name: str | None = name
    while next_name is not None:
        path = find_preset(next_name)
        if any(path == seen for seen, _ in chain):
            raise SettingsError(f"preset {path} extends itself, by way of {listing([seen.name for seen, _ in chain])}")
        values = _read(path)
        chain.append((path, values))
        next_name = values.pop("extends", None)
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path, values in reversed(chain):
        _merge(merged, values, origins, path.name)
    merged["preset"] = chain[0][0].stem
    origins["preset"] = chain[0][0].name
    return merged, origins


def _merge(into: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], origin: str) -> None:
    """Merge nested `values` over `into` in place and note their origin."""
    # Naming one of two keys that exclude each other means that the other one no longer holds.
    train = values.get("train", {})
    for wins, loses in (("steps", "epochs"), ("warmup_steps", "warmup_epochs")):
        for one, other in ((wins, loses), (loses, wins)):
            if isinstance(train, Mapping) and one in train and other not in train:
                into.get("train", {}).pop(other, None)
                origins.pop(f"train.{other}", None)
    _merge_dicts(into, values)
    origins.update(dict.fromkeys(flatten(values), origin))


def _merge_dicts(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge_dicts(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value)} if rest else {head: value}


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the keys that the settings class knows at a place; list indices in the path are passed over."""
    current: type[BaseModel] = model
    for part in path:
        if part.isdigit():
            continue
        annotation = current.model_fields[part].annotation
        inner = [annotation, *get_args(annotation)]
        current = next(kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(current.model_fields)
