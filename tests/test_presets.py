"""Presets resolve, or every fault is named at once: file, key, value and what would work."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mlkit.errors import SettingsError
from mlkit.preset_files import chain_of, find_preset, list_presets
from mlkit.presets import load_settings, override, resolve_preset, to_toml, validate
from mlkit.settings import Places
from mlkit.tasks import available_tasks

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {path.stem: path for path in sorted(ROOT.glob("presets/*/*.toml"))}
CHAINS = {name for name, path in SHIPPED.items() if "chain" in tomllib.loads(path.read_text())}
FILES = {name: path for name, path in SHIPPED.items() if name not in CHAINS}

TRAIN_KEYS = (
    "accumulate, batch_size, betas, channels_last, deterministic, ema_decay, epochs, ewc, ewc_data, "
    "ewc_samples, freeze, grad_clip_norm, lr, min_lr_ratio, "
    "optimizer, precision, schedule, steps, warmup_epochs, warmup_steps, weight_decay, workers"
)
TOP_KEYS = "checkpoint, data, debug, eval, loss, model, preset, seed, task, tracking, train"


def problems_of(name: str | Path, *assignments: str, **options: Any) -> list[str]:
    """Return the sentences of a refusal; the test fails when nothing is refused."""
    with pytest.raises(SettingsError) as caught:
        resolve_preset(str(name), assignments=assignments, **options)
    return list(caught.value.problems)


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


# ---- the shipped ones ----------------------------------------------------------------------------------------


def test_the_shipped_presets_are_the_files_of_the_presets_folder() -> None:
    assert list_presets() == SHIPPED
    assert len(SHIPPED) == len(list(ROOT.glob("presets/*/*.toml")))  # names are unique over all tasks


@pytest.mark.parametrize("quick_test", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_shipped_preset_resolves_and_reads_back_unchanged(name: str, quick_test: bool, tmp_path: Path) -> None:
    settings = resolve_preset(name, quick_test=quick_test).settings
    assert settings.preset == name
    assert settings.task == FILES[name].parent.name
    assert load_settings(write(tmp_path, to_toml(settings))) == settings


def test_every_shipped_chain_holds_shipped_presets_of_its_task() -> None:
    for name in CHAINS:
        chain = chain_of(name)
        assert chain is not None and chain.task == SHIPPED[name].parent.name
        assert [FILES[link].parent.name for link in chain.links] == [chain.task] * len(chain.links)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_preset_opens_with_purpose_command_hardware_expectation_and_date(name: str) -> None:
    heads = [line.split(":")[0] for line in SHIPPED[name].read_text().splitlines() if line.startswith("# ")]
    assert heads == ["# Purpose", "# Command", "# Hardware", "# Expected", "# Date"]


@pytest.mark.parametrize("task", available_tasks())
def test_every_task_has_a_tiny_preset(task: str) -> None:
    assert ("ftd_tiny" if task == "sr" else f"{task}_tiny") in FILES


# ---- mutations -----------------------------------------------------------------------------------------------

Place = tuple[str | int, ...]


def places_in(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield each key of a preset with its value: tables, lists of tables and what is in them."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(key, str):
            yield (*place, key), inner
        yield from places_in(inner, (*place, key))


def replaced(values: dict[str, Any], place: Place, *, key: str | None = None, value: Any = None) -> dict[str, Any]:
    """Return the values with another key, or another value, at a place."""
    values = copy.deepcopy(values)
    inner: Any = values
    for part in place[:-1]:
        inner = inner[part]
    if key is None:
        inner[place[-1]] = value
    else:
        inner[key] = inner.pop(place[-1])
    return values


def refusal(values: dict[str, Any], file: Path, quick_test: bool) -> list[str]:
    file.write_text(tomli_w.dumps(values))
    try:
        if chain_of(str(file)) is None:
            resolve_preset(str(file), quick_test=quick_test)
    except SettingsError as error:
        return list(error.problems)
    return []


def shown(place: Place) -> str:
    return ".".join(str(part) for part in place if part != "quick_test")


def typos(word: str) -> list[str]:
    middle = len(word) // 2
    found = {
        word[:middle] + word[middle + 1 :],  # a letter missing
        word[:middle] + word[middle] + word[middle:],  # a letter twice
        word[:-2] + word[-1] + word[-2],  # two letters swapped
        word[:-1] + "x",  # another letter
    }
    return sorted(found - {word, ""})


WITHOUT_RANGE = ("extends", "quick_test", "preset")
FREE_TEXT = ("base", "vae", "targets")  # a path, a hub id, a regex: told when the model is built


def wrong_values(value: Any) -> list[Any]:
    """Return values of another type than a key's own."""
    if isinstance(value, bool):
        return ["yes", 1, {}]
    if isinstance(value, int | float):
        return ["12", True, []]
    if isinstance(value, str):
        return [7, False, ["a"]]
    return [7, "text", True]


