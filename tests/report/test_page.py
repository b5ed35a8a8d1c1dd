"""A page needs nothing but itself, says what the comparison says, and runs nothing that a file of others holds."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlkit.report.content import Shown, ShownImage
from mlkit.report.pictures import MOST_PIXELS, Picture, error_map, pack, picture
from mlkit.report.trainings import models_of
from mlkit.report.words import findings
from pages import compared, make_page, shown_images

MakeRun = Callable[..., Path]


class Elements(HTMLParser):
    """Every element with its attributes, and the text of the page without scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def two(make_run: MakeRun) -> tuple[Path, Path]:
    return make_run("a"), make_run("b", gain_db=1.9)


def sources_of(page: str) -> dict[str, str]:
    found = re.search(r'<script type="application/json" id="sources">(.*?)</script>', page, re.S)
    assert found
    return dict(json.loads(found[1]))


def test_the_page_holds_verdict_scores_and_worst_images(two: tuple[Path, Path], tmp_path: Path) -> None:
    comparison = compared(*two)
    text = make_page(tmp_path / "report", two).read_text(encoding="utf-8")
    told = " ".join(" ".join(Elements(text).text).split())
    improvement = comparison.rows[1].differences["psnr"].improvement
    assert "b better than a" in told
    assert f"+{improvement.mean:.2f} dB" in told
    assert f"95 % interval +{improvement.low:.2f} to +{improvement.high:.2f}" in told
    assert "All 24 images are better (sign-flip p <0.001)." in told
    for image in comparison.rows[1].worst:
        assert image.id in told and f"+{image.improvement:.2f}" in told
    assert "psnr|gray|v1" in told and "a" * 64 in told
    assert "mlkit compare a b" in told


def test_nothing_is_loaded_from_anywhere(two: tuple[Path, Path], tmp_path: Path) -> None:
    page = make_page(tmp_path / "report", two)
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    links = [one.get("src") or one.get("href") for _, one in elements.found]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    assert re.findall(r"https?://|//[a-z]+\.|@import|url\(", text) == []
    assert [path.name for path in page.parent.rglob("*")] == ["index.html"]


def test_the_policy_lets_only_the_pages_own_script_and_style_run(two: tuple[Path, Path], tmp_path: Path) -> None:
    text = make_page(tmp_path / "report", two).read_text(encoding="utf-8")
    policy = next(one["content"] for one in Elements(text).of("meta") if "http-equiv" in one)
    assert policy
    directives = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert directives["default-src"] == ["'none'"]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[directive] == [f"'sha256-{digest}'"]
    assert not [one for _, one in Elements(text).found if "style" in one or any(key.startswith("on") for key in one)]


def test_names_with_markup_stay_text(make_run: MakeRun, tmp_path: Path) -> None:
    bad = "<script>alert(1)<\\script>\"'&"
    ids = [f"{bad}{index}" for index in range(24)]
    runs = make_run("a", ids=ids), make_run("<b onclick='x'>", ids=ids, gain_db=1.0)
    comparison = compared(*runs)
    page = make_page(tmp_path / "report", runs, ids=ids[:2], command=f"mlkit {bad}", heading_text=bad, missing=bad)
    text = page.read_text(encoding="utf-8")
    elements = Elements(text)
    assert len(elements.of("script")) == 2 and not elements.of("b onclick='x'")
    assert all("onclick" not in attributes for _, attributes in elements.found)
    assert "<script>alert" not in text
    told = "".join(elements.text)
    assert ids[0] in told and "<b onclick='x'>" in told and f"mlkit {bad}" in told
    assert html.escape(comparison.ids[0]).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text


def test_every_control_and_picture_has_a_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    text = make_page(tmp_path / "report", two).read_text(encoding="utf-8")
    elements = Elements(text)
    assert all(one.get("alt") for one in elements.of("img"))
    assert all(one.get("aria-label") for _, one in elements.found if one.get("role") in ("slider", "img", "region"))
    assert elements.of("html")[0]["lang"] == "en"
    ids = [one["id"] for _, one in elements.found if "id" in one]
    assert len(ids) == len(set(ids))
    named = {one["aria-labelledby"] for _, one in elements.found if "aria-labelledby" in one}
    assert named <= set(ids)
    anchors = {one["href"] for one in elements.of("a") if (one.get("href") or "").startswith("#")}
    assert {anchor[1:] for anchor in anchors if anchor} <= set(ids)


def test_pictures_are_in_the_page_pixel_for_pixel_while_they_fit(two: tuple[Path, Path], tmp_path: Path) -> None:
    images = shown_images(["000000"], ["a", "b"])
    text = make_page(tmp_path / "report", two, images=images).read_text(encoding="utf-8")
    sources = sources_of(text)
    made = base64.b64decode(sources["001-made-2"].removeprefix("data:image/png;base64,"))
    assert made == images[0].made[1].picture.png
    assert {one["data-key"] for one in Elements(text).of("img")} <= set(sources)


