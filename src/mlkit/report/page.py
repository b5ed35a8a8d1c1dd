"""A comparison, or one run's history, as a page that needs nothing but itself: no network, no server.

The page is `templates/report.html` with its style sheet and script inside. What a page shows comes from files that
anybody may have written, so the template escapes everything and its policy lets nothing but its own script run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from mlkit import __version__
from mlkit.evaluation.comparison import Comparison
from mlkit.files import write_text
from mlkit.report.content import Keys, Shown, ShownImage, comparison_content, image_content, keys_of
from mlkit.report.pictures import BUDGET_BYTES, Packed, pack, write_files
from mlkit.report.tables import title
from mlkit.report.trainings import Model, ancestry, charts, repeats, settings_difference

PAGE = "index.html"


def write_page(
    folder: Path,
    *,
    comparison: Comparison | None,
    models: Sequence[Model],
    images: Sequence[ShownImage],
    command: str,
    heading_text: str = "",
    over_time: bool = False,
    missing: str = "",
    budget_bytes: int = BUDGET_BYTES,
) -> Path:
    """Write the page, and beside it the pictures that are too large for it; returns the page.

    Args:
        folder: of the page; a page that is there is replaced.
        comparison: None where the images have no scores.
        models: what is compared, in the order of the rows.
        images: the most telling one first.
        command: that wrote it.
        heading_text: instead of the names of the models.
        over_time: the models are checkpoints of one run, the earliest first; the page has a time line.
        missing: why there are no pictures.
        budget_bytes: of the pictures within the page.
    """
    keyed = [(image, keys_of(place, image)) for place, image in enumerate(images)]
    pictures = {key: one.picture for image, keys in keyed for key, one in _each(image, keys)}
    packed = pack(pictures, budget_bytes)
    html = _render(comparison, models, keyed, packed, command, heading_text, over_time, missing)
    write_files(folder, packed)
    write_text(folder / PAGE, html)  # last: a page that is there is whole
    return folder / PAGE


def _each(image: ShownImage, keys: Keys) -> list[tuple[str, Shown]]:
    return [
        *zip(keys["given"], image.given, strict=True),
        *zip(keys["made"], image.made, strict=True),
        *zip(keys["errors"], image.errors, strict=True),
    ]


def _render(
    comparison: Comparison | None,
    models: Sequence[Model],
    keyed: Sequence[tuple[ShownImage, Keys]],
    packed: Packed,
    command: str,
    heading_text: str,
    over_time: bool,
    missing: str,
) -> str:
    """Return the page."""
    from jinja2 import Environment, StrictUndefined

    def read(name: str) -> str:
        return (resources.files("mlkit.report") / "templates" / name).read_text(encoding="utf-8")

    style, script = read("report.css"), read("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    anchors = {image.id: f"image-{place + 1}" for place, (image, _) in enumerate(keyed)}
    return environment.from_string(read("report.html")).render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        title=heading_text or " vs ".join(model.name for model in models),
        subtitle=title(comparison).rpartition(": ")[2] if comparison else "",
        over_time=over_time,
        models=models,
        steps=[model.trainings[0].step for model in models],
        comparison=comparison_content(comparison, anchors, over_time) if comparison else None,
        charts=charts(models, comparison),
        images=[image_content(place, *one, comparison, packed, over_time) for place, one in enumerate(keyed)],
        sources=packed.sources,
        quality=packed.quality,
        beside=len(packed.files) > 0,
        missing=missing,
        settings=settings_difference(models),
        ancestry=ancestry(models),
        repeats=repeats(models),
        command=command,
    )


def _hash(text: str) -> str:
    """Return what the page's policy calls the inline text by which it is let through (CSP level 2)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