def out_of_range(place: Place, value: Any) -> list[Any]:
    """Return values of the right type that no preset can mean."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or place[0] in WITHOUT_RANGE[:1]:
        return []
    if place[-1] in FREE_TEXT:
        return []
    if place[-1] in ("min", "max"):  # a bound of a score may be any finite number
        return [float("inf"), float("nan")]
    return ["no_such_thing"] if isinstance(value, str) else [-1, float("nan")]


def mutations(name: str) -> Iterator[tuple[str, Place, Any, dict[str, Any]]]:
    values = tomllib.loads(FILES[name].read_text())
    for place, value in places_in(values):
        word = str(place[-1])
        for typo in typos(word):
            yield "typo", place, typo, replaced(values, place, key=typo)
        for wrong in wrong_values(value)[: 2 if word == "targets" else None]:  # a list of names is right there
            yield "type", place, wrong, replaced(values, place, value=wrong)
        for wrong in out_of_range(place, value):
            yield "range", place, wrong, replaced(values, place, value=wrong)


@pytest.mark.parametrize("name", FILES)
def test_at_least_95_percent_of_mutations_are_named_with_file_and_key(name: str, tmp_path: Path) -> None:
    silent, unnamed, misled, counts = [], [], [], {"typo": 0, "type": 0, "range": 0}
    for kind, place, wrong, values in mutations(name):
        counts[kind] += 1
        told = refusal(values, tmp_path / "mutated.toml", quick_test="quick_test" in place)
        mutation = f"{kind} {shown(place)} -> {wrong!r}: {told}"
        key = shown((*place[:-1], wrong) if kind == "typo" else place)
        key = key or ("quick_test" if kind != "typo" else wrong)
        if not told:
            silent.append(mutation)
        elif not any("mutated.toml" in sentence and key in sentence for sentence in told):
            unnamed.append(mutation)
        elif kind == "typo" and not any(f"(did you mean '{place[-1]}'?)" in sentence for sentence in told):
            misled.append(mutation)
    total = sum(counts.values())
    assert counts["typo"] > 10 and counts["type"] > 5 and counts["range"] > 0
    assert not silent
    assert len(unnamed) <= 0.05 * total, unnamed
    assert len(misled) <= 0.05 * counts["typo"], misled


def one_letter_apart(word: str) -> list[str]:
    """Return the word with each of its letters changed, and each left out."""
    others = {letter: "a" if letter in "z_" else chr(ord(letter) + 1) for letter in word}
    found = {
        word[:place] + other + word[place + 1 :] for place, letter in enumerate(word) for other in (others[letter], "")
    }
    return sorted(found - {word, ""})


def test_any_one_letter_of_any_key_of_any_preset_is_missed_and_the_right_key_is_suggested(tmp_path: Path) -> None:
    tried, silent, misled = set(), [], []
    for name, path in SHIPPED.items():
        values = tomllib.loads(path.read_text())
        for place, _ in places_in(values):
            for typo in one_letter_apart(str(place[-1])):
                mutation = (path.parent.name, name in CHAINS, place, typo)  # the same in every preset of a task
                if mutation in tried:
                    continue
                tried.add(mutation)
                told = refusal(replaced(values, place, key=typo), tmp_path / "m.toml", quick_test="quick_test" in place)
                if not told:
                    silent.append(mutation)
                elif not any(f"(did you mean '{place[-1]}'?)" in sentence for sentence in told):
                    misled.append(mutation)
    assert len(tried) > 1500 and not silent
    assert len(misled) <= 0.05 * len(tried), misled


# ---- sentences -----------------------------------------------------------------------------------------------


def test_an_unknown_preset_is_answered_with_the_nearest_and_others() -> None:
    names = f"{', '.join(sorted(SHIPPED)[:12])} and {len(SHIPPED) - 12} more"
    assert problems_of("basline_c16") == [
        f"unknown preset 'basline_c16' (did you mean 'baseline_c16'?); there are {names}; or give a file"
    ]
    assert problems_of("nowhere.toml") == ["preset file nowhere.toml does not exist"]


def test_all_faults_of_a_file_are_told_at_once_each_with_file_and_key(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        task = "sar"
        sead = 3
        [data]
        augment = "yes"
        [train]
        steps = 0
        learning_rate = 1e-3
        schedule = "cosin"
        channels_last = "always"
        betas = [0.9, 1.0]
        [[eval.criteria]]
        metric = "psnr"
        minn = 1.5
        """,
    )
    assert problems_of(file) == [
        "mine.toml: data.augment = 'yes': input should be true or false",
        "mine.toml: train.steps = 0: input should be greater than or equal to 1",
        "mine.toml: train.betas.1 = 1.0: input should be less than 1",
        "mine.toml: train.schedule = 'cosin': input should be 'constant', 'cosine' or 'onecycle'",
        "mine.toml: train.channels_last = 'always': input should be true or false, or input should be 'auto'",
        f"mine.toml: unknown key 'train.learning_rate' (did you mean 'lr'?); train has {TRAIN_KEYS}",
        "mine.toml: unknown key 'eval.criteria.0.minn' (did you mean 'min'?); "
        "eval.criteria.0 has max, metric, min, relative_to_baseline",
        f"mine.toml: unknown key 'sead' (did you mean 'seed'?); the top level has {TOP_KEYS}",
    ]


