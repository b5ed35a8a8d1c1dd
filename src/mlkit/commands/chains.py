"""`mlkit train --preset CHAIN`: runs in order, each from the best weights of the one before.

Every link is a run of its own; the same command again goes on where the chain stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlkit.checkpoint import foreign_weights
from mlkit.commands.session import dataset_for, print_json, say
from mlkit.commands.starting import Request, refuse_taken, start_run
from mlkit.errors import MlkitError, SettingsError, listing
from mlkit.preset_files import Chain, flatten
from mlkit.presets import load_settings, resolve_preset
from mlkit.runs.folders import check_run_name, default_checkpoint, is_run, read_run_json, resolve_run
from mlkit.settings import Places, RunSettings
from mlkit.tasks import load_task


@dataclass(frozen=True, slots=True)
class _Link:
    preset: str
    run: Path
    settings: RunSettings
    state: Literal["new", "begun", "done"]


def start_chain(request: Request, chain: Chain) -> None:
    """Train every link that is not done yet; all of them are checked before the first one starts."""
    for option, given in (("--seeds", request.seeds), ("--resume-from", request.resume_from)):
        if given:
            way = "repeat its command" if option == "--resume-from" else "give --seed and --name"
            raise MlkitError(f"preset '{chain.name}' is a chain, which takes no {option}: {way}")
    links = _checked(request, chain)
    words = {"new": "", "begun": " (goes on)", "done": " (done)"}
    say(f"chain {chain.name}: {', '.join(link.run.name + words[link.state] for link in links)}")
    results: list[dict[str, Any]] = []
    for number, link in enumerate(links, 1):
        before = links[number - 2].run if number > 1 else None
        about = {"chain": {"name": chain.name, "link": number, "of": len(links)}}
        try:
            results.append(_train(link, before, request, about))
        except MlkitError:
            left = [other.run.name for other in links[number:]]
            say(f"the chain {chain.name} stopped here; the same command goes on{_before(left)}")
            raise
    if request.as_json and all(results):
        print_json({"chain": chain.name, "runs": results})


def _before(left: Sequence[str]) -> str:
    return f", then trains {listing(left)}" if left else ""


def _train(link: _Link, before: Path | None, request: Request, about: dict[str, Any]) -> dict[str, Any]:
    """Train one link, or go on with it; returns what `--json` says of it."""
    if link.state == "done":
        return {"run": str(link.run), "checkpoint": str(default_checkpoint(link.run)), "done_before": True}
    if link.state == "begun":
        from mlkit.commands.resuming import resume_run

        return resume_run(link.run, None, name=None, data=request.data, device=request.device, as_json=request.as_json)
    start_from = request.init_from
    if before is not None:
        start_from = None if request.validate_only else default_checkpoint(before)
    own = replace(request, preset=link.preset, name=link.run.name, init_from=start_from)
    return start_run(own, about).result


def _checked(request: Request, chain: Chain) -> list[_Link]:
    """Return every link with its settings and how far it is; refuses all that is wrong with any of them."""
    runs_dir = Places().runs_dir
    resolved: list[RunSettings] = []
    problems: list[str] = []
    for preset in chain.links:
        try:
            asked = {"assignments": request.assignments, "flags": request.flags, "quick_test": request.quick_test}
            resolved.append(resolve_preset(preset, **asked).settings)  # type: ignore[arg-type]
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(*dict.fromkeys(problems))  # what `--set` got wrong is wrong in each
    links: list[_Link] = []
    for number, (preset, settings) in enumerate(zip(chain.links, resolved, strict=True), 1):
        name = f"{request.name}-{settings.preset}" if request.name else settings.preset
        check_run_name(name)
        run = runs_dir / name
        state: Literal["new", "begun", "done"] = "new"
        if not request.validate_only and run.exists():
            _refuse_other(run, chain, number, request)
            _refuse_changed(run, settings, request)
            state = "done" if read_run_json(run)["status"] == "success" else "begun"
            if number > 1:
                _refuse_other_parent(run, links[-1])
        elif not request.validate_only:
            refuse_taken(name, runs_dir)
        links.append(_Link(preset, run, settings, state))
    return links


def _refuse_other(run: Path, chain: Chain, number: int, request: Request) -> None:
    """Refuse a run of that name which is not this link of this chain, or does not start as it was asked for."""
    about = read_run_json(run) if is_run(run) else {}
    of = about.get("chain") or {}
    if (of.get("name"), of.get("link"), of.get("of")) != (chain.name, number, len(chain.links)):
        refuse_taken(run.name, run.parent)
    if number == 1:
        parent = about["lineage"].get("parent")
        asked = _weights_folder(request.init_from) if request.init_from else None
        if parent != asked:
            raise MlkitError(
                f"run '{run.name}' of this chain began from {parent or 'no other weights'}, not from "
                f"{asked or 'no other weights'}; {_way(run)}"
            )


def _weights_folder(path: Path) -> str:
    if foreign_weights(path):
        return str(path.resolve())
    return str(resolve_run(str(path), Places().runs_dir).chosen_checkpoint().resolve())


def _refuse_changed(run: Path, settings: RunSettings, request: Request) -> None:
    """Refuse to take a run for a link whose settings or data are others: the chain would not be what was asked for."""
    from mlkit.commands.resuming import with_decided

    stored = load_settings(run / "settings.toml")
    wanted = with_decided(settings, stored)
    old, new = (flatten(one.model_dump(mode="json")) for one in (stored, wanted))
    problems = [
        f"run '{run.name}' of this chain has {key} = {old.get(key)!r}, this command means {new.get(key)!r}; {_way(run)}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]
    if problems:
        raise SettingsError(*problems)
    data = dataset_for(load_task(settings), request.data)
    if data.sha256 != (trained := read_run_json(run)["dataset_sha256"]):
        raise SettingsError(
            f"run '{run.name}' of this chain was trained on a dataset with sha256 {trained[:12]}, {data.folder} has "
            f"{data.sha256[:12]}; {_way(run)}"
        )


def _refuse_other_parent(run: Path, before: _Link) -> None:
    """Refuse a link that is there though the one before is not done, or was trained again since."""
    parent = Path(read_run_json(run)["lineage"].get("parent", ""))
    if before.state != "done":
        raise MlkitError(
            f"run '{run.name}' exists, but the link before it, '{before.run.name}', is not done; {_way(run)}"
        )
    if parent.parent != before.run.resolve():
        raise MlkitError(f"run '{run.name}' began from {parent}, not from '{before.run.name}'; {_way(run)}")


def _way(run: Path) -> str:
    return f"give --name NAME for a chain of its own, or remove {run} and those after it"
