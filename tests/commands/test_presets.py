"""`mlkit presets` tells what holds, where it comes from and what it means; what it says is what training would use."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlkit.presets import resolve_preset
from mlkit.tasks import available_tasks

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {path.stem: path for path in sorted(ROOT.glob("presets/*/*.toml"))}
Mlkit = Callable[..., Any]
Refused = Callable[..., Any]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a preset of one's own, over another of one's own, over a shipped one."""
    (tmp_path / "base.toml").write_text('extends = "baseline_c16"\n[train]\nlr = 5e-4\nweight_decay = 0.0\n')
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[train]\nlr = 7e-4\n[quick_test.train]\nlr = 9e-4\n')
    return tmp_path / "mine.toml"


def shown(mlkit: Mlkit, *words: object) -> dict[str, Any]:
    said = mlkit("presets", "show", *words, "--json")
    assert said.code == 0, said.err
    return dict(json.loads(said.out)["values"])


# ---- list ------------------------------------------------------------------------------------------------------


def test_the_list_has_every_shipped_preset_with_its_task_length_and_purpose(mlkit: Mlkit) -> None:
    found = {one["name"]: one for one in json.loads(mlkit("presets", "list", "--json").out)}
    assert found.keys() == SHIPPED.keys()
    for name, one in found.items():
        assert one["task"] == SHIPPED[name].parent.name
        assert one["file"] == f"{one['task']}/{name}.toml"
        assert SHIPPED[name].read_text().startswith(f"# Purpose:   {one['purpose']}\n")
        if one["chain"]:
            continue
        train = resolve_preset(name).settings.train
        length = f"{train.steps:,} steps" if train.steps else f"{train.epochs:g} epochs"
        assert one["length"] == length


def test_the_list_of_a_task_is_a_table_of_its_presets_alone(mlkit: Mlkit, refused: Refused) -> None:
    lines = mlkit("presets", "list", "--task", "sar").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == sorted(path.stem for path in ROOT.glob("presets/sar/*.toml"))
    assert lines[0].split() == ["Preset", "Task", "Length", "Quick", "test", "Purpose"]
    assert mlkit("presets", "list", "--task", "saar") == refused(
        2, "unknown task 'saar' (did you mean 'sar'?); there are sar, sr, demosaic, lens, bvae"
    )


# ---- show ------------------------------------------------------------------------------------------------------


def test_every_value_is_shown_with_where_it_comes_from(mlkit: Mlkit, mine: Path) -> None:
    values = shown(mlkit, mine, "--set", "train.batch_size=3")
    expected = {
        "train.lr": (7e-4, "file", "mine.toml"),
        "train.weight_decay": (0.0, "file", "base.toml"),
        "train.batch_size": (3, "--set", ""),
        "train.warmup_epochs": (5, "extended preset", "baseline_c16.toml"),
        "train.accumulate": (1, "default", ""),
        "preset": ("mine", "file", "mine.toml"),
    }
    assert {
        key: (one["value"], one["origin"], one["file"]) for key, one in values.items() if key in expected
    } == expected
    assert shown(mlkit, mine, "--quick-test")["train.lr"] == {
        "value": 9e-4,
        "origin": "file",
        "file": "mine.toml [quick_test]",
    }
    assert shown(mlkit, "sar_tiny")["data.patch"]["origin"] == "preset"


@pytest.mark.parametrize("name", ["residual_v1_c16", "ftd_tiny", "demosaic_tiny", "option_b"])
def test_what_is_shown_is_what_a_training_would_use(name: str, mlkit: Mlkit, tmp_path: Path) -> None:
    values = shown(mlkit, name)
    settings = resolve_preset(name).settings
    for key, one in values.items():
        found: Any = settings.model_dump(mode="json")
        for part in key.split("."):
            found = found[part]
        assert found == one["value"], key
    (tmp_path / "copy.toml").write_text(mlkit("presets", "show", name, "--toml").out)
    copied = resolve_preset(str(tmp_path / "copy.toml")).settings
    assert copied.model_copy(update={"preset": name}) == settings