def test_an_unknown_task_and_a_missing_one_are_told_with_the_file(tmp_path: Path) -> None:
    assert problems_of(write(tmp_path, 'task = "saar"\ntrain.steps = 1')) == [
        "mine.toml: task: unknown task 'saar' (did you mean 'sar'?); there are sar, sr, demosaic, lens, bvae"
    ]
    assert problems_of(write(tmp_path, 'tsk = "sar"\ntrain.steps = 1')) == [
        "mine.toml: unknown key 'tsk' (did you mean 'task'?)"
    ]
    assert problems_of(write(tmp_path, 'extend = "baseline_c16"')) == [
        "mine.toml: unknown key 'extend' (did you mean 'extends'?)"
    ]
    assert problems_of(write(tmp_path, "seed = 1")) == ['settings need a task, such as task = "sar"']


def test_a_file_that_is_no_toml_or_no_text_is_named(tmp_path: Path) -> None:
    told = problems_of(write(tmp_path, "train.lr = = 3"))
    assert len(told) == 1 and told[0].startswith(f"settings file {tmp_path / 'mine.toml'} is not valid TOML: ")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    assert problems_of(tmp_path / "mine.toml")[0].startswith(f"settings file {tmp_path / 'mine.toml'} is not valid")


def test_steps_and_epochs_are_one_choice(tmp_path: Path) -> None:
    sentence = "mine.toml: train: set exactly one of steps and epochs"
    assert problems_of(write(tmp_path, 'task = "sar"\n[train]\nsteps = 5\nepochs = 2')) == [sentence]
    assert problems_of(write(tmp_path, 'task = "sar"\n[train]\nlr = 1e-3')) == [sentence]


def test_an_unknown_metric_is_found_before_training(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'extends = "baseline_c16"\n[eval]\nearly_stop_metric = "los"\n[[eval.criteria]]\nmetric = "psmr"\nmin = 1',
    )
    told = problems_of(file)
    assert [sentence.split(";")[0] for sentence in told] == [
        "mine.toml: eval.early_stop_metric = 'los': unknown metric (did you mean 'loss'?)",
        "mine.toml: eval.criteria.0.metric = 'psmr': unknown metric (did you mean 'psnr'?)",
    ]
    write(tmp_path, file.read_text().replace('"los"', '"loss"\nscorer = "my.module:score"'))
    assert resolve_preset(str(file)).settings.eval.criteria[0].metric == "psmr"  # the scorer may bring it


# ---- extends and quick_test ----------------------------------------------------------------------------------


