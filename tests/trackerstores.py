"""What the trackers of others have on disk, read by their own means: scalars, pictures, settings, the final table.

python trackerstores.py KIND FOLDER     log a run that is killed and resumed, in FOLDER; print what the store then holds
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Scalars = dict[str, list[list[float]]]  # [step, value] by key


def read(kind: str, folder: Path) -> dict[str, Any]:
    """Return {"scalars", "pictures" ([step, height, width]), "lr" (of the settings), "final" (text of the table)}."""
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "tensorboard": _tensorboard,
        "wandb": _wandb,
        "mlflow": _mlflow,
        "trackio": _trackio,
    }
    return readers[kind](folder)


def _tensorboard(folder: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "first" / "tensorboard" / "first"))
    board.Reload()
    texts = {tag: board.Tensors(tag) for tag in board.Tags()["tensors"]}
    settings = json.loads(texts["settings/text_summary"][0].tensor_proto.string_val[0].decode()[8:-4])
    return {
        "scalars": {
            tag: [[event.step, event.value] for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]
        },
        "pictures": [
            [event.step, event.height, event.width] for tag in board.Tags()["images"] for event in board.Images(tag)
        ],
        "lr": settings["train"]["lr"],
        "final": texts["final/text_summary"][0].tensor_proto.string_val[0].decode(),
    }


def _wandb(folder: Path) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    (store,) = folder.rglob("run-*.wandb")
    found: dict[str, Any] = {"scalars": {}, "pictures": [], "lr": None, "final": ""}
    limit = time.monotonic() + 30
    while True:  # its own process writes, and ends with the record "exit"
        records = [Record.FromString(raw) for raw in _leveldb_records(store.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        assert time.monotonic() < limit, "W&B's process did not finish its file"
        time.sleep(0.05)
    for record in records:
        for item in record.config.update:
            if item.key == "train":
                found["lr"] = json.loads(item.value_json)["lr"]
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for key, value in values.items():
            if key.startswith(("train/", "validation/")):
                found["scalars"].setdefault(key, []).append([values["_step"], value])
        if "grid/height" in values:
            found["pictures"].append([values["_step"], values["grid/height"], values["grid/width"]])
        if "final/path" in values:
            found["final"] = (store.parent / "files" / values["final/path"]).read_text()
    return found


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a log of LevelDB after W&B's 7 bytes: blocks of 32 KiB, pieces of 4+2+1 bytes of header."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield record
            record = b""


def _mlflow(folder: Path) -> dict[str, Any]:
    from mlflow import MlflowClient
    from PIL import Image

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mlkit").experiment_id])
    kept = [
        client.download_artifacts(run.info.run_id, file.path) for file in client.list_artifacts(run.info.run_id, "grid")
    ]
    pictures = []
    for path in kept:
        with Image.open(path) as opened:
            pictures.append([int(Path(path).stem.removeprefix("grid_")), opened.height, opened.width])
    final = Path(client.download_artifacts(run.info.run_id, "final.md")).read_text()
    return {
        "scalars": {
            key: [[metric.step, metric.value] for metric in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        },
        "pictures": pictures,
        "lr": float(run.data.params["train.lr"]),
        "final": final,
    }


def _trackio(folder: Path) -> dict[str, Any]:
    import trackio
    from PIL import Image
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = trackio.Api().runs("mlkit")
    found: dict[str, Any] = {"scalars": {}, "pictures": [], "lr": run.config["train"]["lr"], "final": ""}
    for row in SQLiteStorage.get_logs("mlkit", run.name):
        for key, value in row.items():
            if key.startswith(("train/", "validation/")):
                found["scalars"].setdefault(key, []).append([row["step"], value])
            elif key == "grid":
                with Image.open(folder / "trackio" / "media" / value["file_path"]) as opened:
                    found["pictures"].append([row["step"], opened.height, opened.width])
            elif key == "final":
                found["final"] = json.dumps(value["_value"])
    return found


# ---- a run that is killed and resumed -------------------------------------------------------------------------


def log_some(kind: str, folder: Path, steps: range, kept: int, *, end: bool) -> list[str]:
    """Log the steps of a run from its start or resume at `kept`, as a training does; returns what failed."""
    from mlkit.imaging.grids import write_png
    from mlkit.settings import TrackingSettings
    from mlkit.training.tracking import RowFile, Trackers, final_rows

    run = folder / "first"
    rows = RowFile(run / "metrics.jsonl", kept)
    trackers = Trackers(
        TrackingSettings.model_validate({kind: True}),
        run,
        name="first",
        run_id="abc123",
        start_step=max(kept, 0),
        values={"seed": 0, "train": {"lr": 1e-4, "betas": [0.9, 0.999], "freeze": []}},
        say=lambda text: None,
    )
    for step in steps:
        row: dict[str, Any] = {"step": step, "samples": 8 * step, "lr": 1e-4, "loss": 1 / step + (10 if end else 0)}
        rows.add(row)
        trackers.log(row)
        if step % 3 == 0:
            row = {"step": step, "split": "validation", "psnr": 20.0 + step, "enl_ratio": float("nan")}
            rows.add(row)
            trackers.log(row)
            picture = np.full((6, 8, 3), 20 * step, np.uint8)
            write_png(run / "grids" / f"grid_{step:08d}.png", picture)
            trackers.log_image("grid", picture, step)
    if end:
        trackers.log_final(final_rows({"psnr": 29.0, "enl_ratio": float("nan")}, 9, "psnr", 29.0, 6), 9)
        trackers.finish()
    elif kind == "trackio":
        time.sleep(1.5)  # it writes from a thread of its own, every half second: what is killed must have been written
    elif kind == "tensorboard":
        time.sleep(1.1)  # its files are read in the order of the second in which they began
    rows.close()
    return trackers.failed


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    (folder / "first").mkdir()
    from accelerate import PartialState

    PartialState()
    if kind != "trackio":  # it reads where to write when it is imported
        __import__(kind)
    _no_network()
    if (child := os.fork()) == 0:
        log_some(kind, folder, range(1, 9), -1, end=False)  # 6 was drawn, 7 and 8 are told
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    failed = log_some(kind, folder, range(4, 10), 3, end=True)
    print("\n" + json.dumps(read(kind, folder) | {"failed": failed, "outside": OUTSIDE}))


OUTSIDE: list[str] = []  # addresses beyond this machine that were asked for


def _no_network() -> None:
    """Refuse and record every connection from this process that leaves the machine."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def own_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            OUTSIDE.append(str(address))
            raise OSError("no network")
        connect(self, address)

    def own_resolve(host: Any, *arguments: Any, **named: Any) -> Any:
        if host not in (None, "", "127.0.0.1", "::1", "localhost", b"localhost"):
            OUTSIDE.append(str(host))
            raise socket.gaierror("no network")
        return resolve(host, *arguments, **named)

    socket.socket.connect = own_connect  # type: ignore[method-assign]
    socket.getaddrinfo = own_resolve  # type: ignore[assignment]


if __name__ == "__main__":
    main()
