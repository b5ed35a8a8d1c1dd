"""`mlkit runs` reads what the files say, writes marks beside them, and removes nothing that anybody needs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]


def plant(runs: Path, name: str, **about: Any) -> Path:
    """Write a run of one checkpoint, as training leaves it, with planted facts."""
    scores = about.pop("scores", {"loss": 0.1, "psnr": 20.0})
    folder = runs / name
    (folder / "ckpt-10").mkdir(parents=True)
    facts = {
        "format_version": 1,
        "id": f"id-{name}",
        "name": name,
        "task": "sar",
        "preset": "sar_tiny",
        "status": "success",
        "created": "2026-11-20T10:00:00+00:00",
        "primary_metric": "psnr",
        "dataset_sha256": "a" * 64,
        "dataset_label": "simulated",
        "lineage": {},
        "origins": {"task": "sar_tiny.toml"},
    }
    (folder / "run.json").write_text(json.dumps(facts | about))
    (folder / "settings.toml").write_text('format_version = 1\ntask = "sar"\nseed = 0\n[train]\nsteps = 10\n')
    for which in ("best", "last"):
        (folder / which).write_text("ckpt-10\n")
    (folder / "ckpt-10" / "checkpoint.json").write_text(json.dumps({"format_version": 1, "step": 10, "scores": scores}))
    return folder


@pytest.fixture
def three(runs: Path) -> Path:
    """Return a runs folder with three runs, the second the newest and the best."""
    plant(runs, "first", created="2026-11-20T10:00:00+00:00")
    plant(
        runs, "second", created="2026-11-21T10:00:00+00:00", scores={"loss": 0.2, "psnr": 22.5}, preset="baseline_c16"
    )
    of = {"task": "demosaic", "primary_metric": "cpsnr", "scores": {"cpsnr": 30.0, "texture": 0.9}, "status": "wip"}
    plant(runs, "third", created="2026-11-19T10:00:00+00:00", preset="v4_linear", dataset_sha256="b" * 64, **of)
    return runs


def listed(mlkit: Mlkit, *words: object) -> list[str]:
    said = mlkit("runs", "list", "--json", *words)
    assert said.code == 0, said.err
    return [one["name"] for one in json.loads(said.out)]


# ---- list ------------------------------------------------------------------------------------------------------


def test_the_newest_run_is_listed_first_with_step_and_best_score(mlkit: Mlkit, three: Path) -> None:
    lines = mlkit("runs", "list").out.splitlines()
    assert re.split(r"  +", lines[0].strip())[:7] == ["Run", "Task", "Preset", "Status", "Step", "Best", "Created"]
    assert [re.split(r"  +", line)[:7] for line in lines[2:]] == [
        ["second", "sar", "baseline_c16", "success", "10", "PSNR 22.50 dB", "2026-11-21 10:00"],
        ["first", "sar", "sar_tiny", "success", "10", "PSNR 20.00 dB", "2026-11-20 10:00"],
        ["third", "demosaic", "v4_linear", "wip", "10", "cPSNR 30.00 dB", "2026-11-19 10:00"],
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--task", "sar"), ["second", "first"]),
        (("--status", "wip"), ["third"]),
        (("--preset", "sar_tiny"), ["first"]),
        (("--sort", "name"), ["first", "second", "third"]),
        (("--sort", "score", "--task", "sar"), ["second", "first"]),
        (("--sort", "name", "--reverse"), ["third", "second", "first"]),
        (("--tag", "good", "--tag", "new"), ["third"]),
        (("--tag", "good"), ["first", "third"]),
    ],
)
def test_runs_are_filtered_and_sorted(words: tuple[str, ...], names: list[str], mlkit: Mlkit, three: Path) -> None:
    mlkit("runs", "mark", "first", "--tag", "good")
    mlkit("runs", "mark", "third", "--tag", "good", "--tag", "new")
    assert listed(mlkit, *words) == names


def test_a_damaged_run_is_listed_as_such_and_the_others_too(mlkit: Mlkit, three: Path) -> None:
    (three / "second" / "run.json").write_text("{")
    (three / "third" / "best").write_text("ckpt-99\n")
    said = mlkit("runs", "list")
    assert said.code == 0 and said.err.startswith(f"warning: run {three / 'second' / 'run.json'} is damaged: ")
    cells = {line.split()[0]: re.split(r"  +", line) for line in said.out.splitlines()[2:]}
    assert cells["second"][3] == "damaged" and cells["third"][5] == "-"
    assert listed(mlkit, "--status", "damaged") == ["second"]


def test_words_that_nothing_fits_are_told(mlkit: Mlkit, runs: Path, refused: Refused) -> None:
    said = mlkit("runs", "list")
    assert (said.code, said.out) == (0, "")
    assert said.err == f"{runs}: there is no run yet; start one with: mlkit train --preset PRESET\n"
    plant(runs, "first")
    assert mlkit("runs", "list", "--status", "sucess") == refused(
        2, "unknown status 'sucess' (did you mean 'success'?); there are: planned, wip, analysis, success, failed"
    )
    assert mlkit("runs", "list", "--task", "saar").err.startswith("mlkit: unknown task 'saar' (did you mean 'sar'?)")
    assert mlkit("runs", "list", "--preset", "sar_tny").err.startswith(
        "mlkit: no run of a preset 'sar_tny' (did you mean 'sar_tiny'?)"
    )
    assert mlkit("runs", "list", "--task", "sr").err == f"{runs}: no run fits\n"


def test_signs_for_the_terminal_stay_text(mlkit: Mlkit, three: Path) -> None:
    mlkit("runs", "mark", "first", "--note", "red \x1b[31m and [bold]\nnext")
    line = next(line for line in mlkit("runs", "list").out.splitlines() if line.startswith("first"))
    assert line.endswith("red  [31m and [bold] next")


# ---- mark ------------------------------------------------------------------------------------------------------


def test_a_mark_changes_what_is_said_and_nothing_of_the_run(mlkit: Mlkit, three: Path, files: Files) -> None:
    before = files(three / "first")
    said = mlkit("runs", "mark", "fir", "analysis", "--note", "texture 0.93", "--tag", "keep", "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["status"], told["trained"], told["note"], told["tags"]) == (
        "analysis",
        "success",
        "texture 0.93",
        ["keep"],
    )
    after = files(three / "first")
    mark = json.loads(after.pop("mark.json"))
    assert after == before
    assert mlkit("runs", "mark", "first", "--untag", "keep", "--tag", "b").code == 0
    assert mlkit("runs", "mark", "first", "failed").code == 0
    again = json.loads((three / "first" / "mark.json").read_text())
    assert (again["status"], again["note"], again["tags"]) == ("failed", "texture 0.93", ["b"])
    assert again["created"] == mark["created"] and [one.get("status") for one in again["history"]] == [
        "analysis",
        None,
        "failed",
    ]


def test_a_run_that_is_to_come_can_be_planned_and_its_name_stays_free(
    mlkit: Mlkit, train: Mlkit, runs: Path, refused: Refused
) -> None:
    assert mlkit("runs", "mark", "v5.0_ssim", "planned", "--note", "a larger window").code == 0
    assert mlkit("runs", "mark", "v5.0_ssim", "--tag", "texture").code == 0
    (one,) = json.loads(mlkit("runs", "list", "--json").out)
    assert (one["name"], one["status"], one["note"], one["tags"]) == (
        "v5.0_ssim",
        "planned",
        "a larger window",
        ["texture"],
    )
    assert train("--name", "v5.0_ssim", "--max-steps", 1).code == 0
    (one,) = json.loads(mlkit("runs", "list", "--json").out)
    assert (one["status"], one["note"]) == ("success", "a larger window")


def test_what_cannot_be_marked_is_refused(mlkit: Mlkit, three: Path, refused: Refused, files: Files) -> None:
    before = files(three)
    assert mlkit("runs", "mark", "first") == refused(
        2, "nothing is said of 'first': give a status, --note, --tag or --untag"
    )
    assert mlkit("runs", "mark", "first", "good").err.startswith("mlkit: unknown status 'good'")
    assert mlkit("runs", "mark", "fourth", "failed").err.startswith(
        f"mlkit: unknown run 'fourth'; runs in {three}: first, second, third; a run that is not there can only"
    )
    assert mlkit("runs", "mark", "first", "--tag", "two words") == refused(
        2, "'two words' cannot be a tag: up to 40 signs without space or comma"
    )
    assert mlkit("runs", "mark", "first", "--untag", "x") == refused(2, "run 'first' has no tag x; it has none")
    assert mlkit("runs", "mark", "a/b", "planned").code == 2
    assert files(three) == before
    (three / "first" / "mark.json").write_text('{"format_version": 99}')
    said = mlkit("runs", "mark", "first", "failed")
    assert said.code == 4 and "format version 99" in said.err


# ---- show ------------------------------------------------------------------------------------------------------


def test_one_run_is_shown_with_figures_criteria_loss_and_settings(mlkit: Mlkit, run: Path) -> None:
    said = mlkit("runs", "show", "first")
    assert said.code == 0, said.err
    about = json.loads((run / "run.json").read_text())
    assert f"id {about['id']}" in said.out and about["command"] in said.out
    told = json.loads(mlkit("runs", "show", "first", "--json").out)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert told["losses"] == [row["loss"] for row in rows if "split" not in row]
    assert told["checkpoints"] == ["ckpt-3", "ckpt-6"] and told["step"] == 6
    best = (run / "best").read_text().strip()
    assert told["best"]["name"] == best and told["metric"] == "psnr"
    assert told["scores"] == json.loads((run / best / "checkpoint.json").read_text())["scores"]
    assert told["train_s"] == json.loads((run / "timing.jsonl").read_text().splitlines()[-1])["train_s"]
    results = {one["sentence"]: one["result"] for one in told["criteria"]}
    assert results["no non-finite step"] == "pass"
    assert results["PSNR >= baseline + 1.5 dB"] == "against a baseline"
    settings = told["settings"]
    assert settings["train.lr"] == {"value": 1e-3, "origin": "flag"}
    assert settings["model.base_channels"] == {"value": 4, "origin": "--set"}
    assert settings["data.patch"] == {"value": 64, "origin": "sar_tiny.toml"}
    assert settings["loss.mse_weight"]["origin"] == "baseline_c16.toml"
    assert settings["train.accumulate"]["origin"] == ""
    lines = said.out.splitlines()
    assert any(re.match(r"train\.lr +0\.001 +flag", line) for line in lines)
    bars = next(line for line in lines if line.startswith("loss"))
    assert len(re.findall("[▁▂▃▄▅▆▇█]", bars)) == 6


def test_the_lineage_is_a_tree_from_the_oldest_to_what_came_of_it(mlkit: Mlkit, three: Path) -> None:
    def begin(name: str, parent: Path) -> None:
        plant(three, name, lineage={"parent": str(parent), "kind": "weights"})

    begin("tuned", three / "first" / "ckpt-10")
    begin("again", three / "tuned" / "ckpt-10")
    begin("other", three / "tuned" / "ckpt-10")
    begin("lost", three / "gone" / "ckpt-5")
    text = mlkit("runs", "show", "tuned").out.split("Lineage\n")[1].split("\n\n")[0].splitlines()
    assert text == ["  first  ckpt-10", "  └─ tuned  (this)", "     └─ again", "     └─ other"]
    told = json.loads(mlkit("runs", "show", "again", "--json").out)
    assert told["ancestors"] == [{"run": "first", "checkpoint": "ckpt-10"}, {"run": "tuned", "checkpoint": "ckpt-10"}]
    told = json.loads(mlkit("runs", "show", "lost", "--json").out)
    assert told["ancestors"] == [{"run": "gone", "checkpoint": "ckpt-5"}]


@pytest.mark.parametrize(("count", "bars"), [(2, 2), (60, 60), (61, 60), (1000, 60)])
def test_the_loss_is_drawn_from_its_largest_to_its_smallest(count: int, bars: int) -> None:
    from mlkit.commands.run_views import loss_line

    drawn, words = loss_line([1.0 - place / count for place in range(count)]).split("  ")
    assert len(drawn) == bars and drawn[0] == "█" and drawn[-1] == "▁"
    assert list(drawn) == sorted(drawn, reverse=True) and words.startswith("1 to ")
    assert loss_line([0.5]) == ""


def test_a_run_without_settings_is_refused(mlkit: Mlkit, three: Path, refused: Refused) -> None:
    (three / "first" / "settings.toml").unlink()
    assert mlkit("runs", "show", "first") == refused(4, f"settings {three / 'first' / 'settings.toml'} do not exist")
    assert mlkit("runs", "show", "frst").err.startswith("mlkit: unknown run 'frst' (did you mean 'first'?)")


# ---- diff ------------------------------------------------------------------------------------------------------


def test_a_difference_names_both_values_and_what_set_them(mlkit: Mlkit, train: Mlkit, run: Path, runs: Path) -> None:
    assert train("--name", "other", "--seed", 3, "--max-steps", 2, "--set", "loss.mse_weight=0.5").code == 0
    told = json.loads(mlkit("runs", "diff", "first", "other", "--json").out)
    assert told["settings"] == {
        "loss.mse_weight": {"values": [0.7, 0.5], "origins": ["baseline_c16.toml", "--set"]},
        "seed": {"values": [0, 3], "origins": ["baseline_c16.toml", "flag"]},
        "train.steps": {"values": [6, 2], "origins": ["flag", "flag"]},
    }
    values = [tomllib.loads((runs / name / "settings.toml").read_text()) for name in ("first", "other")]
    assert [one["train"]["steps"] for one in values] == [6, 2]
    lines = mlkit("runs", "diff", "first", "other").out.splitlines()
    assert re.split(r"  +", lines[2].strip()) == ["loss.mse_weight", "0.7", "0.5", "baseline_c16.toml / --set"]
    assert mlkit("runs", "diff", "first", "first").out == "The settings are the same.\n"


def test_what_a_resume_changed_is_said_to_come_from_it(mlkit: Mlkit, run: Path, runs: Path) -> None:
    shutil.copytree(run, runs / "second")
    assert mlkit("resume", "second", "--max-steps", 7, "--set", 'train.schedule="constant"').code == 0
    told = json.loads(mlkit("runs", "diff", "first", "second", "--json").out)["settings"]
    assert {key: one["origins"][1] for key, one in told.items()} == {
        "train.schedule": "resume",
        "train.steps": "resume",
    }
    assert mlkit("resume", "first/ckpt-6", "--max-steps", 8, "--name", "third").code == 0
    told = json.loads(mlkit("runs", "diff", "first", "third", "--json").out)["settings"]
    assert told["train.steps"]["origins"] == ["flag", "resume"]


def test_runs_of_an_older_mlkit_do_not_say_what_set_a_value(
    mlkit: Mlkit, three: Path, edit: Callable[..., None]
) -> None:
    content = json.loads((three / "first" / "run.json").read_text())
    del content["origins"], content["primary_metric"]
    (three / "first" / "run.json").write_text(json.dumps(content))
    settings = three / "second" / "settings.toml"
    settings.write_text(settings.read_text().replace("steps = 10", "steps = 20"))
    told = json.loads(mlkit("runs", "diff", "first", "second", "--json").out)
    assert told["settings"]["train.steps"] == {"values": [10, 20], "origins": ["unknown", "default"]}
    assert told["facts"] == {"preset": ["sar_tiny", "baseline_c16"]}
    assert "PSNR 20.00 dB" in mlkit("runs", "list").out


# ---- board -----------------------------------------------------------------------------------------------------


def test_the_board_has_a_table_for_each_task_and_dataset_and_is_stable(
    mlkit: Mlkit, three: Path, tmp_path: Path
) -> None:
    mlkit("runs", "mark", "second", "analysis", "--note", "better | than <b>", "--tag", "keep")
    mlkit("runs", "mark", "v9", "planned", "--note", "later")
    plant(three, "tuned", created="2026-11-22T08:00:00+00:00", lineage={"parent": str(three / "first" / "ckpt-10")})
    assert mlkit("runs", "board").code == 0
    page = (tmp_path / "EXPERIMENTS.md").read_text()
    sar, demosaic = page.split("\n## sar\n")[1].split("\n## demosaic\n")
    rows = [line for line in sar.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `tuned` | success | 20.00 | 10 | sar_tiny | first/ckpt-10 | 2026-11-22 | - |",
        "| `second` #keep | analysis | 22.50 | 10 | baseline_c16 | - | 2026-11-21 | better \\| than &lt;b> |",
        "| `first` | success | 20.00 | 10 | sar_tiny | - | 2026-11-20 | - |",
    ]
    assert "### Data `aaaaaaaaaaaa` (simulated)" in sar and "### Data `bbbbbbbbbbbb`" in demosaic
    assert (
        "| run | status | Texture | cPSNR [dB] |" in demosaic or "| run | status | cPSNR [dB] | Texture |" in demosaic
    )
    assert "| `planned` | to be trained | 1 |" in page and "| `v9` | planned | later |" in page
    assert str(tmp_path) not in page
    copied = shutil.copytree(three, tmp_path / "elsewhere")
    assert mlkit("runs", "board", "--out", "again.md").code == 0
    assert (tmp_path / "again.md").read_text() == page
    os.environ["MLKIT_RUNS_DIR"] = str(copied)  # the fixture sets it back
    assert mlkit("runs", "board", "--out", "again.md").code == 0
    assert (tmp_path / "again.md").read_text() == page


def test_the_columns_of_the_board_can_be_named(mlkit: Mlkit, three: Path, tmp_path: Path, refused: Refused) -> None:
    assert mlkit("runs", "board", "--task", "demosaic", "--metrics", "texture, cpsnr").code == 0
    page = (tmp_path / "EXPERIMENTS.md").read_text()
    assert "| run | status | Texture | cPSNR [dB] | best step |" in page and "## sar" not in page
    assert mlkit("runs", "board", "--metrics", "pnsr").err.startswith(
        "mlkit: unknown metric 'pnsr' (did you mean 'psnr'?)"
    )
    assert mlkit("runs", "board", "--task", "sr") == refused(
        2, f"no run to show in {three}; start one with: mlkit train --preset PRESET"
    )


# ---- verify ----------------------------------------------------------------------------------------------------


def test_every_file_of_every_checkpoint_is_checked(mlkit: Mlkit, run: Path, runs: Path) -> None:
    said = mlkit("runs", "verify")
    assert said.code == 0 and [line.split() for line in said.out.splitlines()[2:]] == [
        ["first", "ckpt-3", "ok"],
        ["first", "ckpt-6", "ok"],
    ]
    weights = run / "ckpt-3" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (run / "ckpt-6" / "training_state.json").unlink()
    said = mlkit("runs", "verify", "fir", "--json")
    assert said.code == 3
    told = {one["checkpoint"]: one["problems"] for one in json.loads(said.out)}
    assert told["ckpt-3"][0].startswith(f"checkpoint {run / 'ckpt-3'}: model.safetensors has changed: sha256 ")
    assert told["ckpt-6"] == [f"checkpoint {run / 'ckpt-6'}: training_state.json is missing"]
    assert [line.removeprefix("mlkit: ") for line in said.err.splitlines()] == told["ckpt-3"] + told["ckpt-6"]
    (run / "ckpt-6" / "checkpoint.json").write_text("{")
    assert "checkpoint.json is damaged" in mlkit("runs", "verify").err


# ---- prune -----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(run: Path) -> Path:
    """Return a run with five checkpoints, of which ckpt-4 is named best and ckpt-6 last."""
    for step, psnr in ((1, 30.0), (2, 10.0), (4, 25.0)):
        folder = shutil.copytree(run / "ckpt-3", run / f"ckpt-{step}")
        content = json.loads((folder / "checkpoint.json").read_text()) | {"step": step, "scores": {"psnr": psnr}}
        content.pop("sha256")
        (folder / "checkpoint.json").write_text(json.dumps(content))
    (run / "best").write_text("ckpt-4\n")
    return run


def kept(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("ckpt-")) for path in run.glob("ckpt-*"))


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((), [1, 4, 6]),  # the best by its score, what `best` names, the last
        (("--keep-best", 0), [4, 6]),
        (("--keep-last", 2), [1, 4, 6]),
        (("--keep-best", 2, "--keep-every", 2), [1, 2, 4, 6]),
        (("--keep-last", 9), [1, 2, 3, 4, 6]),
    ],
)
def test_what_no_rule_keeps_is_removed(words: tuple[object, ...], left: list[int], mlkit: Mlkit, many: Path) -> None:
    whole = {path.name for path in many.iterdir()}
    said = mlkit("runs", "prune", "first", "--dry-run", *words)
    assert said.code == 0 and kept(many) == [1, 2, 3, 4, 6]
    assert mlkit("runs", "prune", "first", "--yes", *words).code == 0
    assert kept(many) == left
    assert {path.name for path in many.iterdir()} == whole - {f"ckpt-{step}" for step in {1, 2, 3, 4, 6} - set(left)}
    assert mlkit("runs", "verify").code == 0 or 1 in left or 2 in left  # those that were edited are told apart
    assert mlkit("resume", "first").code == 0


def test_nothing_is_removed_unasked_or_from_a_run_in_training(mlkit: Mlkit, many: Path, refused: Refused) -> None:
    said = mlkit("runs", "prune")
    sentence = "nobody can be asked here; give --yes to remove them, or --dry-run to see them only"
    assert (said.code, said.err) == (2, f"mlkit: {sentence}\n") and kept(many) == [1, 2, 3, 4, 6]
    handle = os.open(many, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        said = mlkit("runs", "prune", "--yes")
    finally:
        os.close(handle)
    assert said.err == "warning: first is in training, left alone\nnothing to remove\n" and kept(many) == [
        1,
        2,
        3,
        4,
        6,
    ]
    told = json.loads(mlkit("runs", "prune", "--dry-run", "--json").out)
    size = sum(file.stat().st_size for step in (2, 3) for file in (many / f"ckpt-{step}").rglob("*") if file.is_file())
    assert told == {
        "removed": False,
        "runs": [{"run": "first", "checkpoints": ["ckpt-2", "ckpt-3"], "bytes": size}],
        "bytes": size,
    }


# ---- start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["list"], ["mlkit.settings", "numpy", "rich.table"]),
        (["mark", "first", "failed"], ["mlkit.settings", "numpy"]),
        (["show", "first"], ["pydantic_settings"]),
        (["diff", "first", "second"], ["mlkit.settings"]),
        (["board"], ["mlkit.settings", "numpy"]),
        (["verify"], []),
        (["prune", "--dry-run"], []),
    ],
)
def test_none_of_it_imports_torch(words: list[str], heavy: list[str], three: Path) -> None:
    code = (
        f"import sys; sys.argv = ['mlkit', 'runs', *{words!r}]\n"
        "from mlkit.__main__ import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        f"print([m for m in ['torch', *{heavy!r}] if m in sys.modules], file=sys.stderr)"
    )
    wide = {**os.environ, "COLUMNS": "500"}  # a narrow window wants columns folded, which rich does
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=wide)
    assert done.stderr.splitlines()[-1] == "[]"
