"""A chain is the runs that one would start by hand, in order; the same command again goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import SettingsError
from mlkit.preset_files import chain_of
from mlkit.presets import resolve_preset

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]

STAGE = """
extends = "sar_tiny"
[model]
base_channels = 4
[train]
steps = {steps}
batch_size = 2
lr = {lr}
precision = "fp32"
channels_last = false
warmup_steps = 0
[checkpoint]
every = 2
grid = false
[tracking]
every = 1
[quick_test.train]
steps = 2
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Return a chain of three small presets."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, steps, lr in (("first", 4, 1e-3), ("second", 4, 5e-4), ("third", 2, 1e-4)):
        (folder / f"{name}.toml").write_text(STAGE.format(steps=steps, lr=lr))
    (folder / "all.toml").write_text('task = "sar"\nchain = ["first.toml", "second.toml", "third.toml"]\n')
    return folder / "all.toml"


@pytest.fixture
def start(mlkit: Mlkit, chain: Path, dataset: Path) -> Mlkit:
    return lambda *more: mlkit("train", "--preset", chain, "--data", dataset, *more)


def about(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def weights(run: Path, step: int) -> bytes:
    return (run / f"ckpt-{step}" / "model.safetensors").read_bytes()


def best(run: Path) -> Path:
    return run / (run / "best").read_text().strip()


def told(said: Any) -> list[str]:
    return [line.removeprefix("mlkit: ") for line in said.err.splitlines() if line.startswith("mlkit: ")]


def test_each_link_is_a_run_that_begins_with_the_best_weights_of_the_one_before(
    start: Mlkit, mlkit: Mlkit, runs: Path, chain: Path, dataset: Path
) -> None:
    said = start("--json")
    assert said.code == 0, said.err
    assert said.lines[0] == "chain all: first, second, third"
    first, second, third = (runs / name for name in ("first", "second", "third"))
    assert [about(run)["lineage"].get("parent") for run in (first, second, third)] == [
        None,
        str(best(first)),
        str(best(second)),
    ]
    links = [about(run)["chain"] for run in (first, second, third)]
    assert links == [{"name": "all", "link": number, "of": 3} for number in (1, 2, 3)]
    result = json.loads(said.out)
    assert result["chain"] == "all"
    assert [(one["run"], one["step"]) for one in result["runs"]] == [(str(first), 4), (str(second), 4), (str(third), 2)]
    by_hand = ("--preset", chain.with_name("second.toml"), "--init-from", best(first), "--name", "by_hand")
    assert mlkit("train", "--data", dataset, *by_hand).code == 0
    assert weights(runs / "by_hand", 4) == weights(second, 4)


def test_the_same_command_goes_on_where_a_signal_stopped_it(
    start: Mlkit, runs: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start("--name", "whole").code == 0
    from mlkit.training import trainer

    update = trainer._update

    def stopping(run: Any, *rest: Any, step: int, lr: float) -> Any:
        if run.name == "cut-second" and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(run, *rest, step=step, lr=lr)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_update", stopping)
        said = start("--name", "cut")
    assert said.code == 75
    assert said.lines[-2] == "the chain all stopped here; the same command goes on, then trains cut-third"
    assert not (runs / "cut-third").exists() and about(runs / "cut-second")["status"] == "wip"
    done = files(runs / "cut-first")
    said = start("--name", "cut", "--json")
    assert said.code == 0, said.err
    assert said.lines[0] == "chain all: cut-first (done), cut-second (goes on), cut-third"
    assert files(runs / "cut-first") == done
    result = json.loads(said.out)["runs"][0]
    assert result == {"run": str(runs / "cut-first"), "checkpoint": str(best(runs / "cut-first")), "done_before": True}
    for name, step in (("first", 4), ("second", 4), ("third", 2)):
        assert weights(runs / f"cut-{name}", step) == weights(runs / f"whole-{name}", step)
    before = files(runs)
    again = start("--name", "cut")
    assert again.code == 0 and again.lines[0] == "chain all: cut-first (done), cut-second (done), cut-third (done)"
    assert files(runs) == before


def test_a_link_that_was_killed_before_its_first_checkpoint_begins_again(start: Mlkit, runs: Path) -> None:
    assert start("--quick-test").code == 0
    whole = weights(runs / "third", 2)
    for folder in (*(runs / "third").glob("ckpt-*"),):
        shutil.rmtree(folder)
    for name in ("best", "last", "metrics.jsonl", "timing.jsonl"):
        (runs / "third" / name).unlink()
    content = about(runs / "third") | {"status": "wip"}
    (runs / "third" / "run.json").write_text(json.dumps(content))
    assert start("--quick-test").code == 0
    assert weights(runs / "third", 2) == whole


def test_what_is_not_what_the_command_means_is_never_taken(
    start: Mlkit, mlkit: Mlkit, runs: Path, files: Files, build: Mlkit, tmp_path: Path, chain: Path, dataset: Path
) -> None:
    assert start("--quick-test", "--max-steps", 1).code == 0
    before = files(runs)
    way = f"give --name NAME for a chain of its own, or remove {runs / 'first'} and those after it"
    said = start("--quick-test", "--max-steps", 1, "--lr", 0.5)
    assert told(said) == [f"run 'first' of this chain has train.lr = 0.002, this command means 0.5; {way}"]
    assert said.code == 3
    other = tmp_path / "other"
    assert build(other, "--seed", 5).code == 0
    said = mlkit("train", "--preset", chain, "--data", other, "--quick-test", "--max-steps", 1)
    assert said.code == 3 and told(said)[0].startswith(
        "run 'first' of this chain was trained on a dataset with sha256 "
    )
    said = start("--quick-test", "--max-steps", 1, "--init-from", "third")
    asked = best(runs / "third")
    assert told(said) == [f"run 'first' of this chain began from no other weights, not from {asked}; {way}"]
    assert files(runs) == before
    content = about(runs / "second")
    del content["chain"]
    (runs / "second" / "run.json").write_text(json.dumps(content))
    said = start("--quick-test", "--max-steps", 1)
    assert told(said)[0].startswith(f"a run 'second' exists in {runs}; use --name second_2")
    shutil.rmtree(runs / "second")
    said = start("--quick-test", "--max-steps", 1)
    assert told(said) == [
        f"run 'third' exists, but the link before it, 'second', is not done; "
        f"give --name NAME for a chain of its own, or remove {runs / 'third'} and those after it"
    ]


def test_everything_wrong_with_the_links_is_told_before_the_first_one_starts(
    start: Mlkit, runs: Path, chain: Path, refused: Refused
) -> None:
    for name in ("first", "third"):
        file = chain.with_name(f"{name}.toml")
        file.write_text(file.read_text().replace("batch_size = 2", "batch_size = 0"))
    said = start("--set", "seed=-1")
    assert said.code == 3
    assert sorted(told(said)) == [
        "--set: seed = -1: input should be greater than or equal to 0",
        "first.toml: train.batch_size = 0: input should be greater than or equal to 1",
        "third.toml: train.batch_size = 0: input should be greater than or equal to 1",
    ]
    assert start("--seeds", "0,1") == refused(
        2, "preset 'all' is a chain, which takes no --seeds: give --seed and --name"
    )
    assert start("--resume-from", "first") == refused(
        2, "preset 'all' is a chain, which takes no --resume-from: repeat its command"
    )
    assert not runs.exists()


def test_a_check_alone_checks_every_link_and_writes_nothing(start: Mlkit, runs: Path) -> None:
    said = start("--validate-only", "--json")
    assert said.code == 0, said.err
    assert [one["ready"] for one in json.loads(said.out)["runs"]] == [True] * 3
    assert not runs.exists()


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("chain = 3", ['all.toml: chain = 3: input should be a list of presets, such as ["a", "b"]']),
        ("chain = []", ['all.toml: chain = []: input should be a list of presets, such as ["a", "b"]']),
        (
            'chian = 3\nchain = ["first.toml"]\nsead = 1',
            [
                "all.toml: unknown key 'chian' (did you mean 'chain'?); a chain has task, chain",
                "all.toml: unknown key 'sead'; a chain has task, chain",
            ],
        ),
        (
            'chain = ["first.toml", "all.toml", "first.toml", "ftd_tiny"]',
            [
                "all.toml: chain: '{all}' is a chain itself; name its presets",
                "all.toml: chain: 'ftd_tiny' is of task 'sr', the chain is of 'sar'",
                "all.toml: chain names 'first' twice",
            ],
        ),
    ],
)
def test_a_chain_that_cannot_be_meant_is_refused(text: str, problems: list[str], chain: Path) -> None:
    chain.write_text(f'task = "sar"\n{text}\n')
    with pytest.raises(SettingsError) as caught:
        chain_of(str(chain))
    assert list(caught.value.problems) == [problem.format(all=chain) for problem in problems]


