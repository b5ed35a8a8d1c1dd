"""`mlkit compare`: from names to tables, files and a picture; and everything that may not be compared."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mlkit.data.manifest import open_manifest, write_manifest
from mlkit.errors import DataError
from mlkit.imaging import grids

Mlkit = Callable[..., Any]
MakeRun = Callable[..., Path]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]
Rendered = list[tuple[list[tuple[str, Path]], list[str], Path]]

RESULTS = {"comparison.json", "comparison.md", "comparison.png"}


@pytest.fixture
def simulated(run: Path, dataset: Path, tmp_path: Path, edit: Callable[..., None]) -> None:
    """Let the run "first" have been trained on simulated data."""
    copy = shutil.copytree(dataset, tmp_path / "copied")
    manifest = open_manifest(copy)
    about = {key: getattr(manifest, key) for key in ("task", "preprocessing", "splits", "details")}
    write_manifest(copy, label="simulated", **about)
    edit(run / "run.json", dataset_dir=str(copy))
    for folder in (run / "ckpt-3", run / "ckpt-6"):
        edit(folder / "checkpoint.json", dataset_sha256=open_manifest(copy).sha256)
        (folder / "eval.json").unlink()  # to be made again


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Rendered:
    """Pictures that were asked for: planted runs have no weights to draw them with."""
    calls: Rendered = []

    def render(checkpoints: list[tuple[str, Path]], ids: list[str], out: Path, data: Path | None) -> None:
        if len(checkpoints) > 2:
            raise DataError("the dataset is elsewhere")
        calls.append((checkpoints, ids, out))

    monkeypatch.setattr("mlkit.commands.opened.render_side_by_side", render)
    return calls


def stored_scores(checkpoint: Path) -> dict[str, np.ndarray[Any, Any]]:
    content = json.loads((checkpoint / "eval.json").read_text())
    return {key: np.array(values, float) for key, values in content["scores"].items()}


# ------------------------------------------------------------------------------------------ trained runs


def test_trained_runs_become_a_table_three_files_and_a_picture(
    mlkit: Mlkit, train: Mlkit, run: Path, runs: Path, files: Files
) -> None:
    assert train("--name", "second", "--lr", 1e-2, "--seed", 1).code == 0
    before = files(runs)
    said = mlkit("compare", "first", "second")
    folder = runs / "compare-first-vs-second"
    assert (said.code, said.err) == (0, f"written: {folder}\n")
    assert set(files(folder)) == RESULTS
    assert {name: content for name, content in files(runs).items() if "compare-" not in name} == before

    result = json.loads((folder / "comparison.json").read_text())
    chosen = [Path(row["checkpoint"]) for row in result["rows"]]
    assert chosen == [runs / name / (runs / name / "best").read_text().strip() for name in ("first", "second")]
    first, second = map(stored_scores, chosen)
    assert [row["name"] for row in result["rows"]] == ["first", "second"]
    assert result["num_images"] == len(first["psnr"]) >= 6
    for row, scores in zip(result["rows"], (first, second), strict=True):
        assert row["means"]["psnr"] == pytest.approx(np.mean(scores["psnr"]))
    found = result["rows"][1]["improvement_over_first"]
    assert found["psnr"]["mean"] == pytest.approx(np.mean(second["psnr"] - first["psnr"]))
    assert found["rmse_db"]["mean"] == pytest.approx(np.mean(first["rmse_db"] - second["rmse_db"]))  # lower is better
    assert found["psnr"]["low"] < found["psnr"]["mean"] < found["psnr"]["high"]

    lines = said.out.splitlines()
    assert lines[0] == f"first vs second: {result['num_images']} validation images"
    cells = next(line.split() for line in lines if line.strip().startswith("second "))
    assert cells[:4] == ["second", "21.1", "k", f"{np.mean(second['psnr']):.2f}"]
    verdict = found["psnr"]["verdict"]
    assert verdict in ("better", "worse", "no difference shown")
    assert next(line for line in lines if line.strip().startswith("PSNR [dB]")).count(verdict) == 1
    criteria = [line.split() for line in lines if "PSNR >= baseline + 1.5 dB" in line]
    assert criteria[0][-6:] == ["not", "judged", "this", "is", "the", "baseline"]
    passed = np.mean(second["psnr"]) - np.mean(first["psnr"]) >= 1.5
    assert criteria[1][7] == ("pass" if passed else "fail")
    page = (folder / "comparison.md").read_text()
    assert page.startswith(f"# {lines[0]}\n") and "| second | 21.1 k |" in page
    with Image.open(folder / "comparison.png") as picture:
        assert picture.width > 600 and picture.height > 200


def test_checkpoints_of_one_run_are_compared_by_their_names(
    mlkit: Mlkit, run: Path, tmp_path: Path, files: Files
) -> None:
    said = mlkit("compare", "fir/ckpt-3", run / "ckpt-6", "--out", tmp_path / "trend")
    assert (said.code, said.err) == (0, f"written: {tmp_path / 'trend'}\n")
    assert said.out.startswith("first/ckpt-3 vs first/ckpt-6: ")
    assert "Checkpoints: first/ckpt-3 at step 3, first/ckpt-6 at step 6." in said.out
    assert set(files(tmp_path / "trend")) == RESULTS


def test_run_compared_with_itself_is_no_difference(mlkit: Mlkit, run: Path, runs: Path) -> None:
    said = mlkit("compare", "first", "first", "--json")
    assert said.code == 0
    found = json.loads(said.out)["rows"][1]["improvement_over_first"]
    assert {key: (value["verdict"], value["mean"]) for key, value in found.items()} == dict.fromkeys(
        (
            "psnr",
            "rmse_db",
            "ssim",
            "enl_ratio",
            "epi",
            "psnr_wall",
            "psnr_over_wall",
            "enl_ratio_pooled_db",
            "epi_sobel_cosine",
        ),
        ("no difference shown", 0.0),
    )


def test_checkpoint_without_scores_is_evaluated_to_the_same_ones(mlkit: Mlkit, run: Path, runs: Path) -> None:
    before = stored_scores(run / "ckpt-6")
    (run / "ckpt-6" / "eval.json").unlink()
    said = mlkit("compare", "first/ckpt-3", "first/ckpt-6", "--no-picture")
    folder = runs / "compare-first-ckpt-3-vs-first-ckpt-6"
    told = f"evaluating {run / 'ckpt-6'}, which has no eval.json\nwritten: {folder}\n"
    assert (said.code, said.err) == (0, told)
    after = stored_scores(run / "ckpt-6")
    assert list(after) == list(before)
    assert np.allclose(after["psnr"], before["psnr"], atol=1e-4)
    assert not (folder / "comparison.png").exists()


def test_moved_data_cost_the_picture_and_not_the_numbers(
    mlkit: Mlkit, run: Path, runs: Path, dataset: Path, tmp_path: Path, edit: Callable[..., None], files: Files
) -> None:
    edit(run / "run.json", dataset_dir=str(tmp_path / "gone"))
    folder = runs / "compare-first-vs-first"
    folder.mkdir()
    (folder / "comparison.png").write_bytes(b"of an older comparison")
    told = f"the dataset of run first is no longer at {tmp_path / 'gone'}; say where it lies now with --data"
    said = mlkit("compare", "first", "first")
    assert said.code == 0
    assert said.err == f"warning: no side-by-side picture: {told}\nwritten: {folder}\n"
    assert set(files(folder)) == RESULTS - {"comparison.png"}
    assert mlkit("compare", "first", "first", "--data", dataset).err == f"written: {folder}\n"
    assert set(files(folder)) == RESULTS


def test_scores_that_cannot_be_made_are_refused_and_nothing_is_written(
    mlkit: Mlkit, run: Path, runs: Path, tmp_path: Path, edit: Callable[..., None], files: Files
) -> None:
    edit(run / "run.json", dataset_dir=str(tmp_path / "gone"))
    (run / "ckpt-6" / "eval.json").unlink()
    before = files(runs)
    said = mlkit("compare", "first/ckpt-3", "first/ckpt-6")
    assert (said.code, said.out) == (4, "")
    assert said.err == (
        f"evaluating {run / 'ckpt-6'}, which has no eval.json\n"
        f"mlkit: the dataset of run first is no longer at {tmp_path / 'gone'}; say where it lies now with --data\n"
    )
    assert files(runs) == before


def test_simulated_data_are_called_so_in_the_title_of_the_table_and_of_the_picture(
    mlkit: Mlkit, run: Path, runs: Path, simulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    headings: list[str] = []
    real = grids.comparison_grid

    def compose(rows: Any, *, heading: str = "", **more: Any) -> Any:
        headings.append(heading)
        return real(rows, heading=heading, **more)

    monkeypatch.setattr(grids, "comparison_grid", compose)
    said = mlkit("compare", "first/ckpt-3", "first/ckpt-6")
    title = "first/ckpt-3 vs first/ckpt-6: 8 validation images (simulated)"
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == title
    page = runs / "compare-first-ckpt-3-vs-first-ckpt-6" / "comparison.md"
    assert page.read_text().splitlines()[0] == f"# {title}"
    assert headings == ["first/ckpt-3 vs first/ckpt-6  (simulated data)"]


def test_checkpoints_handed_on_without_their_run_are_compared_by_their_scores(
    mlkit: Mlkit, run: Path, tmp_path: Path
) -> None:
    for step in (3, 6):
        shutil.copytree(run / f"ckpt-{step}", tmp_path / "handed" / f"ckpt-{step}")
    handed = ("compare", "handed/ckpt-3", "handed/ckpt-6", "--out", "results")
    assert mlkit(*handed, "--no-picture").code == 0
    said = mlkit(*handed)
    first = tmp_path / "handed" / "ckpt-3"
    unknown = f"checkpoint {first} lies outside a run, so its dataset is unknown; give --data"
    assert (said.code, said.err) == (0, f"warning: no side-by-side picture: {unknown}\nwritten: results\n")
    (first / "eval.json").unlink()
    said = mlkit(*handed)
    assert (said.code, said.out) == (4, "")
    assert said.err == f"evaluating {first}, which has no eval.json\nmlkit: {unknown}\n"


def test_a_page_shows_what_the_models_make_of_the_worst_images(
    mlkit: Mlkit, run: Path, runs: Path, tmp_path: Path, files: Files
) -> None:
    given = ("--html", tmp_path / "page", "--images", 3, "--out", tmp_path / "out")
    said = mlkit("compare", "first/ckpt-3", "first/ckpt-6", *given)
    page = tmp_path / "page" / "index.html"
    assert (said.code, said.err) == (0, f"page: {page}\nwritten: {tmp_path / 'out'}\n")
    assert set(files(tmp_path / "page")) == {"index.html"}
    text = page.read_text(encoding="utf-8")
    gains = stored_scores(run / "ckpt-6")["psnr"] - stored_scores(run / "ckpt-3")["psnr"]
    ids = json.loads((run / "ckpt-6" / "eval.json").read_text())["ids"]
    order = [ids[index] for index in np.argsort(gains, kind="stable")]
    assert re.findall(r'<h3 id="image-\d+-title"><a href="#image-\d+">([^<]+)</a>', text) == [*order[:2], order[-1]]
    maps = re.findall(r"<figcaption>([^<]+)</figcaption>", text)
    assert [one.partition(",")[0] for one in maps[:2]] == [f"|difference| (dB) of first/ckpt-{step}" for step in (3, 6)]
    assert "mlkit compare first/ckpt-3 first/ckpt-6 --html" in text
    assert text.count("<option") == 3 * 2 * 3  # three images, two sides: original and two results


def test_a_page_without_the_data_has_everything_but_the_pictures(
    mlkit: Mlkit, run: Path, runs: Path, tmp_path: Path, edit: Callable[..., None]
) -> None:
    edit(run / "run.json", dataset_dir=str(tmp_path / "gone"))
    said = mlkit("compare", "first/ckpt-3", "first/ckpt-6", "--html", tmp_path / "page")
    told = f"the dataset of run first is no longer at {tmp_path / 'gone'}; say where it lies now with --data"
    assert said.code == 0 and f"warning: no pictures in the page: {told}\n" in said.err
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert f"No pictures: {told}." in text and "Training loss" in text
    assert mlkit("compare", "first", "first", "--no-picture", "--html", tmp_path / "other").code == 0
    assert "No pictures: --no-picture was given." in (tmp_path / "other" / "index.html").read_text(encoding="utf-8")


def test_a_page_is_a_folder(mlkit: Mlkit, make_run: MakeRun, refused: Refused) -> None:
    make_run("a")
    told = "--html report.html is a file; give a folder for the page: --html report"
    assert mlkit("compare", "a", "a", "--html", "report.html") == refused(2, told)


# ------------------------------------------------------------------------------------- runs of set scores


def test_prefix_names_a_run_and_the_picture_is_asked_for(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered
) -> None:
    make_run("baseline")
    make_run("residual_v1_c16", gain_db=1.9)
    said = mlkit("compare", "baseline", "res")
    folder = runs / "compare-baseline-vs-residual_v1_c16"
    assert said.code == 0
    assert "better" in said.out
    assert json.loads((folder / "comparison.json").read_text())["rows"][1]["name"] == "residual_v1_c16"
    assert "| residual_v1_c16 |" in (folder / "comparison.md").read_text()
    ((checkpoints, ids, out),) = rendered
    assert checkpoints == [(name, runs / name / "ckpt-500") for name in ("baseline", "residual_v1_c16")]
    assert (len(ids), out) == (4, folder / "comparison.png")


def test_six_images_give_an_interval_and_five_do_not(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered
) -> None:
    for num in (5, 6):
        make_run(f"a{num}", num=num)
        make_run(f"b{num}", num=num, gain_db=2.0)
    few, enough = (json.loads(mlkit("compare", f"a{num}", f"b{num}", "--json").out) for num in (5, 6))
    found = [result["rows"][1]["improvement_over_first"]["psnr"] for result in (few, enough)]
    assert (found[0]["low"], found[0]["verdict"]) == (None, "no difference shown")
    assert few["notes"] == ["5 images are too few: no difference can be shown with less than 6"]
    # 0.1 dB of scatter around a gain of 2 dB: six pairs are enough
    assert 1.5 < found[1]["low"] < found[1]["mean"] < found[1]["high"] < 2.5
    assert (found[1]["verdict"], enough["notes"]) == ("better", [])


def test_json_alone_goes_to_stdout(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, tmp_path: Path, rendered: Rendered
) -> None:
    make_run("a")
    deep = tmp_path / "new" / "deep"
    said = mlkit("compare", "a", "a", "--json", "--out", deep, "--no-picture")
    assert [row["name"] for row in json.loads(said.out)["rows"]] == ["a", "a (2)"]
    assert json.loads(said.out) == json.loads((deep / "comparison.json").read_text())
    assert said.err == f"written: {deep}\n"
    assert rendered == []


def test_runs_lie_where_the_option_says(
    mlkit: Mlkit, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered: Rendered
) -> None:
    runs = make_run("a").parent
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "elsewhere"))
    assert mlkit("compare", "a", "a").code == 2
    assert mlkit("compare", "a", "a", "--runs-dir", runs).code == 0
    assert (runs / "compare-a-vs-a" / "comparison.json").is_file()


def test_numbers_stand_when_the_picture_of_three_fails(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered
) -> None:
    for name in "abc":
        make_run(name)
    said = mlkit("compare", "a", "b", "c")
    folder = runs / "compare-a-vs-b-vs-c"
    told = f"warning: no side-by-side picture: the dataset is elsewhere\nwritten: {folder}\n"
    assert (said.code, said.err) == (0, told)
    assert (folder / "comparison.json").is_file()


def test_comparing_scores_on_disk_loads_no_model(make_run: MakeRun) -> None:
    runs = make_run("a").parent
    # Typer reads options with pydantic from 0.29 on: what mlkit itself loads is told by calling the command.
    code = (
        "import sys; from pathlib import Path; from mlkit.commands.compare import compare\n"
        f"compare(['a', 'a'], as_json=True, picture=False, runs_dir=Path({str(runs)!r}))\n"
        "print({'torch', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "set()"


def test_every_checkpoint_of_a_run_is_compared_with_its_first(mlkit: Mlkit, run: Path, runs: Path) -> None:
    said = mlkit("compare", "first", "--checkpoints", "all", "--no-picture")
    folder = runs / "compare-first-over-time"
    assert (said.code, said.err) == (0, f"written: {folder}\n")
    result = json.loads((folder / "comparison.json").read_text())
    assert [(row["name"], row["step"]) for row in result["rows"]] == [("first/ckpt-3", 3), ("first/ckpt-6", 6)]
    assert result["main_metric"] == "psnr"


def test_a_group_of_seeds_over_time_is_one_model_at_each_step(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered, edit: Callable[..., None]
) -> None:
    for seed, gain in ((0, 0.0), (1, 1.0)):
        run = make_run(f"pair-s{seed}", gain_db=gain)
        edit(run / "run.json", group="pair")
        later = shutil.copytree(run / "ckpt-500", run / "ckpt-900")
        scores = json.loads((later / "eval.json").read_text())["scores"]
        edit(later / "eval.json", step=900, scores={"psnr": [value + 2.0 for value in scores["psnr"]]})
    shutil.copytree(runs / "pair-s0" / "ckpt-500", runs / "pair-s0" / "ckpt-700")  # which the other run has not
    result = json.loads(mlkit("compare", "pair", "--checkpoints", "all", "--json").out)
    assert [row["name"] for row in result["rows"]] == ["pair/ckpt-500", "pair/ckpt-900"]
    assert [len(row["seeds"]["runs"]) for row in result["rows"]] == [2, 2]
    assert result["rows"][1]["improvement_over_first"]["psnr"]["mean"] == pytest.approx(2.0)
    assert (runs / "compare-pair-over-time" / "comparison.md").is_file()


def test_the_worst_images_come_first_in_every_form(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered
) -> None:
    a, b = make_run("a"), make_run("b", gain_db=0.5)
    gains = stored_scores(b / "ckpt-500")["psnr"] - stored_scores(a / "ckpt-500")["psnr"]
    said = mlkit("compare", "a", "b")
    worst = json.loads((runs / "compare-a-vs-b" / "comparison.json").read_text())["rows"][1]["worst_images"]
    assert [one["id"] for one in worst] == [f"{index:06d}" for index in np.argsort(gains)[:10]]
    assert [one["improvement"] for one in worst] == pytest.approx(sorted(gains)[:10])
    told = said.out[said.out.index("Worst images of b: PSNR [dB]") :]
    assert [line.split()[0] for line in told.splitlines()[4:14]] == [one["id"] for one in worst]


def test_three_models_are_two_comparisons(mlkit: Mlkit, make_run: MakeRun, rendered: Rendered) -> None:
    for name, gain in (("a", 0.0), ("b", 2.0), ("c", 2.0)):
        make_run(name, gain_db=gain, num=6)
    result = json.loads(mlkit("compare", "a", "b", "c", "--json").out)
    found = [row["improvement_over_first"]["psnr"] for row in result["rows"][1:]]
    # alone, six images suffice: 2 / 2**6 = 0.031; of two comparisons the better one has to reach 0.025
    assert [one["p"] for one in found] == [2 / 64] * 2
    assert [one["p_holm"] for one in found] == [4 / 64] * 2
    assert {one["verdict"] for one in found} == {"no difference shown"}
    told = "6 images are too few: no difference can be shown in 2 comparisons with less than 7"
    assert result["notes"] == [told]


# --------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("psnr < -0.05", 8),  # the mean is -0.1
        ("psnr < -0.05 @95%", 8),
        ("psnr<-0.05@95%", 8),
        ("psnr < -0.12 @95%", 0),  # within the interval: not shown
        ("psnr < -0.5", 0),
        ("psnr >= -0.5 @ 99 %", 8),
        ("enl_ratio < 0", 0),  # equal
        ("enl_ratio <= 0", 8),
    ],
)
def test_a_condition_that_holds_ends_with_a_code_of_its_own(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered, condition: str, code: int
) -> None:
    make_run("a", num=60)
    make_run("b", num=60, gain_db=-0.1)
    said = mlkit("compare", "a", "b", "--fail-if", condition)
    assert said.code == code, said.err
    assert (runs / "compare-a-vs-b" / "comparison.json").is_file()
    assert ("holds: b over a is " in said.err) == (code == 8)


def test_the_sentence_of_a_condition_has_its_own_interval(mlkit: Mlkit, make_run: MakeRun, rendered: Rendered) -> None:
    a, b = make_run("a", num=60), make_run("b", num=60, gain_db=-0.5)
    gains = stored_scores(b / "ckpt-500")["psnr"] - stored_scores(a / "ckpt-500")["psnr"]
    half = stats.t.ppf(0.995, 59) * stats.sem(gains)
    said = mlkit("compare", "a", "b", "--fail-if", "psnr<-0.05 @99%")
    numbers = r"is (\S+) \[(\S+), (\S+)\], positive is better"
    told = re.fullmatch(rf"mlkit: --fail-if 'psnr < -0.05 @99%' holds: b over a {numbers}", said.err.splitlines()[-1])
    assert said.code == 8 and told
    expected = [np.mean(gains), np.mean(gains) - half, np.mean(gains) + half]
    assert [float(one) for one in told.groups()] == pytest.approx(expected, abs=0.012)


def test_a_condition_that_cannot_be_judged_does_not_pass(mlkit: Mlkit, make_run: MakeRun, rendered: Rendered) -> None:
    make_run("a", num=5)
    make_run("b", num=5, gain_db=2.0)
    said = mlkit("compare", "a", "b", "--fail-if", "psnr < -0.05 @95%")
    told = "mlkit: --fail-if 'psnr < -0.05 @95%' could not be judged: 5 images of b over a are too few\n"
    assert (said.code, said.err.splitlines(keepends=True)[-1]) == (8, told)


def test_what_is_no_condition_is_refused_before_anything_is_read(mlkit: Mlkit, runs: Path) -> None:
    texts = ("psnr -0.05", "pnsr < 1", "psnr < few", "psnr < 1 @9%", "loss < 0")
    said = mlkit("compare", "a", "b", *(word for text in texts for word in ("--fail-if", text)))
    lines = said.err.splitlines()
    assert (said.code, len(lines)) == (2, 5)
    assert lines[0].startswith("mlkit: --fail-if 'psnr -0.05' is no condition: write METRIC <, <=, > or >= NUMBER")
    assert "unknown metric 'pnsr' (did you mean 'psnr'?)" in lines[1]
    assert "the number 'few' is no number" in lines[2]
    assert "the level 9 % is not from 50 up to 100" in lines[3]
    assert "unknown metric 'loss'" in lines[4]


def test_a_condition_on_a_metric_that_no_run_has_is_refused(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, rendered: Rendered
) -> None:
    make_run("a")
    said = mlkit("compare", "a", "a", "--fail-if", "psnr_y < 0")
    told = "--fail-if: psnr_y was not scored in every run (did you mean 'psnr'?); compared are: psnr, enl_ratio"
    assert (said.code, said.err) == (2, f"mlkit: {told}\n")
    assert not (runs / "compare-a-vs-a").exists()


# ----------------------------------------------------------------------------------------------- refused


def test_every_name_that_is_unknown_or_ambiguous_is_told_with_what_exists(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, files: Files
) -> None:
    for name in ("base_a", "base_b", "residual"):
        make_run(name)
    before = files(runs)
    assert mlkit("compare", "residul", "base", "xyz", "residual/ckpt-7") == refused(
        2,
        f"unknown run 'residul' (did you mean 'residual'?); runs in {runs}: base_a, base_b, residual",
        "'base' fits 2 runs: base_a, base_b; give more of the name",
        f"unknown run 'xyz'; runs in {runs}: base_a, base_b, residual",
        "run residual has no complete checkpoint 'ckpt-7'; there are: ckpt-500",
    )
    assert files(runs) == before


def test_one_run_is_too_few_and_the_others_are_listed(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, refused: Refused
) -> None:
    make_run("a")
    make_run("b")
    told = f"compare needs at least two runs, got only 'a'; runs in {runs}: a, b"
    assert mlkit("compare", "a") == refused(2, told)


def test_no_run_at_all_says_how_to_start_one(mlkit: Mlkit, runs: Path, refused: Refused) -> None:
    way = "start one with: mlkit train --preset PRESET, or set MLKIT_RUNS_DIR to where runs lie"
    assert mlkit("compare", "a", "b") == refused(
        2, *(f"unknown run '{name}': there is no run in {runs} yet; {way}" for name in "ab")
    )


def test_runs_on_other_data_or_by_another_protocol_are_refused_for_every_reason(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, files: Files
) -> None:
    make_run("a")
    make_run("b", dataset_sha256="b" * 64)
    make_run("c", split="train", protocol="crop4", signatures={"psnr": "psnr|rgb|v1", "enl_ratio": "enl|v1"})
    before = files(runs)
    pair = "cannot compare a with"
    assert mlkit("compare", "a", "b", "c") == refused(
        4,
        f"{pair} b: they were evaluated on different datasets (aaaaaaaaaaaa and bbbbbbbbbbbb); "
        "compare runs of one dataset",
        f"{pair} c: the part of the evaluation is 'validation' in a and 'train' in c; evaluate both with the same part",
        f"{pair} c: the protocol of the evaluation is 'default' in a and 'crop4' in c; "
        "evaluate both with the same protocol",
        f"{pair} c: the signature of psnr is 'psnr|gray|v1' in a and 'psnr|rgb|v1' in c; "
        "delete the older eval.json and compare again",
    )
    assert files(runs) == before


def test_scores_that_cannot_be_read_are_refused(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, files: Files
) -> None:
    make_run("a")
    other = make_run("b", format_version=9) / "ckpt-500" / "eval.json"
    before = files(runs)
    told = f"evaluation {other} has format version 9, this mlkit reads up to 1; update mlkit"
    assert mlkit("compare", "a", "b") == refused(4, told)
    assert files(runs) == before
    ways = "delete it and compare again, which makes it anew"
    other.write_text('{"format_version": 1}')
    assert mlkit("compare", "a", "b") == refused(4, f"evaluation {other} is damaged: KeyError 'ids'; {ways}")
    other.write_text("[1")
    assert mlkit("compare", "a", "b") == refused(
        4, f"evaluation {other} is damaged: Expecting ',' delimiter: line 1 column 3 (char 2)"
    )


def test_run_without_a_checkpoint_is_refused(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, files: Files
) -> None:
    make_run("a")
    empty = make_run("b")
    (empty / "ckpt-500" / "checkpoint.json").unlink()
    before = files(runs)
    assert mlkit("compare", "a", "b") == refused(
        3, f"run {empty} has no complete checkpoint yet; wait for the first one, or train it again"
    )
    assert files(runs) == before


def test_results_never_take_the_place_of_a_file(
    mlkit: Mlkit, make_run: MakeRun, tmp_path: Path, refused: Refused
) -> None:
    make_run("a")
    (tmp_path / "notes").write_text("mine")
    told = f"--out {tmp_path / 'notes'} is a file; give a folder for the results"
    assert mlkit("compare", "a", "a", "--out", tmp_path / "notes") == refused(2, told)
    assert (tmp_path / "notes").read_text() == "mine"
