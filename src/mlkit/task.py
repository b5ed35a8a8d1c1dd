"""The contract between a task and everything that is written once: trainer, checkpoints, evaluation, grids.

A task is one folder and nine verbs. The trainer knows nothing else of it; a task never imports the trainer.
Tensors are float32 [B, C, H, W] unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from mlkit.data.checking import DataChecks
from mlkit.data.source import Source
from mlkit.imaging.grids import Panel
from mlkit.outside import outside_function

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlkit.data.manifest import DatasetManifest
    from mlkit.settings import RunSettings

Batch = Mapping[str, "Tensor"]

__all__ = [
    "Batch",
    "BuildsBare",
    "ChecksData",
    "DataChecks",
    "DrawsTraining",
    "GridFiles",
    "Loss",
    "Panel",
    "SavesOwnFiles",
    "SaysNext",
    "SetTally",
    "Source",
    "Tallies",
    "Task",
    "WarnsLater",
    "bare_model",
    "checks_of",
    "training_source",
]


@dataclass(frozen=True, slots=True)
class Loss:
    """What one training forward pass gives back."""

    total: Tensor  # the scalar that is differentiated
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # detached, before weighting, for the log
    warnings: Sequence[str] = ()  # "latent 3: KL 0.01 nat is below 0.05 nat (collapsed)"


@runtime_checkable
class SavesOwnFiles(Protocol):
    """A model that is saved in its library's own files (an adapter, a diffusers folder), not `model.safetensors`."""

    def save_files(self, folder: Path) -> None:
        """Write them, such as adapter_config.json and adapter_model.safetensors; folders in it are welcome."""
        ...

    def load_files(self, folder: Path) -> None:
        """Load them in place: the parameters stay the same objects. Raises CheckpointError on any mismatch."""
        ...


@runtime_checkable
class BuildsBare(Protocol):
    """A task whose initial weights come from a file that need not be there where a checkpoint overwrites them."""

    def build_bare_model(self) -> nn.Module:
        """Return `build_model()` without reading that file: the same parameters and buffers, of any value."""
        ...


@runtime_checkable
class SaysNext(Protocol):
    """A task of several stages, of which some make what another stage begins with."""

    def next_command(self, run: Path) -> str:
        """Return what to do with a run that has ended: a command that takes `run`, or an empty string for `infer`."""
        ...


class SetTally(Protocol):
    """What is counted over a whole set, batch by batch."""

    def add(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        """Count a batch: what `predict` returned, and what it was given."""
        ...

    def scores(self) -> Mapping[str, float]:
        """Return the figures by name, NaN where one is undefined; names ending in `_0`, `_1`, ... are a family."""
        ...

    def warnings(self) -> Sequence[str]:
        """Return what is wrong, one sentence a kind: "posterior collapse: 3 of 10 dimensions are below 0.05 nat"."""
        ...


@runtime_checkable
class Tallies(Protocol):
    """A task with figures that no single image has, such as active units: those of an evaluation are in eval.json."""

    def tally(self) -> SetTally:
        """Return a new count of nothing."""
        ...


@runtime_checkable
class WarnsLater(Protocol):
    """A task whose tally has something to say of any model that has hardly been trained."""

    @property
    def warns_from(self) -> int:
        """Updates after which the tally's warnings are told; before that they are not."""
        ...


@dataclass(frozen=True, slots=True)
class GridFiles:
    """Pictures beside each checkpoint with training samples beside validation samples."""

    train_images: int  # at most, and no more than checkpoint.grid_images; evenly spaced, always the same
    by_epoch: str  # file name; {epoch} becomes the number of whole passes over the data
    best: str  # file name beside a checkpoint that was the best when it was made


@runtime_checkable
class ChecksData(Protocol):
    """A task that knows more of its dataset than that its files are whole and its samples finite."""

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        """Return what a rehearsal checks besides: pairs, scales, classes, the phase of a colour filter."""
        ...


@runtime_checkable
class DrawsTraining(Protocol):
    """A task that wants `grid_files`, besides the grid of validation samples that every task gets."""

    grid_files: ClassVar[GridFiles]

    def plain_train_source(self, data: DatasetManifest) -> Source:
        """Return the training part without augmentation, under the ids of `train_source`."""
        ...


class Task(Protocol):
    """The nine verbs of a task, and the settings that it was made from."""

    settings: RunSettings
    primary_metric: ClassVar[str]  # key into METRICS, which knows unit and direction
    image_suffixes: ClassVar[tuple[str, ...]]  # files that `images_source` reads, such as (".png", ".tif")
    facts: Mapping[str, float]  # what `compare` shows beside the scores, such as {"bits_per_px": 2.0}

    @property
    def signatures(self) -> Mapping[str, str]:
        """The protocols of the scores where they differ from those in METRICS."""
        ...

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        """Build a dataset with the defaults of `dataset build`; `source` None means the embedded sample."""
        ...

    def build_model(self) -> nn.Module:
        """Return a fresh model; `requires_grad` marks what is trained."""
        ...

    def train_source(self, data: DatasetManifest) -> Source: ...

    def eval_source(self, data: DatasetManifest) -> Source: ...

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        """Return the user's own images as a source, prepared as `data` was; `upscale` and `fit_multiple` >= 1."""
        ...

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        """Return the training loss; the network is reached only by calling `model(...)`, as DDP needs."""
        ...

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Return outputs in evaluation mode, without gradient; `batch` may be larger than in training."""
        ...

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        """Return one value per image, [B], for keys of METRICS; NaN where a metric is undefined for an image."""
        ...

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        """Return the pictures of image `index` of the batch, left to right; one is "made", one or more are "given"."""
        ...


def bare_model(task: Task) -> nn.Module:
    """Return a fresh model for the weights of a checkpoint; those that it starts with may mean nothing."""
    return task.build_bare_model() if isinstance(task, BuildsBare) else task.build_model()


def checks_of(task: Task, data: DatasetManifest) -> DataChecks:
    """Return what a task checks of its dataset; the defaults where it says nothing."""
    return task.data_checks(data) if isinstance(task, ChecksData) else DataChecks()


def training_source(task: Task, data: DatasetManifest) -> Source:
    """Return what a run trains on: the task's own source, or that of the loader which `data.loader` names.

    Raises:
        SettingsError: when the loader cannot be found.
    """
    named = task.settings.data.loader
    if named is None:
        return task.train_source(data)
    return outside_function(named, "data.loader")(data)  # type: ignore[no-any-return]
