"""Guards that name the failure: a model that answers one class only, a latent that tells nothing.

Each takes figures and returns a sentence, or the empty string for a healthy model.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlkit.errors import counted, listing

ONE_CLASS_SHARE = 0.995  # of the predicted cells, above which the others are noise
EQUAL_ACCURACY = 0.005  # accuracies that differ by less are one figure in a table
HARDLY_ANY = 0.05  # non-background accuracy of a model that draws nothing but the background
FEWEST_ACTIVE = 0.5  # share of the latent: a good VAE too leaves some dimensions unused


def mode_collapse(
    *,
    accuracy: float,
    majority_share: float,
    object_accuracy: float,
    predicted_counts: Sequence[int],
    label_counts: Sequence[int],
) -> str:
    """Return a sentence when the model answers one class, whatever it is shown.

    Accuracy alone cannot tell: a model that trades background for objects may score exactly the majority share and
    still know most objects. So equal accuracy counts only where hardly any object is found.

    Args:
        accuracy: share of cells that are right.
        majority_share: accuracy of always answering the majority class.
        object_accuracy: share of the other cells that are right.
        predicted_counts: [C] predicted cells of each class.
        label_counts: [C] true cells of each class; with one class alone there is nothing to collapse to.
    """
    total = sum(predicted_counts)
    if not total or sum(count > 0 for count in label_counts) < 2:
        return ""
    most = max(range(len(predicted_counts)), key=lambda index: predicted_counts[index])
    share = predicted_counts[most] / total
    equal = abs(accuracy - majority_share) <= EQUAL_ACCURACY
    if share >= ONE_CLASS_SHARE:
        answered = "every cell" if share == 1 else f"{_percent(share)} of the cells"
        what = f"class {most} is predicted for {answered}"
    elif equal and object_accuracy <= HARDLY_ANY:
        what = f"only {_percent(object_accuracy)} of the cells that are not background are right"
    else:
        return ""
    told = f"{_percent(accuracy)} accuracy is what all-background scores"
    if not equal:
        told = f"{_percent(accuracy)} accuracy where all-background scores {_percent(majority_share)}"
    return f"mode collapse: {told}; {what}; try loss.reduction = 'sum', a smaller loss.beta or class weights"


def posterior_collapse(
    kl_by_dim: Sequence[float],
    floor_nat: float,
    active: Sequence[bool] | None = None,
    judged: Sequence[bool] | None = None,
) -> str:
    """Return a sentence when fewer than half of the latent dimensions tell anything of a grid.

    Args:
        kl_by_dim: [D] mean KL in nat.
        floor_nat: mean KL below which a dimension counts as collapsed.
        active: [D], `metrics.labels.active_units`, where they are known.
        judged: [D], the dimensions that have something to tell of (`objective.reached`); None: all.
    """
    chosen = [index for index in range(len(kl_by_dim)) if judged is None or judged[index]]
    low = [index for index in chosen if kl_by_dim[index] < floor_nat]
    used, units = len(chosen) - len(low), ""
    if active is not None:
        num_active = sum(active[index] for index in chosen)
        used, units = min(used, num_active), f", {num_active} active units"
    if used >= FEWEST_ACTIVE * len(chosen):
        return ""
    named = f" ({_dimensions(kl_by_dim, low)})" if low else ""
    return (
        f"posterior collapse: {len(low)} of {counted(len(chosen), 'latent dimension')} below {floor_nat:g} nat"
        f"{units}{named}; try loss.reduction = 'sum', a smaller loss.beta, a warm-up of beta or loss.free_bits"
    )


def unused(kl_by_dim: Sequence[float], floor_nat: float) -> str:
    """Return a line on the dimensions below the floor, which is no failure by itself; empty where there are none."""
    low = collapsed(kl_by_dim, floor_nat)
    if not low:
        return ""
    return f"{len(low)} of {counted(len(kl_by_dim), 'latent dimension')} below {floor_nat:g} nat: " + _dimensions(
        kl_by_dim, low
    )


def collapsed(kl_by_dim: Sequence[float], floor_nat: float) -> list[int]:
    """Return the dimensions whose mean KL is below the floor."""
    return [index for index, value in enumerate(kl_by_dim) if value < floor_nat]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _dimensions(kl_by_dim: Sequence[float], chosen: Sequence[int]) -> str:
    return listing([f"{index}: {kl_by_dim[index]:.2g}" for index in chosen], 10)
