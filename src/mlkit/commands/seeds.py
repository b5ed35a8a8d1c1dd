"""`mlkit train --seeds`: the same training from several seeds, run after run, compared as one later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlkit.commands.session import print_json, say
from mlkit.commands.starting import Request, refuse_taken, start_run
from mlkit.errors import MlkitError
from mlkit.presets import resolve_preset
from mlkit.runs.folders import check_run_name, seed_run_name
from mlkit.settings import Places


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of "0,1,2"; raises MlkitError for what is no list of different whole numbers from 0 on."""
    words = [word.strip() for word in text.split(",")]
    seeds = tuple(int(word) for word in words if word.isascii() and word.isdigit())
    if len(seeds) != len(words) or len(set(seeds)) != len(seeds):
        raise MlkitError(f"--seeds {text!r} is no list of different seeds; give whole numbers by commas: --seeds 0,1,2")
    return seeds


def start_seeds(request: Request) -> None:
    """Start a run NAME-s<seed> for each seed, one after the other; all names are checked before the first one starts.

    What `auto` decides for the first run holds for all: they are to differ in nothing but the seed.
    """
    for option, given in (("--seed", request.flags.get("seed") is not None), ("--resume-from", request.resume_from)):
        if given:
            raise MlkitError(f"give --seeds or {option}, not both")
    preset = resolve_preset(request.preset, assignments=request.assignments, quick_test=request.quick_test).settings
    group = request.name or preset.preset
    check_run_name(group)
    runs_dir = Places().runs_dir
    if (runs_dir / group).exists():
        raise MlkitError(
            f"a run '{group}' exists in {runs_dir}, so its name cannot be that of a group; use --name {group}_seeds"
        )
    seeds = request.seeds[:1] if request.validate_only else request.seeds  # they differ in nothing that a check sees
    for seed in () if request.validate_only else seeds:
        refuse_taken(seed_run_name(group, seed), runs_dir)
    decided: dict[str, Any] = {}
    results = []
    for place, seed in enumerate(seeds):
        flags = {**request.flags, **decided, "seed": seed}
        try:
            started = start_run(replace(request, name=seed_run_name(group, seed), flags=flags), {"group": group})
        except MlkitError:
            if left := seeds[place + 1 :]:
                say(f"not started: the other seeds; later, the same command with --seeds {','.join(map(str, left))}")
            raise
        train = started.settings.train
        decided = {"train.precision": train.precision, "train.channels_last": train.channels_last}
        results.append(started.result)
    if request.as_json and all(results):
        print_json({"group": group, "runs": results})