def test_extending_overrides_key_by_key_and_remembers_each_origin(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "baseline_c16"\n[train]\nlr = 5e-4\nweight_decay = 0.0', "base.toml")
    resolved = resolve_preset(str(write(tmp_path, 'extends = "base.toml"\n[train]\nlr = 7e-4')))
    train = resolved.settings.train
    assert (train.lr, train.weight_decay, train.batch_size) == (7e-4, 0.0, 32)
    origins = {key: resolved.origins[f"train.{key}"] for key in ("lr", "weight_decay", "batch_size")}
    assert origins == {"lr": "mine.toml", "weight_decay": "base.toml", "batch_size": "baseline_c16.toml"}
    assert resolved.settings.preset == "mine"


def test_a_fault_of_an_extended_file_is_told_with_that_file(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "baseline_c16"\n[train]\nlr = -1', "base.toml")
    told = problems_of(write(tmp_path, 'extends = "base.toml"\n[model]\nbase_channels = 1'))
    assert told == [
        "base.toml: train.lr = -1: input should be greater than 0",
        "mine.toml: model.base_channels = 1: input should be greater than or equal to 4",
    ]


def test_extending_oneself_nothing_or_no_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "mine.toml"', "other.toml")
    file = write(tmp_path, 'extends = "other.toml"')
    assert problems_of(file) == [f"preset {file} extends itself, by way of mine.toml, other.toml"]
    assert problems_of(write(tmp_path, "extends = 5")) == ["mine.toml: extends = 5: input should be a preset's name"]
    told = problems_of(write(tmp_path, 'extends = "baseline_c61"'))
    assert len(told) == 1
    assert told[0].startswith("mine.toml: extends: unknown preset 'baseline_c61' (did you mean 'baseline_c16'?)")


def test_quick_test_faults_name_the_file_that_made_them(tmp_path: Path) -> None:
    file = write(tmp_path, 'extends = "baseline_c16"\n[quick_test.train]\nstep = 3')
    assert problems_of(file, quick_test=True) == [
        f"mine.toml [quick_test]: unknown key 'train.step' (did you mean 'steps'?); train has {TRAIN_KEYS}"
    ]
    resolved = resolve_preset("residual_v1_c16", quick_test=True)
    assert resolved.origins["train.steps"] == "residual_v1_c16.toml [quick_test]"
    assert resolved.origins["train.warmup_steps"] == "baseline_c16.toml [quick_test]"
    assert resolved.origins["train.weight_decay"] == "baseline_c16.toml"
    assert not [key for key in resolved.origins if key.startswith("quick_test")]


def test_a_quick_test_that_is_absent_or_no_table_is_refused(tmp_path: Path) -> None:
    plain = write(tmp_path, 'task = "sar"\ntrain.steps = 3')
    assert problems_of(plain, quick_test=True) == [
        f"preset '{plain}' has no [quick_test] table; give --max-steps instead"
    ]
    assert problems_of(write(tmp_path, 'task = "sar"\nquick_test = 5')) == [
        "mine.toml: quick_test = 5: input should be a table"
    ]


def test_a_mistyped_quick_test_is_told_by_its_right_name(tmp_path: Path) -> None:
    file = write(tmp_path, 'task = "sar"\ntrain.steps = 3\n[quick_tets.train]\nsteps = 1')
    told = f"mine.toml: unknown key 'quick_tets' (did you mean 'quick_test'?); the top level has {TOP_KEYS}"
    assert problems_of(file, quick_test=True) == problems_of(file) == [told]


def test_a_quick_test_in_epochs_over_one_in_steps_takes_its_place(tmp_path: Path) -> None:
    file = write(tmp_path, 'extends = "baseline_c16"\n[quick_test.train]\nepochs = 0.5')
    train = resolve_preset(str(file), quick_test=True).settings.train
    assert (train.epochs, train.steps) == (0.5, None)


# ---- --set, flags, environment -------------------------------------------------------------------------------


def test_assignments_are_toml() -> None:
    settings = resolve_preset(
        "baseline_c16",
        assignments=[
            "train.lr=2e-4",
            'train.schedule = "constant"',
            "train.betas = [0.8, 0.99]",
            'checkpoint.eval_ids=["000001", "000007"]',
            "data.augment=false",
            "eval.criteria=[]",
        ],
    ).settings
    assert settings.train.lr == 2e-4
    assert settings.train.schedule == "constant"
    assert settings.train.betas == (0.8, 0.99)
    assert settings.checkpoint.eval_ids == ("000001", "000007")
    assert settings.data.augment is False  # type: ignore[attr-defined]
    assert settings.eval.criteria == ()
    assert settings.train.epochs == 30  # what was not named stays


def test_every_assignment_that_is_no_toml_is_told_with_the_form_that_works() -> None:
    assert problems_of("baseline_c16", "train.schedule=constant", "train.lr", "train.lr=") == [
        "--set train.schedule=constant is not a TOML assignment; "
        "strings want quotes: --set 'train.schedule=\"constant\"'",
        "--set train.lr is not a TOML assignment; strings want quotes: --set 'train.lr=2e-4'",
        "--set train.lr= is not a TOML assignment; strings want quotes: --set 'train.lr=2e-4'",
    ]
    works = resolve_preset("baseline_c16", assignments=['train.schedule="constant"']).settings
    assert works.train.schedule == "constant"


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("train.lr=true", "--set: train.lr = True: input should be a valid number"),
        ('train.lr="1e-3"', "--set: train.lr = '1e-3': input should be a valid number"),
        ("train.lr=nan", "--set: train.lr = nan: input should be a finite number"),
        ("train.lr=inf", "--set: train.lr = inf: input should be a finite number"),
        ("train.lr=0", "--set: train.lr = 0: input should be greater than 0"),
        ("train.batch_size=8.0", "--set: train.batch_size = 8.0: input should be a valid integer"),
        ("train=5", "--set: train = 5: input should be a table"),
        ('checkpoint.eval_ids="000001"', "--set: checkpoint.eval_ids = '000001': input should be a list"),
        ("seed=-1", "--set: seed = -1: input should be greater than or equal to 0"),
        (
            'extends="sar_tiny"',
            f"--set: unknown key 'extends'; the top level has {TOP_KEYS}",
        ),
        (
            "train.max_steps=5",
            f"--set: unknown key 'train.max_steps' (did you mean 'steps'?); train has {TRAIN_KEYS}",
        ),
    ],
)
def test_a_faulty_assignment_is_told_with_its_key_and_value(assignment: str, sentence: str) -> None:
    assert problems_of("baseline_c16", assignment) == [sentence]


