"""Presets as settings: the values of TOML files, overridden, validated, and told what is wrong with them.

The order in which values win: default < extended preset < preset < its [quick_test] table < `--set` < flags.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mlkit.errors import MlkitError, SettingsError, did_you_mean, listing
from mlkit.evaluation.criteria import OF_THE_RUN
from mlkit.metrics import METRICS
from mlkit.preset_files import FORMAT_VERSION, flatten, merge, read_preset, read_toml
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

# pydantic speaks of Python's types here, where the user writes TOML.
_PLAINER = {
    "model_type": "input should be a table",
    "tuple_type": "input should be a list",
    "bool_type": "input should be true or false",
    "model_attributes_type": "input should be a table",
    "union_tag_not_found": "'kind' is missing, which tells what keys there are",
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with the origin of every value: `origins["train.lr"] == "--set"`."""

    settings: RunSettings
    origins: Mapping[str, str]


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
    values, all_origins = read_preset(name)
    if isinstance(links := values.get("chain"), list):
        raise SettingsError(
            f"preset '{name}' is a chain of runs: mlkit train --preset {name}; its presets are {listing(links)}"
        )
    quick = values.pop("quick_test", {})
    if not isinstance(quick, Mapping):
        raise SettingsError(f"{all_origins['quick_test']}: quick_test = {quick!r}: input should be a table")
    origins = {key: origin for key, origin in all_origins.items() if not key.startswith("quick_test.")}
    if quick_test:
        if not quick:
            validate(values, origins)  # its name may be mistyped
            raise SettingsError(f"preset '{name}' has no [quick_test] table; give --max-steps instead")
        merge(values, quick, origins, "")
        origins |= {key: all_origins[f"quick_test.{key}"] + " [quick_test]" for key in flatten(quick)}
    problems = _apply(values, origins, assignments, flags or {})
    return Resolved(_validate_with(values, origins, problems), origins)


def override(settings: RunSettings, *, assignments: Sequence[str] = (), flags: Mapping[str, Any]) -> RunSettings:
    """Return settings with `--set` assignments and flags over them; raises SettingsError as `resolve_preset` does."""
    values = settings.model_dump(mode="json")
    origins: dict[str, str] = {}
    return _validate_with(values, origins, _apply(values, origins, assignments, flags))


def _apply(
    values: dict[str, Any], origins: dict[str, str], assignments: Sequence[str], flags: Mapping[str, Any]
) -> list[str]:
    """Merge `--set` assignments, then flags, over nested values in place; returns what is no assignment."""
    problems = []
    for assignment in assignments:
        try:
            parsed = tomllib.loads(assignment)
        except tomllib.TOMLDecodeError:
            key, _, text = assignment.partition("=")
            example = f'{key.strip()}="{text.strip()}"' if text.strip() else "train.lr=2e-4"
            problems.append(f"--set {assignment} is not a TOML assignment; strings want quotes: --set '{example}'")
            continue
        if not parsed:
            problems.append(f"--set '{assignment}' sets nothing; give KEY=VALUE, such as --set 'train.lr=2e-4'")
        merge(values, parsed, origins, "--set")
    for key, value in flags.items():
        if value is not None:
            merge(values, _nest(key, value), origins, "flag")
    return problems


def _validate_with(values: Mapping[str, Any], origins: Mapping[str, str], problems: Sequence[str]) -> RunSettings:
    """Return `validate`; problems found before are told together with what it finds."""
    try:
        settings = validate(values, origins)
    except SettingsError as error:
        raise SettingsError(*problems, *error.problems) from None
    if problems:
        raise SettingsError(*problems)
    return settings


