"""The data's part of a rehearsal: files, headers, contents, samples, near-duplicates, the user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.commands.rehearsal_table import Found, Items
from mlkit.data.checking import DataChecks, changed_files, sample_pictures, sample_problems
from mlkit.data.duplicates import near_duplicates
from mlkit.data.limit import Limit, Tick
from mlkit.data.manifest import DatasetManifest
from mlkit.task import Task, checks_of, training_source

if TYPE_CHECKING:
    from mlkit.data.source import Source

# Seconds for each of them; what is not looked at by then is told.
_HASHES_S, _HEADERS_S, _CONTENTS_S, _SAMPLES_S, _OWN_S, _PICTURES_S = 8.0, 5.0, 4.0, 3.0, 3.0, 5.0


def check_data(items: Items, task: Task, data: DatasetManifest) -> bool:
    """Check a dataset item by item; returns whether nothing is wrong."""
    seed = task.settings.seed
    sources: dict[str, Source] = {"train": training_source(task, data), "validation": task.eval_source(data)}
    found: list[DataChecks] = []

    def headers(tick: Tick) -> Found:
        found.append(checks_of(task, data))
        if found[0].headers is None:
            return Found("nothing that its files' sizes do not say")
        limit = Limit(_HEADERS_S, tick)
        problems = list(found[0].headers(limit))
        return Found(limit.told, problems)

    def contents(tick: Tick) -> Found:
        assert found[0].contents is not None
        limit = Limit(_CONTENTS_S, tick)
        problems = list(found[0].contents(limit))
        return Found(limit.told, problems)

    def hashes(tick: Tick) -> Found:
        limit = Limit(_HASHES_S, tick)
        problems = list(changed_files(data, limit))
        return Found(f"{limit.told} files are as they were built", problems)

    def samples(tick: Tick) -> Found:
        problems, told = [], []
        for part, source in sources.items():
            limit = Limit(_SAMPLES_S, tick)
            problems += list(sample_problems(found[0], data, part, source, seed, limit))
            told.append(f"{limit.told} {part}")
        return Found(", ".join(told), problems)

    def duplicates(tick: Tick) -> Found:
        limit = Limit(_PICTURES_S, tick)
        make = found[0].pictures
        pictures = make(limit) if make else sample_pictures(found[0], data, sources, seed, limit)
        pairs = near_duplicates(pictures, limit=(search := Limit(_PICTURES_S)))
        problems = [
            f"{pair.train} is in the training part, and nearly the same in the "
            f"validation part (correlation {pair.correlation:.2f}): {pair.validation}; scores would praise memory"
            for pair in pairs
        ]
        told = f"{limit.told} pictures" + (f", {search.told} compared" if search.done < search.total else "")
        return Found(f"none among {told}, mirrored and turned copies too", problems)

    good = [items.do("hashes", hashes), items.do("headers", headers)]
    if found and found[0].contents:
        good.append(items.do("contents", contents))
    if found:
        good += [items.do("samples", samples), items.do("near-duplicates", duplicates)]
    if task.settings.checkpoint.eval_images_dir is not None:
        good.append(items.do("own images", lambda tick: _own_images(task, data, tick)))
    return all(good)


def _own_images(task: Task, data: DatasetManifest, tick: Tick) -> Found:
    from mlkit.imaging.images import list_images

    settings = task.settings.checkpoint
    assert settings.eval_images_dir is not None
    paths = list_images(Path(settings.eval_images_dir), task.image_suffixes)
    upscale, multiple = settings.eval_input_upscale, settings.eval_fit_multiple
    source = task.images_source(data, paths, upscale=upscale, fit_multiple=multiple)
    limit = Limit(_OWN_S, tick)
    problems = list(sample_problems(DataChecks(), data, "own", source, task.settings.seed, limit))
    return Found(f"{limit.told} of {settings.eval_images_dir}", problems)
