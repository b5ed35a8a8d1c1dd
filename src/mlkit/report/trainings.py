"""What a page says of the trainings behind its models: their files, settings, curves, and how to repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlkit.evaluation.comparison import Comparison
from mlkit.files import read_json
from mlkit.metrics import METRICS
from mlkit.preset_files import flatten
from mlkit.report.charts import Chart, Line, curve_chart
from mlkit.report.tables import main_metrics
from mlkit.runs.curves import TRAINING_LOSS, Curve, band, curves
from mlkit.runs.folders import RUN_FORMAT
from mlkit.runs.records import lineage, read_record, records

_ASIDE = ("seed", "tracking.", "checkpoint.")  # what makes no difference to the model's quality, or is shown elsewhere


@dataclass(frozen=True, slots=True)
class Training:
    """One run, as its folder and its checkpoint tell of it."""

    name: str
    checkpoint: str
    step: int
    about: Mapping[str, Any]  # run.json; empty for a checkpoint outside a run
    settings: Mapping[str, Any]  # by dotted key
    curves: Mapping[str, Curve]
    ancestors: Sequence[tuple[str, str]] = field(default_factory=tuple)  # (run, checkpoint), the oldest first

    @property
    def seed(self) -> Any:
        return self.settings.get("seed")


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the comparison with its trainings, several where they differ in the seed."""

    name: str
    trainings: Sequence[Training]


def read_training(name: str, checkpoint: Path) -> Training:
    """Return what a checkpoint and the run around it say; a checkpoint outside a run says less."""
    info = json.loads((checkpoint / "checkpoint.json").read_bytes())
    run = checkpoint.absolute().parent
    is_run = (run / "run.json").is_file()
    about = read_json(run / "run.json", "run", RUN_FORMAT) if is_run else {}
    known = {one.name: one for one in records(run.parent)} if (about.get("lineage") or {}).get("parent") else {}
    return Training(
        name=name,
        checkpoint=checkpoint.name,
        step=int(info["step"]),
        about=about,
        settings=flatten(info.get("settings") or {}),
        curves=curves(run),
        ancestors=lineage(read_record(run), known) if known else (),
    )


def models_of(comparison: Comparison) -> list[Model]:
    """Return the trainings behind each row."""
    found = []
    for row in comparison.rows:
        members = (
            zip(row.seeds.names, row.seeds.checkpoints, strict=True) if row.seeds else [(row.name, row.checkpoint)]
        )
        found.append(Model(row.name, [read_training(name, folder) for name, folder in members]))
    return found


def charts(models: Sequence[Model], comparison: Comparison | None) -> list[Chart]:
    """Return the training loss and the main scores over steps, with what the seeds span; one line for a run that
    several models are checkpoints of."""
    runs = [tuple(str(one.about.get("id") or one.name) for one in model.trainings) for model in models]
    drawn: dict[tuple[str, ...], tuple[str, int, Sequence[Training]]] = {}
    for colour, (model, own) in enumerate(zip(models, runs, strict=True)):
        run = str(model.trainings[0].about.get("name") or model.name)
        drawn.setdefault(own, (run if runs.count(own) > 1 else model.name, colour, model.trainings))
    found = []
    for key in (TRAINING_LOSS, *(main_metrics(comparison) if comparison else ())):
        metric = METRICS.get(key)
        of_models = [
            Line(name, colour if len(drawn) > 1 else 1, band([one.curves[key] for one in trainings]))
            for name, colour, trainings in drawn.values()
            if all(key in one.curves for one in trainings)
        ]
        title = metric.name if metric else "Training loss"
        chart = curve_chart(title, metric.unit if metric else "", of_models, metric.decimals if metric else 4)
        if chart:
            found.append(chart)
    return found


def settings_difference(models: Sequence[Model]) -> list[tuple[str, list[str]]]:
    """Return (key, value of each model) of the settings in which models differ."""
    all_settings = [model.trainings[0].settings for model in models]
    keys = sorted({key for settings in all_settings for key in settings})
    return [
        (key, [_text(settings.get(key)) for settings in all_settings])
        for key in keys
        if not key.startswith(_ASIDE)
        and any(settings.get(key) != all_settings[0].get(key) for settings in all_settings)
    ]


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """How to make one training again."""

    name: str
    facts: Sequence[tuple[str, str]]
    command: str


def repeats(models: Sequence[Model]) -> list[Repeat]:
    """Return how to make each run again, once; runs that one command made stand together."""
    by_command: dict[str, dict[str, Training]] = {}
    for training in (one for model in models for one in model.trainings):
        name = str(training.about.get("name") or training.name)
        by_command.setdefault(str(training.about.get("command") or name), {}).setdefault(name, training)
    found = []
    for command, trainings in by_command.items():
        told: dict[str, list[str]] = {}
        for training in trainings.values():
            for key, text in _facts(training.about):
                told.setdefault(key, []).append(text)
        facts = [(key, ", ".join(dict.fromkeys(texts))) for key, texts in told.items()]
        names = list(trainings)
        found.append(Repeat(", ".join(names), facts, "" if command == names[0] else command))
    return found


def _facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a repetition needs besides the command."""
    versions = ", ".join(f"{key} {value}" for key, value in (about.get("versions") or {}).items())
    facts = [
        ("began", str(about.get("created") or "")),
        ("commit", str(about.get("git_commit") or "")),
        ("versions", versions),
        ("Python", str(about.get("python") or "")),
        ("machine", str(about.get("machine") or "")),
        ("data", _data(about)),
        ("run id", str(about.get("id") or "")),
    ]
    return [(key, text) for key, text in facts if text]


def _data(about: Mapping[str, Any]) -> str:
    label = f" ({about['dataset_label']})" if about.get("dataset_label") else ""
    return f"sha256 {about['dataset_sha256']}{label}" if about.get("dataset_sha256") else ""


def ancestry(models: Sequence[Model]) -> list[list[str]]:
    """Return the way to each model: the runs it began from, the oldest first, and itself last."""
    ways: dict[str, list[str]] = {}
    for training in (one for model in models for one in model.trainings):
        before = [f"{run} {checkpoint}".strip() for run, checkpoint in training.ancestors]
        own = f"{training.about.get('name') or training.name} {training.checkpoint}"
        ways.setdefault(own, [*before, own])
    return list(ways.values())
