"""What a run computes, as frozen data that refuses every unknown key; and where it reads and writes.

`RunSettings` (preset + `--set` + flags) decides the numbers. `Places` (environment) decides folders only: an
environment variable can move files, never change a number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Listed = Field(strict=False)
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, strict=True)]
CountOrNone = Annotated[int, Field(ge=0, strict=True)]


class Settings(BaseModel):
    """Frozen, strict at every depth: an unknown key is an error, `true` or "1" is no number, infinity and NaN neither.

    TOML and JSON have lists only, so a field that holds a tuple says `Listed`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, values: Any) -> Any:
        """TOML has no null: the word "none" is one, for a key that may be None."""
        if not isinstance(values, dict):
            return values
        optional = {key for key, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {key: None if value == "none" and key in optional else value for key, value in values.items()}


class DataSettings(Settings):
    """What every task's `[data]` section has; tasks add their own keys."""

    loader: str | None = None
    """`package.module:function` of a loader from outside, called with the manifest and returning a Source."""


class TrainSettings(Settings):
    """The loop."""

    steps: Count | None = None
    """Optimizer updates; set either this or `epochs`."""
    epochs: Positive | None = None
    """Passes over the training source; set either this or `steps`."""
    batch_size: Count = 8
    """Samples per forward pass over all processes together, so that the number of processes changes nothing."""
    accumulate: Count = 1
    """Forward passes per optimizer update."""
    optimizer: Literal["adamw"] = "adamw"
    """The optimizer: AdamW (Loshchilov and Hutter 2019)."""
    lr: Positive = 1e-4
    """Peak learning rate."""
    betas: Annotated[tuple[Decay, Decay], Listed] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; not applied to biases and normalisation weights."""
    schedule: Literal["constant", "cosine", "onecycle"] = "cosine"
    """Learning rate over the steps, after the warm-up."""
    warmup_steps: CountOrNone | None = None
    """Updates of linear warm-up; set either this or `warmup_epochs`, or neither."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """Passes of linear warm-up; at most half of all steps are used."""
    min_lr_ratio: Share = 0.0
    """Where cosine and onecycle end, as a share of `lr`."""
    grad_clip_norm: Positive | None = 1.0
    """Largest gradient norm (all parameters); larger ones are scaled down. None: no clipping."""
    precision: Precision = "auto"
    """`auto` tries fp32 and bf16 on this machine before the first step and keeps the faster that loses no quality."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory order of images; `auto` decides together with `precision`."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Exponential moving average of the weights, less of it in the first updates; evaluation and inference use it.
    None: off."""
    freeze: Annotated[tuple[str, ...], Listed] = ()
    """Names of parameters that stay as they are, `*` for any part: ("encoder.*",). Statistics of normalisation layers
    whose parameters are all frozen stay too."""
    ewc: Annotated[float, Field(ge=0)] = 0.0
    """Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3): lambda of the penalty lambda/2 sum F (w - w0)^2
    that holds the weights w near those of --init-from, w0, as far as the Fisher information F asks. 0: off."""
    ewc_data: str = "same"
    """Dataset folder on whose training part F is measured when the run begins (found as --data is): what is not to be
    forgotten. `same`: the run's own."""
    ewc_samples: Count = 500
    """Samples over which F is measured, one forward and backward pass each."""
    workers: CountOrNone = 0
    """Data loader processes; any number gives the same batches."""
    deterministic: bool = True
    """Ask torch for deterministic algorithms on a GPU, some of them slower (on the CPU they always are)."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("set exactly one of steps and epochs")
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("set at most one of warmup_steps and warmup_epochs")
        return self


class CheckpointSettings(Settings):
    """When checkpoints are written, which are kept, and the pictures that go with them."""

    every: Count = 500
    """Updates between two checkpoints; the last step is always saved."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_best: CountOrNone = 1
    """Best checkpoints by the primary metric to keep."""
    keep_every: Count | None = None
    """Also keep each checkpoint whose step is a multiple of this."""
    grid: bool = True
    """Render a comparison grid beside each checkpoint."""
    grid_images: Count = 4
    """Images in that grid."""
    eval_ids: Annotated[tuple[str, ...], Listed] = ()
    """Sample ids to show in the grid, such as ("000000", "000123"); they come before `eval_images_dir`."""
    eval_images_dir: str | None = None
    """A folder of images to show in the grid; used when `eval_ids` is empty."""
    eval_input_upscale: Annotated[int, Field(ge=1, strict=True)] = 1
    """Enlarge the images of `eval_images_dir` this many times (bicubic) before they enter the model."""
    eval_fit_multiple: Annotated[int, Field(ge=1, strict=True)] = 1
    """Crop the images of `eval_images_dir` to sizes divisible by this."""
    strict_hooks: bool = False
    """End training when a grid or an evaluation fails, instead of reporting it at the end."""


