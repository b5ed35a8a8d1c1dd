"""What `mlkit presets show`, `explain` and `check` print: values, where they come from, what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlkit.commands.keys import Key, keys_of
from mlkit.commands.printing import console, plain_value, print_facts, print_json, print_table
from mlkit.errors import SettingsError, did_you_mean, listing
from mlkit.preset_files import Chain, chain_of, find_preset, flatten, list_presets, preset_line
from mlkit.presets import ALIASES, Resolved, resolve_preset, to_toml

_QUICK = " [quick_test]"


def origin_of(resolved: Resolved, key: str, preset: str) -> tuple[str, str]:
    """Return where a value comes from: its kind, and the file or "" for a default, `--set` or a flag.

    Kinds are default, preset, extended preset, file, --set and flag; a file is one that mlkit does not ship. What
    `[quick_test]` sets has the kind of the file that holds it.
    """
    origin = resolved.origins.get(key)
    if origin is None:
        return "default", ""
    if origin in ("--set", "flag"):
        return origin, ""
    file = origin.removesuffix(_QUICK)
    if preset not in list_presets() and file not in {path.name for path in list_presets().values()}:
        return "file", origin
    return ("preset" if file == find_preset(preset).name else "extended preset"), origin


def show_preset(
    preset: str, assignments: Sequence[str], *, quick_test: bool, changed: bool, as_toml: bool, as_json: bool
) -> None:
    """Print every value of a preset with its origin; of a chain its presets."""
    if chain := chain_of(preset):
        _show_chain(chain, as_json=as_json)
        return
    resolved = resolve_preset(preset, assignments=assignments, quick_test=quick_test)
    if as_toml:
        console().print(to_toml(resolved.settings).rstrip(), markup=False, highlight=False, soft_wrap=True)
        return
    values = flat_values(resolved)
    origins = {key: origin_of(resolved, key, preset) for key in values}
    shown = [key for key in values if not (changed and origins[key][0] == "default")]
    if as_json:
        rows = {key: {"value": values[key], "origin": origins[key][0], "file": origins[key][1]} for key in shown}
        print_json({"preset": resolved.settings.preset, "file": str(find_preset(preset)), "values": rows})
        return
    print_table(("Key", "Value", "Origin", "File"), [[key, plain_value(values[key]), *origins[key]] for key in shown],
                fold=("Value",))  # fmt: skip


def _show_chain(chain: Chain, *, as_json: bool) -> None:
    if as_json:
        print_json({"preset": chain.name, "task": chain.task, "chain": list(chain.links)})
        return
    facts = {str(number): link for number, link in enumerate(chain.links, 1)}
    print_facts({"chain": f"{chain.name}, task {chain.task}: mlkit train --preset {chain.name}", **facts})


def flat_values(resolved: Resolved) -> dict[str, Any]:
    """Return every value by its dotted key, in the order of the settings."""
    return flatten(resolved.settings.model_dump(mode="json"))


# ---- one key ---------------------------------------------------------------------------------------------------


def explain_key(preset: str, key: str, assignments: Sequence[str], *, quick_test: bool, as_json: bool) -> None:
    """Print what a key means, may be and is, and every place that set it; of a section each of its keys.

    Raises:
        SettingsError: for an unknown key, with the nearest.
    """
    resolved = resolve_preset(preset, assignments=assignments, quick_test=quick_test)
    known = {one.key: one for one in keys_of(type(resolved.settings), resolved.settings)}
    wanted = [name for name in known if name == key or name.startswith(f"{key}.")]
    if not wanted:
        raise SettingsError(_unknown(key, list(known)))
    values = flat_values(resolved)
    told = [_told(known[name], values[name], preset, resolved, quick_test) for name in wanted]
    if as_json:
        print_json(told)
        return
    for one in told:
        _print_key(one)


def _told(key: Key, value: Any, preset: str, resolved: Resolved, quick_test: bool) -> dict[str, Any]:
    kind, file = origin_of(resolved, key.key, preset)
    return {
        "key": key.key,
        "value": value,
        "origin": kind,
        "file": file,
        "meaning": key.meaning,
        "type": key.words,
        "default": None if key.required else _as_json(key.default),
        "required": key.required,
        "set_by": _history(key, value, preset, kind, quick_test),
    }


def _history(key: Key, value: Any, preset: str, kind: str, quick_test: bool) -> list[dict[str, Any]]:
    """Return every place that names the key, the first that was read first; the last one holds."""
    found = [] if key.required else [{"origin": "default", "value": _as_json(key.default)}]
    lines = preset_line(preset)[::-1]
    tables = [(path.name, values) for path, values in lines]
    if quick_test:
        tables += [(path.name + _QUICK, values.get("quick_test", {})) for path, values in lines]
    for name, values in tables:
        own = flatten(values)
        if key.key in own:
            found.append({"origin": name, "value": own[key.key]})
    if kind in ("--set", "flag"):
        found.append({"origin": kind, "value": value})
    elif found and kind == "default" and found[-1]["origin"] != "default":
        found.append({"origin": "taken back by a key that excludes it", "value": value})
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _print_key(told: Mapping[str, Any]) -> None:
    from rich.text import Text

    origin = told["file"] or told["origin"]
    console().print(Text.assemble((told["key"], "bold"), f" = {plain_value(told['value'])}", (f"   {origin}", "dim")))
    words = {"meaning": told["meaning"], "value": told["type"].replace("`", "")}
    places = [f"{plain_value(one['value'])} ({one['origin']})" for one in told["set_by"]]
    print_facts({f"  {name}": text for name, text in {**words, "set by": ", then ".join(places)}.items() if text})


def _unknown(key: str, known: Sequence[str]) -> str:
    section, _, name = key.rpartition(".")
    ends = [other for other in known if other.rpartition(".")[2] == name]
    if ends and section not in {other.rpartition(".")[0] for other in known if section}:
        return f"unknown key '{key}' (did you mean '{ends[0]}'?)"
    beside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == section]
    if beside:
        place = f"'{section}'" if section else "the top level"
        near = did_you_mean(name, beside, ALIASES)
        return f"unknown key '{key}'{near}; {place} has {listing(sorted(beside), 30)}"
    near = did_you_mean(key, known)
    sections = sorted({other.partition(".")[0] for other in known})
    return f"unknown key '{key}'{near}; sections are {listing(sections, 30)}"


# ---- files of the user's own -----------------------------------------------------------------------------------


def check_files(files: Sequence[Path], *, as_json: bool) -> None:
    """Print whether each file is a good preset.

    Raises:
        SettingsError: with every problem of every file.
    """
    found = {str(file): file_problems(file) for file in files}
    if as_json:
        print_json([{"file": file, "ok": not problems, "problems": problems} for file, problems in found.items()])
    else:
        for file, problems in found.items():
            if not problems:
                console().print(f"{file}: ok", markup=False, highlight=False)
    if wrong := [problem for problems in found.values() for problem in problems]:
        raise SettingsError(*wrong)


def file_problems(file: Path) -> list[str]:
    """Return what is wrong with a preset's file, with and without its quick test; of a chain with all its presets."""
    name = str(file)
    if file.suffix != ".toml":
        return [f"{file} is no preset file; its name should end in .toml"]
    problems: list[str] = []
    try:
        chain = chain_of(name)
        presets = chain.links if chain else (name,)
    except SettingsError as error:
        return list(error.problems)
    for preset in presets:
        for quick_test in (False, True):
            try:
                if not quick_test or any("quick_test" in values for _, values in preset_line(preset)):
                    resolve_preset(preset, quick_test=quick_test)
            except SettingsError as error:
                problems += error.problems
    return list(dict.fromkeys(problems))
