"""The program as a whole: its help, its version, what it says of words it does not know, and completion."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mlkit.commands import complete
from mlkit.errors import MlkitError
from mlkit.tasks import TASKS, available_tasks

Mlkit = Callable[..., Any]
VERBS = {
    "dataset build sar",
    "dataset build sr",
    *("presets list", "presets show", "presets explain", "presets schema", "presets check"),
    "train",
    "resume",
    *("runs list", "runs show", "runs mark", "runs diff", "runs board", "runs verify", "runs prune"),
    "eval grid",
    "infer sar",
    "infer sr",
    "compare",
    "doctor",
}
ABSENT = tuple(task for task in TASKS if task not in available_tasks())

# Asks every command for its help in one process, and tells what was imported for it.
EVERY_HELP = """
import contextlib, io, json, sys
import typer
from mlkit.__main__ import main
from mlkit.cli import app

def leaves(command, words):
    if not hasattr(command, "list_commands"):
        return [words]
    context = command.make_context("mlkit", [], resilient_parsing=True)
    return [words] + [found for name in command.list_commands(context)
                      for found in leaves(command.get_command(context, name), [*words, name])]

found = {}
for words in leaves(typer.main.get_command(app), []):
    for option in ("--help", "-h"):
        sys.argv = ["mlkit", *words, option]
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                main()
        except SystemExit as left:
            assert not left.code, (words, left.code)
        found.setdefault(" ".join(words), []).append(said.getvalue())
