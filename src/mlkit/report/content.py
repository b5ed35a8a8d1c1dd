"""What the template shows: a comparison and its images as plain values, numbers as the text that stands in the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlkit.evaluation.comparison import Comparison
from mlkit.evaluation.statistics import improvements
from mlkit.imaging.grids import TRUTH_TITLES
from mlkit.metrics import BETTER_TEXT, METRICS
from mlkit.report.charts import interval_bar, scatter_chart
from mlkit.report.pictures import Packed, Picture
from mlkit.report.tables import footnotes, further_tables, main_metrics
from mlkit.report.values import format_count, format_p, format_value, heading, with_interval
from mlkit.report.words import findings


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of an image."""

    title: str
    picture: Picture
    model: int | None = None  # of which model; None for what all are given


@dataclass(frozen=True, slots=True)
class ShownImage:
    """What is shown of an image: what all are given, what each model makes of it, and where it is wrong."""

    id: str
    given: Sequence[Shown]
    made: Sequence[Shown]
    errors: Sequence[Shown]
    note: str = ""  # where there is no comparison to tell its scores


Keys = Mapping[str, Sequence[str]]  # of the pictures of an image, by given, made, errors


def keys_of(place: int, image: ShownImage) -> Keys:
    """Return the names of an image's pictures."""
    parts = {"given": image.given, "made": image.made, "errors": image.errors}
    return {
        part: [f"{place + 1:03d}-{part}-{index + 1}" for index in range(len(those))] for part, those in parts.items()
    }


def comparison_content(comparison: Comparison, anchors: dict[str, str], over_time: bool) -> dict[str, Any]:
    """Return what the template shows of a comparison; over time the last checkpoint alone has a section."""
    keys, rows = _shown_metrics(comparison), comparison.rows
    places = range(1, len(rows))[-1:] if over_time else range(1, len(rows))
    return {
        "first": rows[0].name,
        "findings": findings(comparison)[-1:] if over_time else findings(comparison),
        "metrics": [{"name": heading(key), "better": BETTER_TEXT[METRICS[key].better]} for key in keys],
        "models": [
            {
                "name": row.name,
                "parameters": format_count(row.parameters),
                "step": f"{row.step:,}",
                "seeds": len(row.seeds.names) if row.seeds else 1,
                "cells": [format_value(key, row.means[key]) for key in keys],
                "verdicts": [row.differences[key].verdict if row.differences else "" for key in keys],
            }
            for row in rows
        ],
        "against": [
            {
                "name": rows[place].name,
                "colour": place,
                "comparisons": len(rows) - 1,
                "lines": [_line(key, comparison, place) for key in keys],
                "scatter": scatter_chart(comparison, rows[place], anchors),
                "worst": [
                    {
                        "id": image.id,
                        "anchor": anchors.get(image.id, ""),
                        "first": format_value(comparison.main, image.first),
                        "other": format_value(comparison.main, image.other),
                        "improvement": format_value(comparison.main, image.improvement, signed=True),
                        "kind": "better" if image.improvement > 0 else "worse" if image.improvement < 0 else "same",
                    }
                    for image in rows[place].worst
                ],
            }
            for place in places
        ],
        "main": heading(comparison.main),
        "criteria": [
            {
                "model": row.name,
                "sentence": judged.sentence,
                "result": {True: "pass", False: "fail", None: "not judged"}[judged.passed],
                "found": judged.reason
                if judged.value is None
                else format_value(judged.metric, judged.value, unit=True),
            }
            for row in rows
            for judged in row.criteria
        ],
        "tables": further_tables(comparison),
        "notes": footnotes(comparison),
        "signatures": [
            {"name": METRICS[key].name, "better": BETTER_TEXT[METRICS[key].better], "signature": text,
             "summary": METRICS[key].summary}
            for key, text in comparison.signatures.items()
        ],
        "dataset": comparison.dataset_sha256,
        "protocol": comparison.protocol,
    }  # fmt: skip


def _shown_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics of the tables, the main one first."""
    keys = main_metrics(comparison)
    return [comparison.main, *(key for key in keys if key != comparison.main)]


def _line(key: str, comparison: Comparison, place: int) -> dict[str, Any]:
    """Return a metric of one model against the first."""
    row, first = comparison.rows[place], comparison.rows[0]
    found = row.differences[key]
    images = max(1, found.wins + found.ties + found.losses)
    return {
        "metric": heading(key),
        "better": BETTER_TEXT[METRICS[key].better],
        "is_main": key == comparison.main,
        "first": format_value(key, first.means[key]),
        "other": format_value(key, row.means[key]),
        "improvement": with_interval(key, found.improvement, signed=True),
        "bar": interval_bar(found),
        "verdict": found.verdict,
        "kind": {"better": "better", "worse": "worse"}.get(found.verdict, "same"),
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
        "shares": [round(100 * count / images, 2) for count in (found.wins, found.ties, found.losses)],
        "p": format_p(found.p_holm),
        "smallest": format_value(key, found.smallest_shown),
    }


def image_content(
    place: int, image: ShownImage, keys: Keys, comparison: Comparison | None, packed: Packed, over_time: bool
) -> dict[str, Any]:
    """Return what the template shows of an image."""
    made = _pictures(keys["made"], image.made, packed)
    choices = [*_pictures(keys["given"], image.given, packed), *made]
    results = list({one["model"]: one for one in made}.values())  # the last picture of a model is its result
    return {
        "anchor": f"image-{place + 1}",
        "id": image.id,
        "choices": choices,
        "left": _truth(choices) if over_time or len(results) == 1 else results[0],
        "right": results[-1] if over_time else results[:2][-1],
        "errors": _pictures(keys["errors"], image.errors, packed),
        "note": image.note,
        "scores": _scores(comparison, image.id) if comparison else [],
        "gain": _gain(comparison, image.id, over_time) if comparison else None,
    }


def _pictures(keys: Sequence[str], shown: Sequence[Shown], packed: Packed) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "title": one.title,
            "model": one.model,
            "width": one.picture.width,
            "height": one.picture.height,
            "exact": packed.exact.get(key, ""),
        }
        for key, one in zip(keys, shown, strict=True)
    ]


def _truth(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the picture that a single result is set beside: the truth where there is one."""
    named = {choice["title"]: choice for choice in reversed(choices)}
    return next((named[title] for title in TRUTH_TITLES if title in named), choices[0])


def _scores(comparison: Comparison, image: str) -> list[dict[str, Any]]:
    """Return the scores of an image by metric, with the protocol of each."""
    if image not in comparison.ids:
        return []
    place = list(comparison.ids).index(image)
    return [
        {
            "metric": heading(key),
            "signature": comparison.signatures[key],
            "values": [format_value(key, float(row.values[key][place])) for row in comparison.rows],
        }
        for key in _shown_metrics(comparison)
    ]


def _gain(comparison: Comparison, image: str, over_time: bool) -> dict[str, str] | None:
    """Return the least improvement of an image over all models, or that of the last checkpoint, for its heading."""
    if image not in comparison.ids:
        return None
    place, key = list(comparison.ids).index(image), comparison.main
    first, others = comparison.rows[0].values[key], comparison.rows[1:]
    gains = [
        float(improvements(first, row.values[key], METRICS[key].better)[place])
        for row in (others[-1:] if over_time else others)
    ]
    known = [gain for gain in gains if math.isfinite(gain)]
    if not known:
        return None
    least = min(known)
    text = f"{format_value(key, least, signed=True, unit=True)} {METRICS[key].name}"
    return {"text": text, "kind": "better" if least > 0 else "worse" if least < 0 else "same"}
