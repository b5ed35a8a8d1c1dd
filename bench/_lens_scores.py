"""Maps of lens.py's ways on photographs and drawn scenes behind lenses that nothing here was trained on."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from _common import Figure, at_most, show
from mlkit.data.manifest import DatasetManifest
from mlkit.evaluation.statistics import Interval, mean_interval, paired_bootstrap
from mlkit.metrics import geometry as maps
from mlkit.tasks.lens.corrector import Corrector
from mlkit.tasks.lens.geometry import distorted_points, identity_grid, profile_grid, warp
from mlkit.tasks.lens.inputs import said_by_lines
from mlkit.tasks.lens.lines import SURE as SURE_FACT
from mlkit.tasks.lens.scores import bends, picture_scores
from mlkit.tasks.lens.settings import LensData, LensModel
from mlkit.tasks.lens.source import LensSource, opened_profiles

NONE, MEAN, TRUE = "no correction", "mean profile", "true profile"
SHAPE = "true shape"  # at the scale that lensfun's convention gives on the lens's own frame: what a picture can tell
LINES = "lines alone"  # straightened without a network
KEYS = ("epe_px", "epe_shape_px", "epe_corner_px", "bend_px", "psnr", "ssim", "negative_det_pct", "epe_own_px")
HEADS = ("EPE", "but for scale", "corner", "bend", "PSNR", "SSIM", "folded %", "with own")
_DIGITS = (2, 2, 2, 3, 2, 4, 3, 2)
OWN_SCENES = "scenes, own frame"
PACKAGE = "the model in the package"
SURE = LensModel().sure  # as of all presets
_OWN = 0.04  # of the frame's length: lensfun's own tolerance
_HARM_PX = 0.05
LEFT, EPE_PX = 1 / 5, 1.0  # of no correction's error, and px at 1000 px width

Batch = Mapping[str, Tensor]
Outputs = dict[str, Tensor]
Way = Callable[[Batch], Outputs]  # "map" [B, S, S, 2], "params" [B, 8], "flow" [B, 2, h, w]


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one way on one picture, in the order of KEYS; `sure` is what lines say of it, of `lens_of_lines`."""

    way: str
    of: str  # "photographs" or "scenes"
    sample: str
    own_frame: bool  # whether the camera has the frame that the lens was calibrated on, which settles the scale
    sure: float
    values: tuple[float, ...]


def all_for_validation(data: DatasetManifest, views: int, scenes: int) -> DatasetManifest:
    """Return the dataset with every photograph in the validation part, `views` times, and with `scenes` scenes."""
    _, splits = opened_profiles(data)
    held_out = [place for place, split in enumerate(splits) if split == "validation"]
    order = np.random.default_rng(0).permutation(len(held_out)).tolist()
    photos = [{**photo, "split": "validation"} for photo in data.details["photographs"]]
    drawn = [(place, 0) for place in range(len(photos)) for _ in range(views)] + [(-1, n) for n in range(scenes)]
    found = [
        {"photo": photo, "number": number, "profile": held_out[order[place % len(order)]]}
        for place, (photo, number) in enumerate(drawn)
    ]
    details = {**data.details, "photographs": photos, "views": found}
    return replace(data, details=details, splits={**data.splits, "validation": len(found)})


def mean_terms(data: DatasetManifest) -> Tensor:
    """Return the mean profile of the training lenses, each lens counted once, [7]."""
    profiles, splits = opened_profiles(data)
    by_lens: dict[str, list[tuple[float, ...]]] = {}
    for profile, split in zip(profiles, splits, strict=True):
        if split == "train":
            by_lens.setdefault(profile.lens, []).append(profile.terms)
    mean = np.mean([np.mean(terms, axis=0) for terms in by_lens.values()], axis=0)
    return torch.tensor([*mean, 0.0, 0.0], dtype=torch.float32)


def profile_way(terms: Callable[[Batch], Tensor]) -> Way:
    """Return the way of a known profile; it has no parameters of its own, so lines are judged by its map."""

    def way(batch: Batch) -> Outputs:
        size = batch["image"].shape[-1]
        return {"map": profile_grid(terms(batch), batch["frame"], size, size)}

    return way


def usual_scale(profile: Tensor, frame: Tensor) -> Tensor:
    """Return profiles [B, 7] scaled so that places half the shorter side from the middle stay."""
    least = frame.min(dim=1).values
    share = sum(profile[:, power] * least**power for power in range(5))
    return torch.cat((profile[:, :5] / share[:, None], profile[:, 5:]), dim=1)  # type: ignore[index]


def lines_way(batch: Batch) -> Outputs:
    """Return the map of straight lines without a network."""
    from mlkit.tasks.lens.geometry import parametric_grid

    size = batch["image"].shape[-1]
    return {"map": parametric_grid(batch["lines_params"], batch["frame"], size, size)}