def validate(values: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> RunSettings:
    """Return settings from plain values.

    Raises:
        SettingsError: one sentence a problem, all problems at once.
    """
    origins = origins or {}
    task = values.get("task")
    if not isinstance(task, str):
        near = {key: did_you_mean(key, ["task", "extends"]) for key in values if key != "task"}
        typos = [f"{_origin(origins, key)}unknown key '{key}'{meant}" for key, meant in near.items() if meant]
        raise SettingsError(*typos or [f'{_origin(origins, "task")}settings need a task, such as task = "sar"'])
    try:
        model = settings_class(task)
    except MlkitError as error:
        raise SettingsError(*(f"{_origin(origins, 'task')}task: {text}" for text in error.problems)) from None
    try:
        settings = model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(*explain(error, model, origins)) from None
    if problems := _unknown_metrics(settings, origins):
        raise SettingsError(*problems)
    return settings


def _unknown_metrics(settings: RunSettings, origins: Mapping[str, str]) -> list[str]:
    """Return a sentence for each metric that this mlkit does not have; a scorer from outside may bring criteria's."""
    named = [("eval.early_stop_metric", settings.eval.early_stop_metric, list(METRICS))]
    if settings.eval.scorer is None:
        known = [*METRICS, *OF_THE_RUN, *settings.set_scores]
        named += [(f"eval.criteria.{n}.metric", item.metric, known) for n, item in enumerate(settings.eval.criteria)]
    return [
        f"{_origin(origins, key)}{key} = {metric!r}: unknown metric{did_you_mean(metric, known)}; "
        f"there are {listing(_without_details(known), 60)}"
        for key, metric, known in named
        if metric not in known
    ]


def _without_details(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key not in METRICS or not METRICS[key].detail]


def explain(error: ValidationError, model: type[BaseModel], origins: Mapping[str, str]) -> list[str]:
    """Return one sentence for each problem that pydantic found: origin, key, value and what would work."""
    sentences: dict[str, str] = {}
    for problem in error.errors():
        unknown = problem["type"] == "extra_forbidden"
        path, known_keys = _settings_path(model, problem["loc"], last_is_unknown=unknown)
        key = ".".join(path)
        where = _origin(origins, key)
        message = problem["msg"].removeprefix("Value error, ")
        message = _PLAINER.get(problem["type"], message[0].lower() + message[1:])
        if unknown:
            section = ".".join(path[:-1]) or "the top level"
            of_files = ("extends", "quick_test", "chain") if len(path) == 1 and ".toml" in where else ()
            sentences[key] = (
                f"{where}unknown key '{key}'{did_you_mean(path[-1], [*known_keys, *of_files], ALIASES)}; "
                f"{section} has {listing(sorted(known_keys), 30)}"
            )
        elif problem["type"] == "missing":
            sentences[key] = f"{where}'{key}' is missing"
        elif key in sentences:  # a value that fits no member of a union
            sentences[key] += f", or {message}"
        else:
            shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r}"
            sentences[key] = f"{where}{key or 'settings'}{shown}: {message}"
    return list(sentences.values())


def _settings_path(
    model: type[BaseModel], loc: Sequence[str | int], *, last_is_unknown: bool
) -> tuple[list[str], list[str]]:
    """Return where a problem is, and the keys of the table around it.

    Left out of the path is what pydantic adds for the members of a union: the name of a type, or the value of the key
    that tells the tables of a union apart.
    """
    path: list[str] = []
    tables: list[type[BaseModel]] = [model]  # the tables that this place may hold
    known: list[str] = []
    for number, part in enumerate(loc):
        if isinstance(part, int):
            path.append(str(part))
            continue
        known = [key for table in tables[:1] for key in table.model_fields]
        if part in known:
            path.append(part)
            tables = _tables_of(tables[0].model_fields[part])
            continue
        chosen = [table for table in tables if part in _kinds(table)]
        if chosen and len(tables) > 1:
            tables = chosen
        elif last_is_unknown and number == len(loc) - 1:
            path.append(part)
        else:
            break
    return path, known


def _tables_of(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the tables that a key may hold, also in a list; none for a plain value."""
    hints = [field.annotation, *get_args(field.annotation)]
    return [hint for hint in hints if isinstance(hint, type) and issubclass(hint, BaseModel)]


def _kinds(table: type[BaseModel]) -> list[str]:
    """Return the words that tell this table apart from others of a union: the only value of a key such as `kind`."""
    return [str(word) for field in table.model_fields.values() for word in get_args(field.annotation)[:1]]


def _origin(origins: Mapping[str, str], key: str) -> str:
    """Return "file: " for the file or flag that set a key, a table around it or, failing that, something in it."""
    place = key
    while place:
        if place in origins:
            return f"{origins[place]}: "
        place = place.rpartition(".")[0]
    return next((f"{text}: " for known, text in origins.items() if known.startswith(key + ".")), "")


def to_toml(settings: RunSettings) -> str:
    """Return the settings as TOML that `load_settings` reads back unchanged."""
    import tomli_w

    return tomli_w.dumps({"format_version": FORMAT_VERSION, **_without_null(settings)})


def _without_null(settings: BaseModel) -> dict[str, Any]:
    """Return nested values for TOML: None is left out where it is the default, and "none" elsewhere."""
    values: dict[str, Any] = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, BaseModel):
            values[key] = _without_null(value)
        elif isinstance(value, tuple):
            values[key] = [_without_null(item) if isinstance(item, BaseModel) else item for item in value]
        elif value is not None:
            values[key] = value
        elif field.default is not None:
            values[key] = "none"
    return values


def load_settings(path: Path) -> RunSettings:
    """Return the settings of a run's settings.toml."""
    values = read_toml(path)
    return validate(values, dict.fromkeys(flatten(values), str(path)))


def _nest(key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nest(rest, value)} if rest else {head: value}