def test_an_unknown_link_and_a_missing_task_are_told_with_the_nearest(chain: Path) -> None:
    chain.write_text('chain = ["sar_tny", "gone.toml"]\n')
    with pytest.raises(SettingsError) as caught:
        chain_of(str(chain))
    task, link, file = caught.value.problems
    assert task == 'all.toml: a chain needs a task, such as task = "sar"'
    assert link.startswith("all.toml: chain: unknown preset 'sar_tny' (did you mean 'sar_tiny'?)")
    assert file == f"all.toml: chain: preset file {chain.parent / 'gone.toml'} does not exist"


def test_a_chain_is_no_preset_for_other_uses(mlkit: Mlkit, chain: Path, runs: Path) -> None:
    extending = chain.with_name("extending.toml")
    extending.write_text(f'extends = "{chain.name}"\n')
    said = mlkit("train", "--preset", extending)
    sentence = "extends: a chain neither extends nor is extended; extend one of its presets"
    assert (said.code, told(said)) == (3, [f"extending.toml: {sentence}"])
    with pytest.raises(SettingsError) as caught:
        resolve_preset(str(chain))
    assert caught.value.problems == (
        f"preset '{chain}' is a chain of runs: mlkit train --preset {chain}; its presets are first.toml, second.toml, "
        "third.toml",
    )
    assert chain_of("sar_tiny") is None