class Criterion(Settings):
    """One acceptance criterion, judged by `compare`: `metric` within [`min`, `max`], absolute or over the first run."""

    metric: str
    """A key of METRICS, `nonfinite_steps`, `fluctuation` (largest rise of the training loss over its lowest value so
    far, as a share of its whole fall), or a figure that the task counts over the whole set."""
    min: float | None = None
    """Smallest value that passes."""
    max: float | None = None
    """Largest value that passes."""
    relative_to_baseline: bool = False
    """Judge the difference to the first run of the comparison."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("set min, max or both")
        return self


class EvalSettings(Settings):
    """Scores on the validation part."""

    every: Count | None = None
    """Updates between two evaluations; None: at each checkpoint."""
    max_samples: Count | None = 1000
    """Evaluate at most this many validation samples, evenly spaced and always the same; None: all."""
    batch_size: Count | None = None
    """Images per forward pass; None: as in training."""
    protocol: str = "default"
    """Name of the protocol of the scores; `default` is the task's own."""
    criteria: Annotated[tuple[Criterion, ...], Listed] = ()
    """What `compare` judges."""
    early_stop_metric: str = "loss"
    """Metric that early stopping watches."""
    early_stop_patience: Count | None = None
    """Evaluations without improvement after which training stops; None: never."""
    early_stop_min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change that counts as an improvement."""
    guard_data: str | None = None
    """Dataset folder (found as --data is) that a run from --init-from must not forget: its validation part is scored at
    the start and at each evaluation, and a loss is told."""
    guard_loss: Annotated[float, Field(ge=0)] = 0.2
    """Loss of the primary metric on `guard_data`, in its unit, above which forgetting is told; training goes on."""
    scorer: str | None = None
    """`package.module:function` of a scorer from outside, called with (outputs, batch) and returning one value an image
    by name; one that is absent or fails is reported, counted, and never ends training."""


class TrackingSettings(Settings):
    """Logs."""

    every: Count = 10
    """Updates between two rows of metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events."""
    wandb: bool = False
    """Also log to Weights & Biases (offline when no key is set)."""
    mlflow: bool = False
    """Also log to MLflow, into `mlflow` beside the run (or to the store that MLFLOW_TRACKING_URI names)."""
    trackio: bool = False
    """Also log to trackio, into `trackio` beside the run (or into TRACKIO_DIR)."""
    project: str = "mlkit"
    """Project name for trackers that have one."""


class DebugSettings(Settings):
    """Pictures of training batches, to look at when something is wrong."""

    dump_every: CountOrNone = 0
    """Updates between two pictures of the training batch (its last forward pass, after the update) in the run's folder
    `debug`; 0: none."""
    dump_max: Count = 8
    """At most so many of them."""
    dump_images: Count = 4
    """Samples of the batch in each."""

    def dump_due(self, step: int) -> bool:
        """Return whether the batch of the update that made this step is drawn: by the step alone, as a resume needs."""
        return self.dump_every > 0 and step % self.dump_every == 0 and step // self.dump_every <= self.dump_max


class RunSettings(Settings):
    """All that decides a run's numbers. Every task subclasses it with its own data, model and loss."""

    set_scores: ClassVar[tuple[str, ...]] = ()  # figures of the task's tally that criteria may name

    task: str
    """The task: sar, sr, demosaic, lens or bvae."""
    preset: str = ""
    """Name of the preset that the settings came from."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Weights, data order, augmentation, noise and dropout are functions of it."""
    data: DataSettings = DataSettings()
    train: TrainSettings
    checkpoint: CheckpointSettings = CheckpointSettings()
    eval: EvalSettings = EvalSettings()
    tracking: TrackingSettings = TrackingSettings()
    debug: DebugSettings = DebugSettings()


class Places(BaseSettings):
    """Folders, from the environment: MLKIT_DATA_DIR, MLKIT_RUNS_DIR, MLKIT_CACHE_DIR."""

    model_config = SettingsConfigDict(env_prefix="MLKIT_", extra="ignore", frozen=True)

    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    cache_dir: Path = Path.home() / ".cache" / "mlkit"