def test_the_table_has_a_line_a_key_and_changed_leaves_out_the_defaults(mlkit: Mlkit) -> None:
    everything, changed = (mlkit("presets", "show", "sar_tiny", *more).out for more in ((), ("--changed",)))
    assert [line.split()[:3] for line in everything.splitlines() if line.startswith("train.accumulate ")] == [
        ["train.accumulate", "1", "default"]
    ]
    assert "default" not in changed and "train.lr" in changed


# ---- explain ---------------------------------------------------------------------------------------------------


def test_a_key_is_explained_with_every_place_that_set_it(mlkit: Mlkit, mine: Path) -> None:
    (told,) = json.loads(mlkit("presets", "explain", mine, "train.lr", "--quick-test", "--json").out)
    assert told["meaning"] == "Peak learning rate." and told["type"] == "number, above 0"
    assert (told["value"], told["default"], told["file"]) == (9e-4, 1e-4, "mine.toml [quick_test]")
    places = [("default", 1e-4), ("baseline_c16.toml", 1e-4), ("base.toml", 5e-4), ("mine.toml", 7e-4)]
    quick = [("baseline_c16.toml [quick_test]", 1e-3), ("mine.toml [quick_test]", 9e-4)]
    assert [(one["origin"], one["value"]) for one in told["set_by"]] == places + quick
    said = mlkit("presets", "explain", mine, "train.lr", "--set", "train.lr=1e-2").out
    assert said.splitlines()[0] == "train.lr = 0.01   --set"
    assert "0.0007 (mine.toml), then 0.01 (--set)" in said


def test_a_section_is_explained_key_by_key(mlkit: Mlkit) -> None:
    told = json.loads(mlkit("presets", "explain", "ftd_tiny", "model", "--json").out)
    keys = [key for key in shown(mlkit, "ftd_tiny") if key.startswith("model.")]
    assert [one["key"] for one in told] == keys and all(one["meaning"] for one in told)


def test_steps_that_take_the_place_of_epochs_are_told(mlkit: Mlkit) -> None:
    (told,) = json.loads(mlkit("presets", "explain", "baseline_c16", "train.epochs", "--quick-test", "--json").out)
    assert told["value"] is None
    assert [one["origin"] for one in told["set_by"]][-2:] == [
        "baseline_c16.toml",
        "taken back by a key that excludes it",
    ]


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("train.learning_rate", "unknown key 'train.learning_rate' (did you mean 'lr'?); 'train' has accumulate, "),
        ("lr", "unknown key 'lr' (did you mean 'train.lr'?)"),
        ("trian.lr", "unknown key 'trian.lr' (did you mean 'train.lr'?)"),
        ("sed", "unknown key 'sed' (did you mean 'seed'?); the top level has preset, seed, task"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, sentence: str, mlkit: Mlkit) -> None:
    said = mlkit("presets", "explain", "sar_tiny", key)
    assert (said.code, said.out) == (3, "") and said.err.startswith(f"mlkit: {sentence}")


# ---- check -----------------------------------------------------------------------------------------------------


def test_a_good_file_is_said_to_be_good(mlkit: Mlkit, mine: Path) -> None:
    assert mlkit("presets", "check", mine).out == f"{mine}: ok\n"
    assert json.loads(mlkit("presets", "check", mine, "--json").out) == [
        {"file": str(mine), "ok": True, "problems": []}
    ]


