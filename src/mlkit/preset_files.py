"""Preset files: found by name, read, extended, with the origin of every value. Nothing here imports pydantic.

A name is unique over all tasks. The order in which values win: extended preset < preset. A chain is a file with a task
and `chain = ["first", "second"]`: presets, or .toml files beside it, to train in order.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.errors import SettingsError, did_you_mean, listing

FORMAT_VERSION = 1  # of settings.toml
_CHAIN_KEYS = ("task", "chain")


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


def preset_line(name: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return a preset's file with its own values, then the one that it extends, and so on.

    Raises:
        SettingsError: when a file is missing, no TOML, or extends itself.
    """
    line: list[tuple[Path, dict[str, Any]]] = []
    next_name: str | None = name
    while next_name is not None:
        try:
            path = find_preset(next_name)
        except SettingsError as error:
            where = f"{line[-1][0].name}: extends: " if line else ""
            raise SettingsError(*(where + problem for problem in error.problems)) from None
        if any(path == seen for seen, _ in line):
            raise SettingsError(f"preset {path} extends itself, by way of {listing([seen.name for seen, _ in line])}")
        values = read_toml(path)
        if "chain" in values and (line or "extends" in values):
            by = line[-1][0].name if line else path.name
            raise SettingsError(f"{by}: extends: a chain neither extends nor is extended; extend one of its presets")
        line.append((path, values))
        next_name = values.pop("extends", None)
        if next_name is not None and not isinstance(next_name, str):
            raise SettingsError(f"{path.name}: extends = {next_name!r}: input should be a preset's name")
        if next_name is not None and next_name.endswith(".toml"):
            next_name = str(path.parent / next_name)  # beside the file that names it, wherever one stands
    return line


def read_preset(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a preset over those it extends, with the file of each; raises as `preset_line`."""
    line = preset_line(name)
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path, values in reversed(line):
        merge(merged, values, origins, path.name)
    merged["preset"] = line[0][0].stem
    origins["preset"] = line[0][0].name
    return merged, origins


# ---- chains ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chain:
    """What a chain's file says."""

    name: str
    task: str
    links: tuple[str, ...]  # presets in order: names, or paths of .toml files


def chain_of(preset: str) -> Chain | None:
    """Return the chain that a preset's file holds; None where it holds settings.

    Raises:
        SettingsError: with every problem of the chain and its links at once.
    """
    path = find_preset(preset)
    values, _ = read_preset(preset)
    if "chain" not in values:
        return None
    task, links = values.get("task"), values["chain"]
    if not isinstance(links, list) or not links or not all(isinstance(link, str) for link in links):
        raise SettingsError(f'{path.name}: chain = {links!r}: input should be a list of presets, such as ["a", "b"]')
    problems = [
        f"{path.name}: unknown key '{key}'{did_you_mean(key, _CHAIN_KEYS)}; a chain has {listing(_CHAIN_KEYS)}"
        for key in values
        if key not in (*_CHAIN_KEYS, "preset")
    ]
    if not isinstance(task, str):
        problems.append(f'{path.name}: a chain needs a task, such as task = "sar"')
    named = tuple(str(path.parent / link) if link.endswith(".toml") else link for link in links)
    problems += [f"{path.name}: chain: {problem}" for link in named for problem in _link_problems(link, task)]
    stems = [Path(link).stem if link.endswith(".toml") else link for link in named]
    problems += [f"{path.name}: chain names '{stem}' twice" for stem in sorted(set(stems)) if stems.count(stem) > 1]
    if problems:
        raise SettingsError(*dict.fromkeys(problems))
    assert isinstance(task, str)
    return Chain(path.stem, task, named)


def _link_problems(link: str, task: object) -> Sequence[str]:
    """Return what is wrong with one link, apart from its settings."""
    try:
        values, _ = read_preset(link)
    except SettingsError as error:
        return error.problems
    if "chain" in values:
        return [f"'{link}' is a chain itself; name its presets"]
    if isinstance(task, str) and values.get("task") != task:
        return [f"'{link}' is of task {values.get('task')!r}, the chain is of '{task}'"]
    return []


# ---- files and values ------------------------------------------------------------------------------------------


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a preset or settings file; raises SettingsError when it is missing, no TOML or newer."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None
    version = values.pop("format_version", FORMAT_VERSION)  # presets have none
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise SettingsError(
            f"settings file {path} has format version {version}, this mlkit reads up to {FORMAT_VERSION}; update mlkit"
        )
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def merge(into: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], origin: str) -> None:
    """Merge nested `values` over `into` in place and note their origin."""
    _drop_rivals(into, values, origins, "")
    if isinstance(into.get("quick_test"), dict) and isinstance(values.get("quick_test"), Mapping):
        _drop_rivals(into["quick_test"], values["quick_test"], origins, "quick_test.")
    _merge_dicts(into, values)
    origins.update(dict.fromkeys(flatten(values), origin))


def _drop_rivals(into: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], prefix: str) -> None:
    """Naming one of two keys that exclude each other means that the other one no longer holds."""
    before, train = into.get("train"), values.get("train")
    if not isinstance(before, dict) or not isinstance(train, Mapping):
        return
    for pair in (("steps", "epochs"), ("warmup_steps", "warmup_epochs")):
        for one, other in (pair, pair[::-1]):
            if one in train and other not in train:
                before.pop(other, None)
                origins.pop(f"{prefix}train.{other}", None)


def _merge_dicts(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge_dicts(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
