"""`mlkit compare` from names to files, without loading a model."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mlkit.commands.compare import compare
from mlkit.errors import DataError, MlkitError

MakeRun = Callable[..., Path]
APP = typer.Typer()
APP.command()(compare)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[str, Path]], list[str], Path]]:
    calls: list[tuple[list[tuple[str, Path]], list[str], Path]] = []
    stub = types.ModuleType("mlkit.commands.opened")

    def render(checkpoints: list[tuple[str, Path]], ids: list[str], out: Path) -> None:
        if len(checkpoints) > 2:
            raise DataError("dataset is elsewhere")
        calls.append((checkpoints, ids, out))

    stub.render_side_by_side = render  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlkit.commands.opened", stub)
    return calls


def test_writes_json_markdown_and_asks_for_the_picture(make_run: MakeRun, rendered: list[object]) -> None:
    runs = make_run("baseline").parent
    make_run("residual_v1_c16", gain_db=1.9)
    result = CliRunner().invoke(APP, ["baseline", "res", "--runs-dir", str(runs)], catch_exceptions=False)
    folder = runs / "compare-baseline-vs-residual_v1_c16"
    assert result.exit_code == 0
    assert "better" in result.stdout
    assert json.loads((folder / "comparison.json").read_text())["rows"][1]["name"] == "residual_v1_c16"
    assert "| residual_v1_c16 |" in (folder / "comparison.md").read_text()
    ((checkpoints, ids, out),) = rendered  # type: ignore[misc]
    assert [name for name, _ in checkpoints] == ["baseline", "residual_v1_c16"]
    assert (len(ids), out) == (4, folder / "comparison.png")


def test_json_alone_goes_to_stdout(make_run: MakeRun, rendered: list[object]) -> None:
    runs = make_run("a").parent
    arguments = ["a", "a", "--json", "--runs-dir", str(runs), "--out", str(runs / "new" / "deep"), "--no-picture"]
    result = CliRunner().invoke(APP, arguments, catch_exceptions=False)
    assert [row["name"] for row in json.loads(result.stdout)["rows"]] == ["a", "a (2)"]
    assert (runs / "new" / "deep" / "comparison.json").is_file()
    assert rendered == []


def test_numbers_stand_when_the_picture_cannot_be_made(make_run: MakeRun, rendered: list[object]) -> None:
    runs = make_run("a").parent
    make_run("b"), make_run("c")
    (runs / "out").mkdir()
    (runs / "out" / "comparison.png").write_bytes(b"old")
    arguments = ["a", "b", "c", "--runs-dir", str(runs), "--out", str(runs / "out")]
    result = CliRunner().invoke(APP, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "no side-by-side picture: dataset is elsewhere" in result.stderr
    assert (runs / "out" / "comparison.json").is_file()
    assert not (runs / "out" / "comparison.png").exists()


def test_one_run_is_too_few_and_the_others_are_listed(make_run: MakeRun) -> None:
    runs = make_run("a").parent
    make_run("b")
    with pytest.raises(MlkitError, match=r"needs at least two runs, got only 'a'; runs in .*: a, b"):
        CliRunner().invoke(APP, ["a", "--runs-dir", str(runs)], catch_exceptions=False)


def test_runs_folder_comes_from_the_environment(make_run: MakeRun, rendered: list[object]) -> None:
    runs = make_run("a").parent
    CliRunner().invoke(APP, ["a", "a"], env={"MLKIT_RUNS_DIR": str(runs)}, catch_exceptions=False)
    assert (runs / "compare-a-vs-a" / "comparison.json").is_file()


def test_refused_comparison_writes_nothing(make_run: MakeRun) -> None:
    runs = make_run("a").parent
    make_run("b", dataset_sha256="b" * 64)
    with pytest.raises(DataError, match="different datasets"):
        CliRunner().invoke(APP, ["a", "b", "--runs-dir", str(runs)], catch_exceptions=False)
    assert not (runs / "compare-a-vs-b").exists()


def test_comparing_loads_no_torch_and_no_pydantic(make_run: MakeRun) -> None:
    runs = make_run("a").parent
    code = (
        "import sys; from pathlib import Path; from mlkit.commands.compare import compare\n"
        f"compare(['a', 'a'], as_json=True, picture=False, runs_dir=Path({str(runs)!r}))\n"
        "print({'torch', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "set()"