def test_everything_wrong_with_files_is_told_also_in_their_quick_tests(
    mlkit: Mlkit, mine: Path, refused: Refused
) -> None:
    other = mine.with_name("other.toml")
    other.write_text('extends = "mine.toml"\nsead = 1\n[quick_test.train]\nsteps = 0\n')
    said = mlkit("presets", "check", mine, other, mine.with_name("gone.toml"), mine.with_name("a.txt"))
    assert said.code == 3 and said.out == f"{mine}: ok\n"
    first, second, third, fourth = (line.removeprefix("mlkit: ") for line in said.err.splitlines())
    assert first.startswith("other.toml: unknown key 'sead' (did you mean 'seed'?)")
    assert second == "other.toml [quick_test]: train.steps = 0: input should be greater than or equal to 1"
    assert third == f"preset file {mine.with_name('gone.toml')} does not exist"
    assert fourth == f"{mine.with_name('a.txt')} is no preset file; its name should end in .toml"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_passes_the_check(name: str, mlkit: Mlkit) -> None:
    assert mlkit("presets", "check", SHIPPED[name]).code == 0


# ---- schema ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schemas(program: Mlkit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the schema of each task, and of all, as validators of another library."""
    folder = tmp_path_factory.mktemp("schemas")
    found = {}
    for task in (*available_tasks(), ""):
        out = folder / f"{task}.json"
        assert program("presets", "schema", *([task] if task else []), "--out", out).code == 0
        schema = json.loads(out.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        found[task] = jsonschema.Draft202012Validator(schema)
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_are_valid_by_the_schema(name: str, schemas: dict[str, Any]) -> None:
    values = tomllib.loads(SHIPPED[name].read_text())
    for task in (SHIPPED[name].parent.name, ""):
        assert list(schemas[task].iter_errors(values)) == []


def places_in(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places_in(value, (*path, key))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_mistyped_key_is_invalid_by_the_schema(name: str, schemas: dict[str, Any]) -> None:
    text = SHIPPED[name].read_text()
    for path in places_in(tomllib.loads(text)):
        values = tomllib.loads(text)
        inner = values
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1] + "x"] = inner.pop(path[-1])
        for task in (SHIPPED[name].parent.name, ""):
            assert not schemas[task].is_valid(values), path


@pytest.mark.parametrize(
    "text", ["train.lr = 0", 'train.lr = "1e-3"', "train.batch_size = 1.5", 'train.schedule = "cosin"', "extends = 3"]
)
def test_a_wrong_value_is_invalid_by_the_schema(text: str, schemas: dict[str, Any]) -> None:
    assert not schemas["sar"].is_valid(tomllib.loads(text)) and not schemas[""].is_valid(tomllib.loads(text))


def test_none_and_files_that_only_extend_are_valid_by_the_schema(schemas: dict[str, Any]) -> None:
    for text in ('train.grad_clip_norm = "none"', 'extends = "sar_tiny"\ntrain.steps = 4', ""):
        assert schemas["sar"].is_valid(tomllib.loads(text)) and schemas[""].is_valid(tomllib.loads(text))


def test_without_out_the_schema_goes_to_stdout(mlkit: Mlkit, refused: Refused) -> None:
    assert json.loads(mlkit("presets", "schema", "bvae").out)["title"] == "mlkit preset of the task bvae"
    assert mlkit("presets", "schema", "bave").err.startswith("mlkit: unknown task 'bave' (did you mean 'bvae'?)")


# ---- start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "allowed"),
    [(["list"], set()), (["show", "sar_tiny"], {"mlkit.settings"}), (["check", "sar.toml"], {"mlkit.settings"})],
)
def test_none_of_it_imports_torch_and_the_list_not_even_the_settings(
    words: list[str], allowed: set[str], tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.argv = ['mlkit', 'presets', *{words!r}]\n"
        "from mlkit.cli import app\napp(standalone_mode=False)\n"
        "print([m for m in ('torch', 'numpy', 'mlkit.settings') if m in sys.modules], file=sys.stderr)"
    )
    (tmp_path / "sar.toml").write_text('extends = "sar_tiny"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert set(json.loads(done.stderr.replace("'", '"'))) <= allowed