def test_pictures_that_do_not_fit_are_smaller_ones_with_the_exact_files_beside() -> None:
    pictures = {f"{index:03d}-made-1": picture(_photo(index)) for index in range(6)}
    whole = sum(len(one.png) for one in pictures.values())
    packed = pack(pictures, budget_bytes=whole // 4)
    shown = sum(len(base64.b64decode(uri.partition(",")[2])) for uri in packed.sources.values())
    assert packed.quality is not None and shown <= whole // 4
    assert all(uri.startswith("data:image/webp") for uri in packed.sources.values())
    assert {packed.exact[key] for key in pictures} == set(packed.files)
    assert packed.files["images/000-made-1.png"] == pictures["000-made-1"].png
    assert pack(pictures, budget_bytes=whole).quality is None


def _photo(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (96, 96, 3)), axis=0), axis=1)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def test_what_fits_at_no_quality_and_what_is_large_lie_beside() -> None:
    small = {f"{index:03d}-made-1": picture(np.random.default_rng(index).random((64, 64, 3))) for index in range(4)}
    packed = pack(small, budget_bytes=6_000)
    inside = [key for key, uri in packed.sources.items() if uri.startswith("data:")]
    assert 0 < len(inside) < 4 and inside == list(small)[: len(inside)], "the first ones are in the page"
    assert packed.sources["003-made-1"] == "images/003-made-1.png"
    large = Picture(b"png", 2000, MOST_PIXELS // 2000 + 1)
    assert pack({"001-made-1": large}).sources == {"001-made-1": "images/001-made-1.png"}


def test_files_beside_a_page_follow_it_and_others_are_left(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "report"
    make_page(folder, two, budget_bytes=0)
    (folder / "images" / "mine.png").write_bytes(b"mine")
    (folder / "notes.txt").write_text("mine")
    page = make_page(folder, two, ids=["000000"], budget_bytes=0)
    names = sorted(path.name for path in (folder / "images").iterdir())
    assert [name for name in names if not name.startswith("001-")] == ["mine.png"]
    sources = sources_of(page.read_text(encoding="utf-8"))
    assert {f"images/{name}" for name in names if name != "mine.png"} == set(sources.values())
    make_page(folder, two)
    assert sorted(path.name for path in folder.rglob("*")) == ["images", "index.html", "mine.png", "notes.txt"]


def test_the_error_map_is_eight_times_the_largest_channel() -> None:
    truth = np.zeros((1, 3, 3), np.float32)
    made = np.array([[[0, 0, 0], [0.05, 0, 0.01], [0, 0.2, 0]]], np.float32)
    black, middle, full = error_map(made, truth)[0]
    assert black.sum() < 0.05 and full.sum() > 2.5  # 0.2 x 8 is beyond the scale
    again = error_map(np.full((1, 1, 3), 0.05, np.float32), np.zeros((1, 1, 3), np.float32))
    assert np.array_equal(middle, again[0, 0]), "the largest of the channels counts"


def test_a_page_without_pictures_says_why(two: tuple[Path, Path], tmp_path: Path) -> None:
    text = make_page(tmp_path / "report", two, images=[], missing="the data are gone.").read_text(encoding="utf-8")
    assert "No pictures: the data are gone." in text
    assert not Elements(text).of("img")


def test_three_models_have_a_finding_each_and_name_the_correction(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", gain_db=1.9), make_run("c", gain_db=-1.0)]
    told = findings(compared(*runs))
    assert [(one.model, one.verdict) for one in told] == [("b", "better than a"), ("c", "worse than a")]
    text = make_page(tmp_path / "report", runs).read_text(encoding="utf-8")
    assert "p &lt;0.001, corrected for 2 comparisons" in text and "Holm" in text


def test_no_difference_is_said_with_what_could_have_been_shown(make_run: MakeRun) -> None:
    scores = np.random.default_rng(3).normal(30, 4, 24)
    other = scores + np.random.default_rng(4).normal(0, 0.5, 24)
    runs = make_run("a", scores={"psnr": scores.tolist()}), make_run("b", scores={"psnr": other.tolist()})
    comparison = compared(*runs)
    (told,) = findings(comparison)
    smallest = comparison.rows[1].differences["psnr"].smallest_shown
    assert told.verdict == "no difference to a shown"
    assert told.sentences[0].endswith(f"a difference of {smallest:.2f} dB or more in four cases of five.")


def test_few_images_are_told_to_be_few(make_run: MakeRun) -> None:
    (told,) = findings(compared(make_run("a", num=5), make_run("b", num=5, gain_db=2.0)))
    assert told.sentences[0] == "All 5 images are better (sign-flip p = 0.062). So few images cannot show a difference."


def test_a_single_result_stands_beside_the_truth(two: tuple[Path, Path], tmp_path: Path) -> None:
    one = picture(np.zeros((4, 4, 3), np.float32))
    image = ShownImage("x", [Shown("Mosaic", one), Shown("Truth", one)], [Shown("made", one, 0)], [])
    text = make_page(tmp_path / "report", two, images=[image], comparison=None).read_text(encoding="utf-8")
    chosen = [one for one in Elements(text).of("option") if "selected" in one]
    assert [one["value"] for one in chosen] == ["001-given-2", "001-made-1"]


def test_two_results_stand_side_by_side_and_what_else_models_draw_can_be_chosen(
    make_run: MakeRun, tmp_path: Path
) -> None:
    one = picture(np.zeros((4, 4, 3), np.float32))
    made = [Shown(title, one, place) for place, name in enumerate("abc") for title in (f"{name}: base", name)]
    runs = [make_run(name, gain_db=place) for place, name in enumerate("abc")]
    page = make_page(tmp_path / "report", runs, images=[ShownImage("x", [Shown("HR", one)], made, [])])
    options = Elements(page.read_text(encoding="utf-8")).of("option")
    assert [one["value"] for one in options if "selected" in one] == ["001-made-2", "001-made-4"]
    assert len(options) == 2 * 7


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_settings_lineage_and_commands_are_told(make_run: MakeRun, tmp_path: Path) -> None:
    runs = make_run("a"), make_run("b", gain_db=1.0)
    for run, lr in zip(runs, (1e-3, 2e-3), strict=True):
        settings = {"seed": 1, "train": {"lr": lr, "steps": 500}, "tracking": {"every": len(run.name)}}
        change(run / "ckpt-500" / "checkpoint.json", settings=settings)
        change(run / "run.json", command=f"mlkit train --name {run.name}", git_commit="abc123")
        change(run / "run.json", versions={"torch": "2"})
    change(runs[1] / "run.json", lineage={"parent": str(runs[0] / "ckpt-500")})
    told = " ".join(" ".join(Elements(make_page(tmp_path / "report", runs).read_text(encoding="utf-8")).text).split())
    assert "train.lr 0.001 0.002" in told and "train.steps" not in told and "tracking.every" not in told
    assert "a ckpt-500 → b ckpt-500" in told
    assert "mlkit train --name b" in told and "commit abc123" in told and "torch 2" in told
    assert [one.trainings[0].ancestors for one in models_of(compared(*runs))] == [(), [("a", "ckpt-500")]]


def test_curves_have_the_mean_of_the_seeds_and_what_they_span(make_run: MakeRun, tmp_path: Path) -> None:
    from mlkit.evaluation.comparison import Candidate, Group, compare_checkpoints
    from mlkit.report.trainings import charts

    runs = [make_run(name) for name in ("g-s0", "g-s1", "other")]
    for offset, run in enumerate(runs):
        rows = [{"step": step, "loss": 1.0 + offset + step / 100} for step in (10, 20, 30)]
        rows += [{"step": step, "split": "validation", "psnr": 20.0 + offset + step} for step in (10, 20)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4')
    group = Group("g", [Candidate(run.name, run / "ckpt-500") for run in runs[:2]])
    comparison = compare_checkpoints([group, Candidate("other", runs[2] / "ckpt-500")])
    loss, psnr = charts(models_of(comparison), comparison)
    assert [one.name for one in loss.series] == ["g", "other"]
    assert loss.summary == "Training loss over steps. g ends at 1.8000; other ends at 3.3000."
    assert loss.series[0].band and not loss.series[1].band
    assert [text for _, _, text in psnr.series[0].dots] == ["g, step 10: 30.50 dB", "g, step 20: 40.50 dB"]
    heights = [float(point.split(",")[1]) for point in loss.series[0].line.split()]
    assert heights == sorted(heights, reverse=True), "what rises goes up, which is down in a picture"


def test_writing_a_page_imports_no_torch(two: tuple[Path, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import pages\n"
        f"runs = [Path({str(two[0])!r}), Path({str(two[1])!r})]\n"
        f"pages.make_page(Path({str(tmp_path / 'report')!r}), runs)\n"
        "print({'torch', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"


def test_a_picture_holds_the_rounded_values(tmp_path: Path) -> None:
    exact = picture(np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3))
    path = tmp_path / "one.png"
    path.write_bytes(exact.png)
    with Image.open(path) as image:
        read = np.asarray(image)
    assert np.array_equal(read, np.rint(np.linspace(0, 1, 48).reshape(4, 4, 3) * 255).astype(np.uint8))
