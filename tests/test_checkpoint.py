"""Checkpoints: what is written is what was meant, every damage is named, nothing is lost when a write fails."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlkit import checkpoint as module
from mlkit.checkpoint import (
    checkpoint_folders,
    damages,
    load_weights,
    newest_good,
    open_checkpoint,
    prune,
    read_training_state,
    save_checkpoint,
    step_of,
    whole_state,
    write_pointer,
)
from mlkit.errors import CheckpointError, MlkitError
from mlkit.files import remove_partials
from mlkit.presets import validate
from mlkit.runs.folders import read_pointer

STATE = {"step": 5, "samples_seen": 40, "train_s": 1.5}


class Net(nn.Module):
    """A convolution, BatchNorm and a frozen part: parameters, buffers and a buffer that is not saved."""

    def __init__(self, seed: int = 0, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("grid", torch.randn(5))
        self.register_buffer("scratch", torch.randn(5), persistent=False)
        with torch.no_grad():
            self.norm.running_mean.normal_()  # type: ignore[union-attr]


SAVED = {
    "conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
    "norm.num_batches_tracked", "grid", "base.weight", "base.bias",
}  # fmt: skip


def save(folder: Path, net: nn.Module | None = None, step: int = 5, **changed: Any) -> module.Checkpoint:
    net = net if net is not None else Net()
    parts: dict[str, Any] = {
        "ema": {name: value.detach() * 2 for name, value in net.named_parameters() if value.requires_grad},
        "optimizer": {"optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(3)}}}, "scaler": {}},
        "training_state": STATE,
        "reports": {"eval.json": "{}\n"},
    }
    return save_checkpoint(folder, net, info={"step": step, "task": "toy"}, **{**parts, **changed})


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def problems_of(action: Callable[[], Any]) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        action()
    return caught.value.problems


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- round trip ----------------------------------------------------------------------------------------------


def test_what_is_saved_is_trained_weights_and_buffers_with_the_hash_of_every_file(tmp_path: Path) -> None:
    net = Net()
    made = save(tmp_path / "ckpt-5", net)
    assert names(made.folder) == {
        "checkpoint.json", "model.safetensors", "ema.safetensors", "training_state.json",
        "accelerator_state/optimizer.bin", "eval.json",
    }  # fmt: skip
    tensors = load_file(made.folder / "model.safetensors")
    assert tensors.keys() == SAVED
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in tensors.items())
    about = json.loads((made.folder / "checkpoint.json").read_text())
    hashed = names(made.folder) - {"checkpoint.json", "eval.json"}
    assert about["files"] == {
        name: {"bytes": (made.folder / name).stat().st_size, "sha256": sha(made.folder / name)} for name in hashed
    }
    assert (about["format_version"], about["step"], about["task"]) == (1, 5, "toy")
    assert made.is_full and made.step == 5


def test_loading_restores_every_value_in_place(tmp_path: Path) -> None:
    source, target = Net(0), Net(1)
    made = save(tmp_path / "ckpt-5", source)
    scratch = target.get_buffer("scratch").clone()
    objects = [id(value) for value in target.parameters()]
    load_weights(target, made, averaged=False)
    for name, value in whole_state(target).items():
        assert torch.equal(value, source.state_dict()[name]), name
    assert torch.equal(target.get_buffer("scratch"), scratch)
    assert [id(value) for value in target.parameters()] == objects
    assert all(value.requires_grad == (not name.startswith("base")) for name, value in target.named_parameters())


def test_averaged_loading_takes_the_average_and_the_models_own_buffers(tmp_path: Path) -> None:
    source, target = Net(0), Net(1)
    load_weights(target, save(tmp_path / "ckpt-5", source), averaged=True)
    assert torch.equal(target.conv.weight, source.conv.weight * 2)
    assert torch.equal(target.norm.running_mean, source.norm.running_mean)  # type: ignore[arg-type]
    plain = Net(1)
    load_weights(plain, save(tmp_path / "ckpt-6", source, ema={}), averaged=True)  # no average: the weights
    assert torch.equal(plain.conv.weight, source.conv.weight)


def test_state_and_optimizer_come_back_as_they_were(tmp_path: Path) -> None:
    state, tensors = read_training_state(save(tmp_path / "ckpt-5"))
    assert state == STATE
    assert torch.equal(tensors["optimizer"]["state"][0]["exp_avg"], torch.ones(3))


@pytest.mark.parametrize("missing", ["training_state", "optimizer"])
def test_without_its_state_it_is_weights_only(tmp_path: Path, missing: str) -> None:
    assert not save(tmp_path / "ckpt-5", **{missing: None}).is_full


def test_channels_last_and_transposed_weights_are_saved_with_their_values(tmp_path: Path) -> None:
    net = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.conv.weight = nn.Parameter(torch.randn(2, 3, 3, 3).transpose(0, 1))
    assert not net.conv.weight.is_contiguous()
    made = save(tmp_path / "ckpt-5", net)
    for name, value in load_file(made.folder / "model.safetensors").items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_half_precision_weights_keep_their_type(tmp_path: Path) -> None:
    net = Net().to(torch.bfloat16)
    tensors = load_file(save(tmp_path / "ckpt-5", net).folder / "model.safetensors")
    assert tensors["conv.weight"].dtype == torch.bfloat16 and torch.equal(tensors["conv.weight"], net.conv.weight)


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self, trained: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.first.weight.requires_grad_(trained)


def test_tied_weights_are_saved_loaded_and_stay_tied(tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    load_weights(target, save(tmp_path / "ckpt-5", source), averaged=False)
    assert torch.equal(target.second.weight, source.first.weight)
    assert target.second.weight is target.first.weight


def test_frozen_weights_of_one_run_start_another_that_trains_them(tmp_path: Path) -> None:
    """Stages freeze and thaw parts: what is frozen now may have been trained before."""
    source, target = Net(0), Net(1)
    target.requires_grad_(True)
    load_weights(target, save(tmp_path / "ckpt-5", source), averaged=False)
    assert torch.equal(target.base.weight, source.base.weight)


class Adapter(nn.Module):
    """A frozen base with an adapter that its own library would save."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Linear(3, 3).requires_grad_(False)
        self.down, self.up = nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False)

    def save_files(self, folder: Path) -> None:
        (folder / "adapter_config.json").write_text('{"r": 1}\n')
        save_file(
            {"down": self.down.weight.detach(), "up": self.up.weight.detach()}, folder / "adapter_model.safetensors"
        )
        (folder / "base" / "card").mkdir(parents=True)
        (folder / "base" / "card" / "README.md").write_text("what it was made from\n")

    def load_files(self, folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        with torch.no_grad():
            self.down.weight.copy_(tensors["down"])
            self.up.weight.copy_(tensors["up"])


def test_an_adapter_is_saved_in_its_librarys_files_verified_and_loaded(tmp_path: Path) -> None:
    source, target = Adapter(0), Adapter(1)
    made = save(tmp_path / "ckpt-5", source)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= made.info["files"].keys()
    assert "model.safetensors" not in names(made.folder)
    load_weights(target, made, averaged=False)
    assert torch.equal(target.up.weight, source.up.weight) and not torch.equal(target.base.weight, source.base.weight)
    load_weights(target, made, averaged=True)
    assert torch.equal(target.up.weight, source.up.weight * 2)
    change_byte(made.folder / "adapter_model.safetensors")
    change_byte(made.folder / "base" / "card" / "README.md")
    assert [text.partition(": sha256")[0] for text in problems_of(lambda: open_checkpoint(made.folder))] == [
        f"checkpoint {made.folder}: adapter_model.safetensors has changed",
        f"checkpoint {made.folder}: base/card/README.md has changed",
    ]


# ---- damages -------------------------------------------------------------------------------------------------

FILES = ("model.safetensors", "ema.safetensors", "training_state.json", "accelerator_state/optimizer.bin")


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    whole = (folder / name).read_bytes()
    for length in (0, 1, len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        assert problems_of(lambda: open_checkpoint(folder)) == (
            f"checkpoint {folder}: {name} is truncated or grown: {length} bytes instead of {len(whole)}",
        )


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_named_with_both_hashes(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    meant = sha(folder / name)
    change_byte(folder / name)
    assert problems_of(lambda: open_checkpoint(folder)) == (
        f"checkpoint {folder}: {name} has changed: sha256 {sha(folder / name)[:12]} instead of {meant[:12]}",
    )


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    (folder / name).unlink()
    assert problems_of(lambda: open_checkpoint(folder)) == (f"checkpoint {folder}: {name} is missing",)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    real = Path.open

    def denied(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    assert problems_of(lambda: open_checkpoint(folder)) == (
        f"checkpoint {folder}: model.safetensors cannot be read: Permission denied",
    )


def test_all_damages_are_told_at_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    (folder / "ema.safetensors").unlink()
    change_byte(folder / "model.safetensors")
    (folder / "training_state.json").write_text("")
    told = problems_of(lambda: open_checkpoint(folder))
    assert [sentence.split(": ")[1].split(" ")[0] for sentence in told] == [
        "model.safetensors",
        "ema.safetensors",
        "training_state.json",
    ]
    assert damages(open_checkpoint(folder, verify=False)) == [text.split(": ", 1)[1] for text in told]


def test_pictures_and_reports_are_not_part_of_what_is_verified(tmp_path: Path) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    (folder / "eval.json").unlink()
    (folder / "grid.png").write_bytes(b"picture")
    assert damages(open_checkpoint(folder)) == []


def test_one_whose_training_state_was_taken_out_is_whole_but_not_full(tmp_path: Path) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    (folder / "training_state.json").unlink()
    shutil.rmtree(folder / "accelerator_state")
    assert not open_checkpoint(folder).is_full
    (folder / "ema.safetensors").unlink()
    assert problems_of(lambda: open_checkpoint(folder)) == (f"checkpoint {folder}: ema.safetensors is missing",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (
            '{"format_version": 1, "step": 5, "fil',
            "is damaged: Unterminated string starting at: line 1 column 34 (char 33)",
        ),
        ("", "is damaged: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "is damaged: it has no format_version"),
        ('{"step": 5, "files": {}}', "is damaged: it has no format_version"),
        ('{"format_version": 1, "files": {}}', "is damaged: it has no step or no list of files"),
        ('{"format_version": 1, "step": 5}', "is damaged: it has no step or no list of files"),
        ('{"format_version": 2, "shards": []}', "has format version 2, this mlkit reads up to 1; update mlkit"),
    ],
)
def test_a_checkpoint_json_that_cannot_be_used_is_told(tmp_path: Path, content: str | None, sentence: str) -> None:
    folder = save(tmp_path / "ckpt-5").folder
    file = folder / "checkpoint.json"
    file.unlink() if content is None else file.write_text(content)
    for verify in (True, False):
        told = problems_of(lambda verify=verify: open_checkpoint(folder, verify=verify))  # type: ignore[misc]
        assert told == (f"checkpoint {file} {sentence}",)


def test_a_checkpoint_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert problems_of(lambda: open_checkpoint(tmp_path / "ckpt-9")) == (
        f"checkpoint {tmp_path / 'ckpt-9'} does not exist",
    )


# ---- the wrong model -----------------------------------------------------------------------------------------


def test_weights_of_another_model_are_refused_with_every_difference_and_change_nothing(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5", Net())
    other = Net(1, width=4)
    other.extra = nn.Linear(2, 2)
    other.grid = None  # type: ignore[assignment]
    before = copy.deepcopy(other.state_dict())
    assert problems_of(lambda: load_weights(other, made, averaged=False)) == (
        f"the weights in {made.folder} are of another model; missing: extra.weight, extra.bias; "
        "not in this model: grid; other shapes: conv.weight (3, 2, 3, 3) instead of (4, 2, 3, 3), "
        "conv.bias (3,) instead of (4,), norm.weight (3,) instead of (4,), norm.bias (3,) instead of (4,) and 2 more",
    )
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_one_difference_alone_is_refused_too(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5", Net())
    more, less = Net(), Net()
    more.extra = nn.Parameter(torch.zeros(2))
    less.conv.bias = None
    start = f"the weights in {made.folder} are of another model; "
    assert problems_of(lambda: load_weights(more, made, averaged=False)) == (start + "missing: extra",)
    assert problems_of(lambda: load_weights(less, made, averaged=False)) == (start + "not in this model: conv.bias",)


def test_an_average_of_another_model_is_refused(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5", ema={"conv.weight": torch.zeros(3, 2, 3, 3), "conv.bais": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"not in this model: conv.bais$"):
        load_weights(Net(), made, averaged=True)


def test_weights_that_are_no_safetensors_are_told(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5")
    (made.folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"weights .*model.safetensors cannot be read: "):
        load_weights(Net(), made, averaged=False)
    (made.folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights .*model.safetensors cannot be read: "):
        load_weights(Net(), made, averaged=False)


# ---- a pickle that means harm --------------------------------------------------------------------------------


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["torch", "plain"])
def test_a_pickle_that_runs_code_is_refused_though_its_hash_matches(tmp_path: Path, form: str) -> None:
    marker, folder = tmp_path / "harm-was-done", save(tmp_path / "ckpt-5").folder
    buffer = io.BytesIO()
    payload = {"optimizer": Harm(marker), "scaler": {}}
    if form == "torch":
        torch.save(payload, buffer)
    else:
        pickle.dump(payload, buffer)
    path = folder / "accelerator_state" / "optimizer.bin"
    path.write_bytes(buffer.getvalue())
    about = json.loads((folder / "checkpoint.json").read_text())
    del about["sha256"]  # as whoever forges a checkpoint would
    about["files"]["accelerator_state/optimizer.bin"] = {"bytes": path.stat().st_size, "sha256": sha(path)}
    (folder / "checkpoint.json").write_text(json.dumps(about))
    made = open_checkpoint(folder)  # whole, as far as hashes tell
    assert problems_of(lambda: read_training_state(made)) == (
        f"optimizer state {path} is damaged, or holds more than tensors and plain values, and was not loaded; "
        f"start a new run from the weights alone: mlkit train --preset NAME --init-from {folder}",
    )
    assert not marker.exists()
    if form == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()  # the harm is real


def test_an_optimizer_state_that_is_no_pickle_is_told(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5")
    path = made.folder / "accelerator_state" / "optimizer.bin"
    for content in (b"", b"nonsense", path.read_bytes()[:300]):
        path.write_bytes(content)
        assert problems_of(lambda: read_training_state(made))[0].startswith(f"optimizer state {path} is damaged, or")


# ---- writes that fail ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a save as SIGKILL does: nothing may clean up after it."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> list[int]:
    """Let the at-th write, sync or rename fail; a write leaves half of its bytes. Returns a countdown."""
    left = [at]

    def hit() -> bool:
        left[0] -= 1
        return left[0] == 0

    real_write, real_text, real_sync, real_replace = Path.write_bytes, Path.write_text, os.fsync, os.replace

    def write_bytes(path: Path, content: bytes) -> int:
        if hit():
            real_write(path, content[: len(content) // 2])
            raise error()
        return real_write(path, content)

    def write_text(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
        if hit():
            real_text(path, text[: len(text) // 2], *args, **kwargs)
            raise error()
        return real_text(path, text, *args, **kwargs)

    def fsync(handle: int) -> None:
        if hit():
            raise error()
        real_sync(handle)

    def replace(source: Any, target: Any) -> None:
        if hit():
            raise error()
        real_replace(source, target)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return left


OPERATIONS = 15  # 6 files written; 6 files, accelerator_state and the folder synced; 1 rename; then the run's folder


def no_space() -> BaseException:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_save_has_as_many_operations_as_the_tests_below_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = interrupt(monkeypatch, 10**6, no_space)
    save(tmp_path / "ckpt-10")
    assert 10**6 - left[0] == OPERATIONS + 1


@pytest.mark.parametrize("at", range(1, OPERATIONS + 2))
def test_a_full_disk_at_any_operation_leaves_the_old_checkpoint_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save(tmp_path / "ckpt-5")
    with monkeypatch.context() as full:
        interrupt(full, at, no_space)
        with pytest.raises(CheckpointError, match=r"cannot write .*ckpt-10: the disk is full \(\d+ MB free\); .* good"):
            save(tmp_path / "ckpt-10", Net(1), step=10)
    published = at == OPERATIONS + 1  # only the sync of the run's folder was left
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt-5", *(["ckpt-10"] if published else [])}
    found, skipped = newest_good(tmp_path)
    assert found is not None and found.step == (10 if published else 5) and skipped == []


@pytest.mark.parametrize("at", range(1, OPERATIONS + 2))
def test_a_kill_at_any_operation_leaves_only_a_partial_that_nothing_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    save(tmp_path / "ckpt-5")
    with monkeypatch.context() as dying:
        interrupt(dying, at, Killed)
        dying.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process cleans nothing
        with pytest.raises(Killed):
            save(tmp_path / "ckpt-10", Net(1), step=10)
    there = {path.name for path in tmp_path.iterdir()}
    published = at == OPERATIONS + 1
    rest = there - {"ckpt-5", "ckpt-10"}
    assert ("ckpt-10" in there) == published
    assert len(rest) == (0 if published else 1) and all(name.startswith(".partial-ckpt-10-") for name in rest)
    found, skipped = newest_good(tmp_path)
    assert found is not None and found.step == (10 if published else 5) and skipped == []
    assert remove_partials(tmp_path) == len(rest)
    assert {path.name for path in tmp_path.iterdir()} == there - rest


@pytest.mark.parametrize("at", range(1, OPERATIONS + 3))
def test_a_full_disk_while_one_of_the_same_step_is_replaced_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    old, new = Net(0), Net(1)
    save(tmp_path / "ckpt-5", old)
    with monkeypatch.context() as full:
        interrupt(full, at, no_space)
        with pytest.raises(CheckpointError, match="the disk is full"):
            save(tmp_path / "ckpt-5", new)
    expected = new if at == OPERATIONS + 2 else old
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-5"]
    target = Net(2)
    load_weights(target, open_checkpoint(tmp_path / "ckpt-5"), averaged=False)
    assert torch.equal(target.conv.weight, expected.conv.weight)


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "mkdir", denied)
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "ckpt-5")
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'ckpt-5'}: Permission denied; choose a folder that you may write to; there is no "
        f"older one, to start again: mlkit resume {tmp_path}"
    )


def test_what_the_disk_changed_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_bytes

    def broken(path: Path, content: bytes) -> int:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        return real(path, flipped if path.name == "model.safetensors" else content)

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(MlkitError, match=r"model.safetensors has changed: sha256"):
        save(tmp_path / "ckpt-5")


def test_numbers_that_json_cannot_hold_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "ckpt-5", training_state={**STATE, "best": float("nan")})
    assert list(tmp_path.iterdir()) == []


# ---- a run's checkpoints -------------------------------------------------------------------------------------


def empty_ones(run: Path, *steps: int) -> None:
    for step in steps:
        (run / f"ckpt-{step}").mkdir(parents=True)


def test_checkpoints_are_listed_by_step_and_other_names_passed_over(tmp_path: Path) -> None:
    empty_ones(tmp_path, 500, 1000, 20)
    for name in ("ckpt-", "ckpt-x", "ckpt-5-old", "ckpt--5", ".partial-ckpt-7-0a1b2c3d", "grids"):
        (tmp_path / name).mkdir()
        assert step_of(tmp_path / name) is None
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["ckpt-20", "ckpt-500", "ckpt-1000"]


def test_the_newest_good_one_is_found_and_every_skipped_one_told(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20, 25):
        save(tmp_path / f"ckpt-{step}", step=step)
    (tmp_path / "ckpt-25" / "checkpoint.json").unlink()
    (tmp_path / "ckpt-20" / "model.safetensors").write_bytes(b"")
    (tmp_path / "ckpt-15" / "training_state.json").unlink()
    shutil.rmtree(tmp_path / "ckpt-15" / "accelerator_state")
    size = (tmp_path / "ckpt-10" / "model.safetensors").stat().st_size
    found, skipped = newest_good(tmp_path)
    assert found is not None and found.step == 10
    assert skipped == [
        f"checkpoint {tmp_path / 'ckpt-25' / 'checkpoint.json'} does not exist",
        f"checkpoint {tmp_path / 'ckpt-20'}: model.safetensors is truncated or grown: 0 bytes instead of {size}",
        f"checkpoint {tmp_path / 'ckpt-15'} holds weights only, without its training state",
    ]
    for step in (5, 10):
        (tmp_path / f"ckpt-{step}" / "model.safetensors").unlink()
    found, skipped = newest_good(tmp_path)
    assert found is None and len(skipped) == 5
    assert newest_good(tmp_path / "absent") == (None, [])


def test_pointers_are_small_files_that_name_a_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path / f"ckpt-{step}", step=step)
    write_pointer(tmp_path, "best", tmp_path / "ckpt-5")
    write_pointer(tmp_path, "last", tmp_path / "ckpt-5")
    write_pointer(tmp_path, "last", tmp_path / "ckpt-10")
    assert (tmp_path / "last").read_bytes() == b"ckpt-10\n" and not (tmp_path / "last").is_symlink()
    assert read_pointer(tmp_path, "best") == tmp_path / "ckpt-5"
    assert read_pointer(tmp_path, "last") == tmp_path / "ckpt-10"


SCORES = {5: 20.0, 10: 22.0, 15: None, 20: 22.0, 25: 21.0, 30: 19.0}


def pruned(run: Path, scores: Mapping[int, float | None], **rules: Any) -> tuple[list[int], list[int]]:
    """Return the steps that stay and those that go."""
    empty_ones(run, *scores)
    rules = {"keep_last": 1, "keep_best": 0, "keep_every": None} | rules
    removed = prune(run, score=lambda path: scores[int(path.name.split("-")[1])], **rules)
    return [step_of(path) or 0 for path in checkpoint_folders(run)], [step_of(path) or 0 for path in removed]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 1}, [30]),
        ({"keep_last": 2}, [25, 30]),
        ({"keep_last": 99}, [5, 10, 15, 20, 25, 30]),
        ({"keep_best": 1}, [10, 30]),  # the first of equals
        ({"keep_best": 2}, [10, 20, 30]),
        ({"keep_best": 3}, [10, 20, 25, 30]),
        ({"keep_best": 99}, [5, 10, 20, 25, 30]),  # without a score it is not among the best
        ({"keep_every": 10}, [10, 20, 30]),
        ({"keep_every": 15}, [15, 30]),
        ({"keep_last": 2, "keep_best": 1, "keep_every": 15}, [10, 15, 25, 30]),
    ],
    ids=str,
)
def test_what_no_rule_keeps_is_removed(tmp_path: Path, rules: dict[str, int], kept: list[int]) -> None:
    assert pruned(tmp_path, SCORES, **rules) == (kept, sorted(SCORES.keys() - set(kept)))
    assert {path.name for path in tmp_path.iterdir()} == {f"ckpt-{step}" for step in kept}  # nothing half-removed


def test_a_protected_checkpoint_stays(tmp_path: Path) -> None:
    assert pruned(tmp_path, SCORES, protect=[tmp_path / "ckpt-15"])[0] == [15, 30]


@given(
    scores=st.dictionaries(st.integers(1, 60), st.none() | st.floats(-5, 5), min_size=1, max_size=9),
    keep_last=st.integers(1, 4),
    keep_best=st.integers(0, 4),
    keep_every=st.none() | st.integers(1, 20),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_pruning_never_removes_last_best_or_protected_and_keeps_no_more(
    tmp_path_factory: pytest.TempPathFactory,
    scores: dict[int, float | None],
    keep_last: int,
    keep_best: int,
    keep_every: int | None,
    data: st.DataObject,
) -> None:
    run = tmp_path_factory.mktemp("run")
    protected = data.draw(st.sampled_from(sorted(scores)))
    kept, removed = pruned(
        run,
        scores,
        keep_last=keep_last,
        keep_best=keep_best,
        keep_every=keep_every,
        protect=[run / f"ckpt-{protected}"],
    )
    assert sorted(kept + removed) == sorted(scores)
    last = sorted(scores)[-keep_last:]
    assert {*last, protected} <= set(kept)
    for step in removed:
        assert keep_every is None or step % keep_every
        if (score := scores[step]) is not None:  # as many are better, or as good and earlier
            ahead = [s for s, v in scores.items() if v is not None and (v > score or (v == score and s < step))]
            assert len(ahead) >= keep_best
    for step in set(kept) - {*last, protected}:
        by_best = scores[step] is not None and (
            sum(1 for s, v in scores.items() if v is not None and (v, -s) > (scores[step], -step)) < keep_best
        )
        assert by_best or (keep_every is not None and step % keep_every == 0)
    shutil.rmtree(run)


def test_a_kill_while_pruning_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (5, 10):
        save(tmp_path / f"ckpt-{step}", step=step)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            prune(tmp_path, keep_last=1, keep_best=0, keep_every=None, score=lambda path: None)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["ckpt-10"]
    assert remove_partials(tmp_path) == 1


# ---- format version 1 ----------------------------------------------------------------------------------------

STORED = Path(__file__).parent / "fixtures" / "checkpoint_v1"  # never written again: what users' disks hold


def stored_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def counted(value: Tensor, factor: float = 1.0) -> Tensor:
    """Return the weights that the stored example was made with: (0, 1, 2, ...) - 3, over 16."""
    return factor * (torch.arange(value.numel()) - 3).reshape(value.shape) / 16


def test_a_stored_checkpoint_of_format_1_is_read() -> None:
    made = open_checkpoint(STORED)
    assert (made.info["format_version"], made.step, made.is_full) == (1, 40, True)
    assert made.info["preprocessing"] == {"percentiles": [1.0, 99.0], "low_db": -25.5, "high_db": 4.25}
    assert (made.info["dataset_label"], made.info["dataset_sha256"]) == ("simulated", "ab" * 32)
    net = stored_net()
    load_weights(net, made, averaged=False)
    assert all(torch.equal(value, counted(value)) for value in net.parameters())
    norm: Any = net[1]
    assert norm.running_mean.tolist() == [0.25, -0.5] and norm.running_var.tolist() == [2.0, 4.0]
    assert norm.num_batches_tracked.item() == 40
    load_weights(net, made, averaged=True)
    assert all(torch.equal(value, counted(value, 2.0)) for value in net.parameters())


def test_a_stored_optimizer_and_state_of_format_1_go_on() -> None:
    from mlkit.training.state import TrainState

    values, tensors = read_training_state(open_checkpoint(STORED))
    state = TrainState(**values)
    assert (state.step, state.samples_seen, state.best, state.best_step) == (40, 320, 17.5, 40)
    net = stored_net()
    groups = [
        {"params": [value for value in net.parameters() if value.ndim > 1], "weight_decay": 0.01},
        {"params": [value for value in net.parameters() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    optimizer.load_state_dict(tensors["optimizer"])
    for value in net.parameters():  # one update with gradient 0.5: (1 - 0.9) 0.5 and (1 - 0.999) 0.25
        held = optimizer.state[value]
        assert held["step"].item() == 1
        torch.testing.assert_close(held["exp_avg"], torch.full_like(value, 0.05))
        torch.testing.assert_close(held["exp_avg_sq"], torch.full_like(value, 0.00025))
    torch.amp.GradScaler("cpu", enabled=False).load_state_dict(tensors["scaler"])


def test_stored_settings_of_format_1_are_valid_today() -> None:
    stored = validate(open_checkpoint(STORED).info["settings"])
    assert (stored.task, stored.preset, stored.train.lr, stored.train.steps) == ("sar", "sar_tiny", 2e-3, 40)
    assert [criterion.metric for criterion in stored.eval.criteria] == ["psnr", "enl_ratio", "nonfinite_steps"]


def test_a_changed_setting_in_checkpoint_json_is_found(tmp_path: Path) -> None:
    made = save(tmp_path / "ckpt-5")
    about = made.folder / "checkpoint.json"
    about.write_text(about.read_text().replace('"task": "toy"', '"task": "joy"'))
    assert problems_of(lambda: open_checkpoint(made.folder)) == (
        f"checkpoint {about} has changed since it was written (sha256)",
    )