def network_way(corrector: Corrector) -> Way:
    """Return the way of a checkpoint."""
    from mlkit.tasks.lens.model import maps_of

    @torch.inference_mode()
    def way(batch: Batch) -> Outputs:
        lines = (batch["lines_params"], batch["lines_facts"]) if corrector.net.lines else None
        outputs = corrector.net(batch["image"], batch["frame"], lines)
        size = batch["image"].shape[-1]
        _, grid = maps_of(outputs, batch["frame"], size, size)
        return {"map": grid, **outputs}

    return way


def scored(ways: Mapping[str, tuple[Way, int]], data: DatasetManifest, batch_size: int = 16) -> list[Row]:
    """Return the scores of every way; each way sees the pictures at the size it asks for."""
    torch.set_num_threads(1)  # a second thread waits where another process is busy
    rows = []
    profiles, _ = opened_profiles(data)
    own = [abs(profiles[view["profile"]].frame_share - 1) < _OWN for view in data.details["views"]]
    for size in dict.fromkeys(size for _, size in ways.values()):
        source = LensSource(data, "validation", LensData(size=size), sure=SURE)
        for first in range(0, len(source), batch_size):
            places = range(first, min(first + batch_size, len(source)))
            samples = [source.sample(place, np.random.default_rng(0)) for place in places]
            batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
            batch["both"] = profile_grid(batch["profile"], batch["frame"], size, size)
            for place, at in enumerate(places):
                if not source.sample_id(at).startswith("scene/"):  # these are straight
                    _, straight = source.in_own_shape(at)
                    lens = said_by_lines(straight, batch["frame"][place], SURE)["lines_params"][None]
                    one = slice(place, place + 1)
                    batch["both"][one] = with_own_lens(lens, batch["profile"][one], batch["frame"][one], size)
            for name, (way, of_size) in ways.items():
                if of_size != size:
                    continue
                values = _scores(way(batch), batch)
                for place, at in enumerate(places):
                    sample = source.sample_id(at)
                    of = "scenes" if sample.startswith("scene/") else "photographs"
                    sure = float(batch["lines_facts"][place, SURE_FACT])
                    rows.append(Row(name, of, sample, own[at], sure, tuple(float(values[key][place]) for key in KEYS)))
    return rows


def with_own_lens(own: Tensor, profile: Tensor, frame: Tensor, size: int) -> Tensor:
    """Return the map that undoes a profile [B, 7] and before it the lens [B, 8] of the photograph, [B, S, S, 2]."""
    points = distorted_points(own, identity_grid(size, size) * frame[:, None, None])
    radius = points.norm(dim=-1, keepdim=True)
    ratio = sum(profile[:, n, None, None, None] * radius**n for n in range(5))
    return points * ratio / frame[:, None, None]


