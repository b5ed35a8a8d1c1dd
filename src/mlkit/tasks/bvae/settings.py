"""Settings of the task `bvae`: how grids become a dataset, the network, the objective and its guards."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mlkit.settings import Count, CountOrNone, DataSettings, Positive, RunSettings, Settings

SET_SCORES = (  # figures of a whole set of grids that criteria may name; `tally.Figures.scores` has their meaning
    *("cell_accuracy", "cell_majority_share", "cell_object_accuracy", "cell_balanced_accuracy", "predicted_classes"),
    *("kl_min_dim", "active_units", "active_share"),
)
WeightMethod = Literal["inverse", "sqrt_inverse", "balanced"]
Classes = Annotated[int, Field(ge=2, le=255, strict=True)]
Side = Annotated[int, Field(ge=4, le=64, strict=True)]
NotNegative = Annotated[float, Field(ge=0)]


class BvaeData(DataSettings):
    """How grids are read for training."""

    symmetries: bool = True
    """Turn and mirror the training grids by the eight symmetries of the square."""
    permute_colors: bool = True
    """Exchange the classes of the training grids at random, all but the background (the most frequent class)."""


class BvaeBuild(Settings):
    """What decides a dataset of grids: the same grids and the same values give the same hash."""

    classes: Classes = 10
    """Number of classes; grids hold 0 to classes - 1."""
    side: Side = 30
    """Largest side of a grid in cells; larger grids are left out."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the tasks that is kept for validation, with all their grids."""
    grids: Annotated[int, Field(ge=8, strict=True)] = 4000
    """How many grids the synthetic source makes; others have what they have."""
    seed: CountOrNone = 0
    """Chooses the validation tasks, and the synthetic grids."""


class BvaeModel(Settings):
    """Encoder, latent and categorical decoder."""

    classes: Classes = 10
    """Number of classes; the dataset's own."""
    side: Side = 30
    """Side of the square that grids are padded to, in cells; larger grids of the dataset are left out."""
    layout: Literal["vector", "map"] = "vector"
    """`vector`: one latent for the whole grid, by fully connected layers. `map`: one for each 4x4 cells, by
    convolutions alone, so that what is learnt of one place holds at every place."""
    latent: Count = 10
    """Dimensions of the latent; of layout `map`, for each 4x4 cells."""
    channels: Annotated[int, Field(ge=4, strict=True)] = 32
    """Width of the first stage; the next two, of half and a quarter of the side, have twice and four times as many."""
    hidden: Annotated[int, Field(ge=4, strict=True)] = 128
    """Width of the fully connected layers next to the latent; unused by layout `map`."""
    blocks: CountOrNone = 0
    """Residual blocks at a quarter of the side, in the encoder and in the decoder each."""
    initial_sigma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Standard deviation of the posterior before training. Below 1 the decoder hears the encoder through less noise
    from the first update on; with a warm-up of beta the KL that this costs at first is nearly free."""

    @property
    def latent_dims(self) -> int:
        """Dimensions of the whole latent."""
        return self.latent * (-(-self.side // 4)) ** 2 if self.layout == "map" else self.latent


class BvaeLoss(Settings):
    """Reconstruction + beta * KL. With the default values it is the negative ELBO in nat a grid."""

    use_focal_loss: bool = False
    """Focal loss (Lin et al. 2017) in place of the cross-entropy; it is no log-likelihood, so no ELBO either."""
    focal_gamma: NotNegative = 2.0
    """Its exponent; 0 is the cross-entropy."""
    use_class_weights: bool = False
    """Weight each cell by its class."""
    class_weight_method: WeightMethod = "inverse"
    """`inverse`: N / (C n_c). `sqrt_inverse`: its root. `balanced`: scikit-learn's, C of the classes that occur."""
    normalize_weights: bool = False
    """Scale the weights to a mean of 1 over the training cells, so that a method does not also change beta."""
    reduction: Literal["sum", "mean"] = "sum"
    """Over the cells of a grid. `sum` is the ELBO's; with `mean` the KL weighs more, by the number of cells."""
    beta: NotNegative = 1.0
    """Weight of the KL term, which is summed over the latent dimensions."""
    beta_schedule: Literal["constant", "linear", "cyclical"] = "constant"
    """How beta comes to its value: at once, once over `beta_steps`, or again and again (Fu et al. 2019)."""
    beta_steps: Count = 1000
    """Updates of the linear rise, or of one cycle."""
    beta_rise: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a cycle in which beta rises; for the rest it stays at its value."""
    free_bits: NotNegative = 0.0
    """Nat a dimension below which the mean of its KL over a batch (of one process) costs no less (Kingma et al. 2016);
    0: off."""
    guard_after: CountOrNone = 500
    """Updates before training batches and evaluations are looked at for collapse: an untrained model is collapsed."""
    guard_every: Count = 50
    """Updates between two looks at a training batch."""
    kl_floor_nat: Positive = 0.05
    """Mean KL in nat below which a latent dimension counts as collapsed."""

    @model_validator(mode="after")
    def _used(self) -> Self:
        if self.normalize_weights and not self.use_class_weights:
            raise ValueError("normalize_weights is set, but use_class_weights is not; set both or neither")
        return self


class BvaeSettings(RunSettings):
    """All settings of a beta-VAE run."""

    set_scores: ClassVar[tuple[str, ...]] = SET_SCORES

    task: Literal["bvae"] = "bvae"
    """The task."""
    data: BvaeData = BvaeData()
    model: BvaeModel = BvaeModel()
    loss: BvaeLoss = BvaeLoss()


SETTINGS = BvaeSettings
