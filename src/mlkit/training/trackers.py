"""The trackers of others, each through accelerate with its store on this machine; what fails in one is caught above.

Where a store can be written again (all but a W&B server's), a start writes what metrics.jsonl and grids/ hold, so that
no step is there twice, and none that a kill took back.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Image = np.ndarray[Any, Any]  # [H, W, 3] uint8


@dataclass(frozen=True, slots=True)
class About:
    """The run that a tracker is told of."""

    run_dir: Path
    name: str
    run_id: str  # a resumed run goes on under it
    project: str
    start_step: int
    values: Mapping[str, Any]  # the settings
    say: Callable[[str], None]

    def flat_values(self) -> dict[str, Any]:
        """Return the settings by dotted key."""
        return dict(_flat("", self.values))


class Tracker(Protocol):
    """A tracker that was started."""

    rewritten: bool  # whether it holds nothing yet of a run that goes on

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def image(self, key: str, image_u8: Image, step: int) -> None: ...
    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...
    def finish(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder; its readers hide what was written after the step that a run resumes from."""

    rewritten = False

    def __init__(self, about: About) -> None:
        from accelerate.tracking import TensorBoardTracker

        folder = about.run_dir / "tensorboard"
        first = not folder.exists()
        self._tracker = TensorBoardTracker(about.name, folder, purge_step=about.start_step + 1)
        self._tracker.start()
        if first:
            settings = json.dumps(about.values, indent=2)
            self._tracker.writer.add_text("settings", f"```json\n{settings}\n```", about.start_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(values, step=step)

    def image(self, key: str, image_u8: Image, step: int) -> None:
        self._tracker.log_images({key: image_u8[None]}, step=step, dataformats="NHWC")

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._tracker.writer.add_text(key, markdown_table(columns, rows), step)

    def finish(self) -> None:
        self._tracker.finish()


class WandB:
    """Weights & Biases: offline in the run's folder without a key, else on its server."""

    def __init__(self, about: About) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if not os.environ.get("WANDB_API_KEY") and os.environ.get("WANDB_MODE") is None:
            about.say(
                f"W&B has no key (WANDB_API_KEY): offline into {about.run_dir / 'wandb'}; send it with: wandb sync"
            )
            os.environ["WANDB_MODE"] = "offline"
        from accelerate.tracking import WandBTracker

        self.rewritten = os.environ.get("WANDB_MODE") == "offline"
        if self.rewritten:
            for older in (about.run_dir / "wandb").glob(f"offline-run-*-{about.run_id}"):
                shutil.rmtree(older)
        self._tracker = WandBTracker(
            about.project,
            name=about.name,
            id=about.run_id,
            dir=str(about.run_dir),
            resume="allow",
            settings={"console": "off", "silent": True},  # it would take over the lines of the terminal
        )
        self._tracker.start()
        # Its server takes no step twice: a resumed run has those up to here, and they are what they would be again.
        self._known = 0 if self.rewritten else int(getattr(self._tracker.run, "step", 0) or 0)
        self._tracker.store_init_configuration(dict(about.values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._known:
            self._tracker.log(dict(values), step=step)

    def image(self, key: str, image_u8: Image, step: int) -> None:
        if step >= self._known:
            self._tracker.log_images({key: [image_u8]}, step=step)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._tracker.log_table(key, columns=list(columns), data=[list(row) for row in rows], step=step)

    def finish(self) -> None:
        self._tracker.finish()


class MLflow:
    """MLflow: a data base beside the runs (files without sqlalchemy or alembic), or the user's own store.

    A run that goes on is written anew, and the one that it was before goes to MLflow's bin.
    """

    rewritten = True
    _TAG = "mlkit.run"

    def __init__(self, about: About) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # it would end without a program git
        store = about.run_dir.absolute().parent / "mlflow"
        own = not os.environ.get("MLFLOW_TRACKING_URI")
        import mlflow
        from accelerate.tracking import MLflowTracker

        if own:
            store.mkdir(parents=True, exist_ok=True)
            base = find_spec("sqlalchemy") is not None and find_spec("alembic") is not None
            uri = f"sqlite:///{(store / 'mlflow.db').as_posix()}" if base else store.as_uri()
            mlflow.set_tracking_uri(uri)
            about.say(f"MLflow logs into {store}; look with: mlflow ui --backend-store-uri {uri}")
        self._remove_older(about)
        self._mlflow = mlflow
        self._tracker = MLflowTracker(
            about.project,
            logging_dir=(store / "artifacts").as_uri() if own else None,
            run_name=about.name,
            tags={self._TAG: about.run_id},
        )
        self._tracker.start()
        self._tracker.store_init_configuration(about.flat_values())

    def _remove_older(self, about: About) -> None:
        from mlflow import MlflowClient

        client = MlflowClient()
        experiment = client.get_experiment_by_name(about.project)
        if experiment is None:
            return
        wanted = f"tags.`{self._TAG}` = '{about.run_id}'"
        for run in client.search_runs([experiment.experiment_id], filter_string=wanted):
            client.delete_run(run.info.run_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(dict(values), step=step)

    def image(self, key: str, image_u8: Image, step: int) -> None:
        self._mlflow.log_image(image_u8, artifact_file=f"{key}/{key}_{step:08d}.png")

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._mlflow.log_text(markdown_table(columns, rows), f"{key}.md")
        self._mlflow.log_dict({"step": step, "columns": list(columns), "rows": [list(row) for row in rows]},
                              f"{key}.json")  # fmt: skip

    def finish(self) -> None:
        self._tracker.finish()


class Trackio:
    """trackio: a data base beside the runs, or in TRACKIO_DIR. A run that goes on is written anew."""

    rewritten = True

    def __init__(self, about: About) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(about.run_dir.absolute().parent / "trackio"))
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with _trackio_alone():
            import trackio
            from accelerate.tracking import TrackioTracker

            name = f"{about.name} {about.run_id}"  # its runs are known by name, which another folder of runs may have
            with suppress(ValueError):  # no such project yet
                for run in list(trackio.Api().runs(about.project)):
                    if run.name == name:
                        run.delete()
                        shutil.rmtree(trackio.utils.MEDIA_DIR / about.project / name, ignore_errors=True)
            self._trackio = trackio
            self._tracker = TrackioTracker(
                about.project, name=name, config=dict(about.values), embed=False, auto_log_gpu=False, auto_log_cpu=False
            )
            self._tracker.start()
        place = trackio.utils.TRACKIO_DIR  # that of its first import
        about.say(f"trackio logs into {place}; look with: TRACKIO_DIR={place} trackio show --project {about.project}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(dict(values), step=step)

    def image(self, key: str, image_u8: Image, step: int) -> None:
        self._tracker.log({key: self._trackio.Image(image_u8)}, step=step)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self._tracker.log({key: table}, step=step)

    def finish(self) -> None:
        with _trackio_alone():
            self._trackio.finish()  # the tracker's own way would let it finish, and print, again at exit


@contextmanager
def _trackio_alone() -> Iterator[None]:
    """Let trackio print nothing on stdout, ask the hub for no user name, and log to no server."""
    import huggingface_hub.constants as hub

    servers = {name: os.environ.pop(name, None) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")}
    offline, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        os.environ.update({name: value for name, value in servers.items() if value is not None})


# By the key of [tracking], which is the package and the extra.
TRACKERS: dict[str, Callable[[About], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value