def test_the_later_source_wins_default_preset_quick_test_set_flag() -> None:
    def lr(*assignments: str, flag: float | None = None, quick_test: bool = False) -> tuple[float, str]:
        resolved = resolve_preset(
            "baseline_c16", assignments=assignments, flags={"train.lr": flag}, quick_test=quick_test
        )
        return resolved.settings.train.lr, resolved.origins["train.lr"]

    assert lr() == (1e-4, "baseline_c16.toml")
    assert lr(quick_test=True) == (1e-3, "baseline_c16.toml [quick_test]")
    assert lr("train.lr=2e-3", quick_test=True) == (2e-3, "--set")
    assert lr("train.lr=2e-3", "train.lr=4e-3") == (4e-3, "--set")
    assert lr("train.lr=2e-3", flag=3e-3, quick_test=True) == (3e-3, "flag")
    default = resolve_preset("baseline_c16")
    assert default.settings.train.accumulate == 1 and "train.accumulate" not in default.origins


def test_naming_steps_takes_epochs_back_and_the_reverse() -> None:
    by_flag = resolve_preset("baseline_c16", flags={"train.steps": 7})
    assert (by_flag.settings.train.steps, by_flag.settings.train.epochs) == (7, None)
    assert "train.epochs" not in by_flag.origins
    back = resolve_preset("sar_tiny", assignments=["train.epochs=0.5"]).settings.train
    assert (back.steps, back.epochs) == (None, 0.5)
    warm = resolve_preset("baseline_c16", assignments=["train.warmup_steps=3"]).settings.train
    assert (warm.warmup_steps, warm.warmup_epochs) == (3, None)


def test_override_keeps_what_it_does_not_name() -> None:
    stored = resolve_preset("sar_tiny").settings
    changed = override(stored, assignments=["train.lr=9e-4"], flags={"train.workers": 2, "train.steps": None})
    assert changed == stored.model_copy(update={"train": stored.train.model_copy(update={"lr": 9e-4, "workers": 2})})
    with pytest.raises(SettingsError) as caught:
        override(stored, flags={"train.workers": -2})
    assert caught.value.problems == ("flag: train.workers = -2: input should be greater than or equal to 0",)


def test_settings_cannot_be_changed_after_they_were_validated() -> None:
    settings = resolve_preset("sar_tiny").settings
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 5  # type: ignore[misc]


def test_the_environment_moves_files_and_never_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = {name: resolve_preset(name).settings for name in FILES}
    for key in ("seed", "lr", "train__lr", "train_lr", "steps", "batch_size", "task", "preset", "precision"):
        for prefix in ("", "MLKIT_"):
            monkeypatch.setenv((prefix + key).upper(), "3")
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "r"))
    monkeypatch.setenv("MLKIT_DATA_DIR", str(tmp_path / "d"))
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "c"))
    assert {name: resolve_preset(name).settings for name in FILES} == before
    places = Places()
    assert (places.runs_dir, places.data_dir, places.cache_dir) == (tmp_path / "r", tmp_path / "d", tmp_path / "c")
    for key in [key for key in os.environ if key.startswith("MLKIT_")]:
        monkeypatch.delenv(key)
    assert (Places().runs_dir, Places().data_dir) == (Path("runs"), Path("data"))


def test_a_preset_of_a_users_own_file_needs_no_shipped_one(tmp_path: Path) -> None:
    file = write(tmp_path, 'task = "sar"\ntrain.steps = 3')
    assert find_preset(str(file)) == file
    assert resolve_preset(str(file)).settings.train.steps == 3
    assert validate({"task": "sar", "train": {"steps": 3}}).train.lr == 1e-4