def _scores(outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
    grid, frame = outputs["map"], batch["frame"]
    size = grid.shape[1]
    truth = profile_grid(batch["profile"], frame, size, size)
    error = maps.end_point_error(grid, truth, frame)
    seen = warp(batch["image"], grid)
    if "params" in outputs:
        bent = bends(outputs["params"], outputs["flow"], batch["profile"], frame)
    else:
        bent = bends_of_map(grid, batch["profile"], frame)
    return {
        "epe_px": error.mean(dim=(1, 2)),
        "epe_shape_px": maps.scaled_error(grid, truth, frame).mean(dim=(1, 2)),
        "epe_corner_px": maps.corners(error),
        "bend_px": bent,
        **picture_scores(seen, batch["target"], maps.inside(grid) & maps.inside(truth)),
        "negative_det_pct": maps.jacobian_stats(grid)["negative_det_pct"],
        "epe_own_px": maps.end_point_error(grid, batch["both"], frame).mean(dim=(1, 2)),
    }


def bends_of_map(grid: Tensor, profile: Tensor, frame: Tensor) -> Tensor:
    """Return the bends of a dense map: its displacement as if it were a flow."""
    size = grid.shape[1]
    moved = (grid - identity_grid(size, size)) * frame[:, None, None]
    params = torch.tensor([[0.0] * 7 + [1.0]]).expand(len(grid), -1)
    return bends(params, moved.permute(0, 3, 1, 2), profile, frame)


def column(rows: Sequence[Row], way: str, of: str, key: str) -> np.ndarray:
    place = KEYS.index(key)
    return np.array([row.values[place] for row in rows if row.way == way and _is_of(row, of)])


def _is_of(row: Row, of: str) -> bool:
    return of in ("all", row.of) or (of == OWN_SCENES and row.of == "scenes" and row.own_frame)


def kinds(rows: Sequence[Row]) -> list[str]:
    return [
        *dict.fromkeys(row.of for row in rows),
        *([OWN_SCENES] if any(_is_of(row, OWN_SCENES) for row in rows) else []),
    ]


def show_scores(rows: Sequence[Row]) -> None:
    for of in kinds(rows):
        lines = []
        for way in dict.fromkeys(row.way for row in rows):
            means = [np.nanmean(np.where(np.isfinite(v := column(rows, way, of, key)), v, np.nan)) for key in KEYS]
            lines.append([way, *(f"{mean:.{digits}f}" for mean, digits in zip(means, _DIGITS, strict=True))])
        print()
        show((of, *HEADS), lines)


def quality(rows: Sequence[Row], stages: Mapping[str, Sequence[str]]) -> list[Figure]:
    """Return what each way reaches, and what the last stage must.

    Args:
        rows: of all ways.
        stages: names of the ways of each stage, one a seed, first stage first.
    """
    figures = []
    for of in kinds(rows):
        figures += [
            Figure(f"{way}, {of}, EPE", round(float(column(rows, way, of, "epe_px").mean()), 3), "px")
            for way in (NONE, MEAN, SHAPE, LINES)
        ]
        for stage, ways in stages.items():
            by_seed = [column(rows, way, of, "epe_px") for way in ways]
            figures.append(Figure(f"{stage}, {of}, EPE", _over(by_seed), "px"))
            shapes = [column(rows, way, of, "epe_shape_px") for way in ways]
            figures.append(Figure(f"{stage}, {of}, EPE but for scale", _over(shapes), "px"))
            figures.append(Figure(f"{stage}, {of}, PSNR", _over([column(rows, w, of, "psnr") for w in ways]), "dB"))
        if stages:
            last = list(stages.values())[-1]
            mean = float(np.mean([column(rows, way, of, "epe_px").mean() for way in last]))
            without = float(column(rows, NONE, of, "epe_px").mean())
            figures.append(at_most(f"last stage, {of}, EPE", mean, EPE_PX, "px"))
            figures.append(at_most(f"last stage over no correction, {of}, EPE", mean / without, LEFT))
            shape, bent = (
                np.mean([column(rows, way, of, "epe_shape_px").mean() for way in some]) for some in (last, [NONE])
            )
            figures.append(
                at_most(f"last stage over no correction, {of}, EPE but for scale", float(shape / bent), LEFT)
            )
        if stages:
            figures += _followed(rows, of, last)
    if stages:
        folded = max(float(column(rows, way, "all", "negative_det_pct").max()) for way in list(stages.values())[-1])
        figures.append(at_most("last stage, most folded picture", folded, 0.0, "%"))
    for (one, ways), (other, others) in zip(list(stages.items())[:-1], list(stages.items())[1:], strict=True):
        gains = np.mean([column(rows, b, "all", "psnr") - column(rows, a, "all", "psnr")
                         for a, b in zip(ways, others, strict=False)], axis=0)  # fmt: skip
        gains = gains[np.isfinite(gains)]
        found = paired_bootstrap(gains)
        figures.append(Figure(f"{other} over {one}, PSNR", _words(found), "dB", "> 0", bool(found.low > 0)))
        # a picture that needs no correction has 100 dB and more where none is made: a mean hears little else
        figures.append(Figure(f"{other} over {one}, PSNR, median picture", f"{np.median(gains):.2g}", "dB"))
    return figures


def _followed(rows: Sequence[Row], of: str, ways: Sequence[str]) -> list[Figure]:
    """Return in how many pictures lines are followed, what that brings there, and how often it harms."""
    one = [row for row in rows if row.way == ways[0] and _is_of(row, of)]
    heard = np.array([row.sure >= SURE for row in one])
    before = column(rows, NONE, of, "epe_px")
    after = np.mean([column(rows, way, of, "epe_px") for way in ways], axis=0)
    worse = after > before + _HARM_PX
    figures = [
        Figure(f"{of}, lines followed", f"{heard.mean():.0%} of {len(one)} pictures", ""),
        Figure(f"{of}, made worse by more than {_HARM_PX} px", f"{worse.mean():.0%} of {len(one)} pictures", ""),
    ]
    if heard.any():
        words = f"{before[heard].mean():.2f} to {after[heard].mean():.2f}"
        figures.append(Figure(f"{of}, where lines are followed, EPE before to after", words, "px"))
        if of == "photographs":
            was, made = (
                np.mean([column(rows, way, of, "epe_own_px") for way in some], axis=0)[heard].mean()
                for some in ([NONE], ways)
            )
            name = f"{of}, where lines are followed, EPE with what bends the photograph itself before to after"
            figures.append(Figure(name, f"{was:.2f} to {made:.2f}", "px"))
    return figures


def _over(by_seed: Sequence[np.ndarray]) -> str:
    """Return the mean over pictures with its interval: over seeds where there are several, else over pictures."""
    values = [one[np.isfinite(one)].mean() for one in by_seed] if len(by_seed) > 1 else by_seed[0]
    return _words(mean_interval(np.asarray(values)[np.isfinite(values)]))


def _words(found: Interval) -> str:
    return f"{found.mean:.3g}" + ("" if np.isnan(found.low) else f" ({found.low:.3g} to {found.high:.3g})")


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """Write the means of each way over each kind of picture."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("way", "of", "pictures", *KEYS))
        for of in kinds(rows):
            for way in dict.fromkeys(row.way for row in rows):
                columns = [column(rows, way, of, key) for key in KEYS]
                means = (float(values[np.isfinite(values)].mean()) for values in columns)
                table.writerow((way, of, len(columns[0]), *(f"{mean:.4f}" for mean in means)))