# Typer itself may bring pydantic along; what of mlkit needs it must not.
heavy = {"torch", "numpy", "accelerate", "PIL", "rich.progress", "mlkit.settings", "mlkit.presets", "mlkit.task"}
imported = sorted(heavy & set(sys.modules))
print(json.dumps([found, imported]))
"""


@pytest.fixture(scope="module")
def helps() -> tuple[dict[str, list[str]], list[str]]:
    """Return what `--help` and `-h` of every command print, and which heavy modules were imported for all of them."""
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, env=plain, check=False)
    assert done.returncode == 0, done.stderr
    found, imported = json.loads(done.stdout)
    return found, imported


# ------------------------------------------------------------------------------------------------- help


def test_help_of_every_command_imports_nothing_heavy(helps: tuple[dict[str, list[str]], list[str]]) -> None:
    assert helps[1] == []
    assert set(helps[0]) >= VERBS | {"", "dataset", "dataset build", "eval", "infer"}


def test_every_command_shows_what_it_does_and_examples_that_begin_with_it(
    helps: tuple[dict[str, list[str]], list[str]],
) -> None:
    for name in VERBS:
        long, short = helps[0][name]
        assert long == short
        assert f"Usage: mlkit {name} " in long
        examples = long.split("Examples:", 1)[1].split("╭", 1)[0]
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        assert lines and all(f"{line} ".startswith(f"mlkit {name} ") for line in lines if line.startswith("mlkit")), (
            name
        )
        assert lines[0].startswith("mlkit "), name


def test_commands_are_grouped_and_stand_in_the_order_of_use(helps: tuple[dict[str, list[str]], list[str]]) -> None:
    root = helps[0][""][0]
    verbs = ("dataset", "presets", "train", "resume", "runs", "eval", "infer", "compare", "doctor")
    places = [root.index(f"│ {verb} ") for verb in verbs if f"│ {verb} " in root]
    assert len(places) == len({words.split()[0] for words in VERBS}) and places == sorted(places)
    groups = [root.index(f"─ {group} ─") for group in ("Data", "Training", "Results", "Machine")]
    assert groups == sorted(groups)


def test_tasks_that_are_not_here_are_listed_as_such(helps: tuple[dict[str, list[str]], list[str]]) -> None:
    for group in ("dataset build", "infer"):
        text = helps[0][group][0]
        assert [re.search(rf"│ {task} +(.*?) +│", text)[1] for task in ABSENT] == ["(not in this version yet)"] * len(
            ABSENT
        )  # type: ignore[index]


@pytest.mark.parametrize("words", [(), ("dataset",), ("dataset", "build"), ("train",), ("eval", "grid"), ("compare",)])
def test_a_command_without_its_arguments_shows_its_help_and_says_nothing_else(
    words: tuple[str, ...], mlkit: Mlkit
) -> None:
    said = mlkit(*words)
    assert (said.code, said.err) == (2, "")
    assert " ".join(("Usage: mlkit", *words)) in said.out


def test_version_is_that_of_the_package(mlkit: Mlkit) -> None:
    said = mlkit("--version")
    assert (said.code, said.out, said.err) == (0, f"mlkit {version('mlkit')}\n", "")


def test_the_module_runs_as_the_program_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlkit", "trian"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    told = "mlkit: No such command 'trian'. Did you mean 'train'? (see: mlkit --help)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


# ------------------------------------------------------------------------------------ words that it does not know


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'? (see: mlkit --help)"),
        (("eval", "gird"), "No such command 'gird'. Did you mean 'grid'? (see: mlkit eval --help)"),
        (("fly",), "No such command 'fly' (see: mlkit --help)"),
        (
            ("eval", "grid", "first", "--imagesdir", "in"),
            "No such option: --imagesdir (Possible options: --images, --images-dir) (see: mlkit eval grid --help)",
        ),
        (("eval", "grid", "first", "--device"), "Option '--device' requires an argument (see: mlkit --help)"),
        (("infer", "sar", "a.tif", "--out", "x"), "Missing option '--checkpoint' (see: mlkit infer sar --help)"),
        (("compare", "--json"), "Missing argument 'RUN...' (see: mlkit compare --help)"),
        (("resume", "first", "second"), "Got unexpected extra argument(s) (second) (see: mlkit resume --help)"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_the_place_of_help(
    words: tuple[str, ...], sentence: str, mlkit: Mlkit
) -> None:
    said = mlkit(*words)
    assert (said.code, said.out, said.err) == (2, "", f"mlkit: {sentence}\n")


@pytest.mark.parametrize("verb", [("dataset", "build"), ("infer",)])
def test_a_mistyped_task_is_answered_with_the_nearest_and_all(verb: tuple[str, ...], mlkit: Mlkit) -> None:
    said = mlkit(*verb, "demosiac", "x.png", "--out", "y")
    told = "unknown task 'demosiac' (did you mean 'demosaic'?); there are sar, sr, demosaic, lens, bvae"
    assert (said.code, said.out, said.err) == (2, "", f"mlkit: {told}\n")


@pytest.mark.parametrize("verb", [("dataset", "build"), ("infer",)])
@pytest.mark.parametrize("task", ABSENT)
def test_a_task_that_is_not_here_says_so_whatever_follows(
    verb: tuple[str, ...], task: str, mlkit: Mlkit, tmp_path: Path
) -> None:
    for more in ((), ("x.png", "--out", "y", "--some-option", "3")):
        said = mlkit(*verb, task, *more)
        told = f"task '{task}' is not in this version of mlkit yet; this one has: {', '.join(available_tasks())}"
        assert (said.code, said.out, said.err) == (2, "", f"mlkit: {told}\n")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------- every way out


def test_traceback_shows_where_an_error_came_from(mlkit: Mlkit) -> None:
    with pytest.raises(MlkitError, match="unknown run 'a'"):
        mlkit("eval", "grid", "a", "--traceback")
    with pytest.raises(MlkitError, match="unknown run 'a'"):
        mlkit("--traceback", "eval", "grid", "a")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("boom"), 1, "internal error: ValueError: boom; run again with --traceback and report it"),
        (OSError(errno.EIO, "I/O error"), 1, "internal error: OSError: [Errno 5] I/O error; run again with --traceback "
         "and report it"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "No space left on device; free some space and try again"),
        (OSError(errno.EACCES, "Permission denied", "runs/a"), 4, "runs/a: Permission denied; choose a place that you "
         "may use"),
    ],
)  # fmt: skip
def test_what_nobody_caught_is_told_as_the_machine_s_or_as_a_defect(
    error: Exception, code: int, told: str, mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("mlkit.commands.comparing.resolve_runs", fail)
    said = mlkit("compare", "a", "b")
    assert (said.code, said.out, said.err) == (code, "", f"mlkit: {told}\n")
    with pytest.raises(type(error), match=re.escape(str(error))):
        mlkit("compare", "a", "b", "--traceback")


def test_ctrl_c_ends_with_130_and_no_traceback(mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlkit.commands.comparing.resolve_runs", interrupt)
    said = mlkit("compare", "a", "b")
    assert (said.code, said.out, said.err) == (130, "", "")


def test_several_problems_are_told_one_a_line(mlkit: Mlkit, runs: Path) -> None:
    said = mlkit("compare", "a", "b")
    told = (
        f"there is no run in {runs} yet; start one with: mlkit train --preset PRESET, or set MLKIT_RUNS_DIR to where "
    )
    told += "runs lie"
    assert (said.code, said.err) == (2, f"mlkit: unknown run 'a': {told}\nmlkit: unknown run 'b': {told}\n")
    assert not runs.exists()


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # nobody reads
    command = [sys.executable, "-m", "mlkit", "--version"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    os.close(write)
    assert done.returncode != 0 and done.stderr == ""


# ------------------------------------------------------------------------------------------- completion


@pytest.fixture
def three(runs: Path) -> Path:
    """Return a runs folder with base_1 (two checkpoints, one unfinished), base_2 and a folder that is no run."""
    for name in ("base_1", "base_2"):
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text("{}")
    for name in ("ckpt-5", "ckpt-10", "ckpt-15"):
        (runs / "base_1" / name).mkdir()
        if name != "ckpt-15":
            (runs / "base_1" / name / "checkpoint.json").write_text("{}")
    (runs / "base_tables").mkdir()
    return runs


def test_presets_complete_to_those_that_start_so() -> None:
    shipped = {path.stem for path in (Path(__file__).parents[2] / "presets").glob("*/*.toml")}
    assert set(complete.presets("")) == shipped
    assert complete.presets("residual_v") == ["residual_v1_c16"]
    assert complete.presets("c16") == complete.presets("*") == []


def test_runs_complete_to_runs_and_after_a_slash_to_their_complete_checkpoints(three: Path) -> None:
    assert complete.runs("") == complete.runs("ba") == ["base_1", "base_2"]
    assert complete.runs("base_2") == ["base_2"]
    assert sorted(complete.runs("base_1/")) == ["base_1/ckpt-10", "base_1/ckpt-5"]
    assert complete.runs("base_1/ckpt-1") == ["base_1/ckpt-10"]


def test_where_no_run_starts_so_folders_complete(three: Path, tmp_path: Path) -> None:
    (tmp_path / "handed on").mkdir()
    (tmp_path / "handed.txt").touch()
    assert complete.runs("han") == ["handed on"]
    assert [place.rstrip("/") for place in complete.runs("runs/base_1/ckpt-1")] == [
        "runs/base_1/ckpt-10",
        "runs/base_1/ckpt-15",
    ]
    assert complete.runs("nothing") == complete.runs("[") == complete.runs("*") == complete.runs("absent/x") == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mlkit tra", ["train"]),
        ("mlkit train --preset sar", ["sar_tiny"]),
        ("mlkit resume base_1/ckpt-5", ["base_1/ckpt-5"]),
        ("mlkit compare base_1 base_", ["base_1", "base_2"]),
        ("mlkit presets show sar", ["sar_tiny"]),
        ("mlkit presets list --task b", ["bvae"]),
        ("mlkit runs show base_", ["base_1", "base_2"]),
        ("mlkit runs mark base_1 s", ["success"]),
        ("mlkit eval grid base_2", ["base_2"]),
        ("mlkit infer sar a.tif --checkpoint base_2", ["base_2"]),
        ("mlkit dataset build b", ["bvae"]),
        ("mlkit dataset build nope x", []),
    ],
)
def test_the_shell_completes_commands_presets_and_runs(
    line: str, offered: list[str], mlkit: Mlkit, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MLKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    said = mlkit()
    assert (said.code, said.out.split(), said.err) == (0, offered, "")


def test_completion_imports_nothing_heavy(three: Path) -> None:
    code = (
        "import sys; from mlkit.commands import complete; complete.runs('b'); complete.presets('b'); "
        "print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
