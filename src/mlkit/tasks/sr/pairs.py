"""Makes pairs with a base: the noise that belongs to an image, the image that belongs to noise, and both latents.

triples.npy triples.index.npy     float16 [3, C, h, w] a pair: eps, z0, z_lr
x0/000000.png                     the image, 8 bit
lr_up/000000.png                  the low-resolution image, enlarged to the same size, 8 bit
pairs.jsonl                       a line a pair: where it is from, and how it was degraded

float16 keeps 11 binary digits: what is rounded off a latent lies some 70 dB below it, under the 59 dB of the 8-bit
pictures, at half the size of float32. What starts an ODE is rounded before it, so that a stored triple is coupled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlkit.data.photos import Levels, Progress
from mlkit.data.store import StoreWriter
from mlkit.errors import MemoryShortError, NonFiniteError
from mlkit.imaging.resize import upscale
from mlkit.seeding import generator
from mlkit.tasks.sr.degrade import Floats, Record, degrade
from mlkit.tasks.sr.flow import integrate
from mlkit.tasks.sr.settings import SrBuild
from mlkit.tasks.sr.source import ENLARGED, IMAGES, TRIPLES, pair_id

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit.tasks.sr.bases import Base

RECORDS = "pairs.jsonl"
PIXELS_AT_ONCE = 8 * 128**2  # pairs of one forward pass of the base: 8 of 128 px, 1 of 1024


@dataclass(frozen=True, slots=True)
class Planned:
    """A pair to make: `about` goes into its record, `image` gives its pixels, or None where the base makes them."""

    number: int
    split: str
    about: dict[str, Any]
    image: Callable[[], Levels] | None


class PairWriter:
    """Makes pairs and writes them into a dataset folder.

    Args:
        folder: of the dataset.
        base: what encodes, decodes and integrates.
        build: the options.
    """

    def __init__(self, folder: Path, base: Base, build: SrBuild) -> None:
        self._folder, self._base, self._build = folder, base, build
        self._device = next((parameter.device for parameter in base.parameters()), None)
        for name in (IMAGES, ENLARGED):
            (folder / name).mkdir()
        self._triples = StoreWriter(folder, TRIPLES, np.float16)
        self._records = (folder / RECORDS).open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._triples.close()
        self._records.close()

    def write(self, planned: Sequence[Planned], progress: Progress) -> None:
        """Make all pairs, some at a time.

        Raises:
            NonFiniteError: when the base gives NaN, infinity, or values beyond float16.
            MemoryShortError: when a pair does not fit.
        """
        import torch

        at_once = max(1, PIXELS_AT_ONCE // self._build.size**2)
        started_s = time.monotonic()
        progress("pairs", 0, len(planned))
        for first in range(0, len(planned), at_once):
            some = planned[first : first + at_once]
            with torch.no_grad(), self._memory_named():
                self._write_some(some)
            done = first + len(some)
            progress(f"pairs, {done / max(time.monotonic() - started_s, 1e-9):.3g}/s", done, len(planned))

    def _write_some(self, planned: Sequence[Planned]) -> None:
        import torch

        if planned[0].image is None:
            side = self._build.size // self._base.factor
            shape = (self._base.latent_channels, side, side)
            noise = [generator(self._build.seed, "eps", pair.number).standard_normal(shape) for pair in planned]
            eps = self._stored(np.stack(noise).astype(np.float32))
            z0 = integrate(self._base.velocity, eps, 1.0, 0.0, self._build.steps)
            self._refuse_unfit(planned, z0)
            decoded = self._base.decode(z0).float().clamp(0.0, 1.0).cpu().numpy()
            images = [np.rint(np.moveaxis(image, 0, 2) * 255.0).astype(np.uint8) for image in decoded]
        else:
            images = [pair.image() for pair in planned if pair.image is not None]
            z0 = self._stored(self._encoded([_unit(image) for image in images]).cpu().numpy())
            eps = integrate(self._base.velocity, z0, 0.0, 1.0, self._build.steps)
        lows = [self._degraded(pair, image) for pair, image in zip(planned, images, strict=True)]
        enlarged = [upscale(low, self._build.scale) for low, _ in lows]
        triples = torch.stack([eps, z0, self._encoded(enlarged)], dim=1)
        self._refuse_unfit(planned, triples)
        for pair, image, enlarged_hwc, (_, record), triple in zip(
            planned, images, enlarged, lows, triples.to(torch.float16).cpu().numpy(), strict=True
        ):
            self._triples.add(triple)
            self._write_picture(IMAGES, pair.number, image)
            self._write_picture(ENLARGED, pair.number, np.rint(enlarged_hwc * 255.0).astype(np.uint8))
            line = {"id": pair_id(pair.number), "split": pair.split, **pair.about, "degradation": record}
            self._records.write(json.dumps(line, allow_nan=False) + "\n")

    def _degraded(self, pair: Planned, image: Levels) -> tuple[Floats, Record]:
        rng = generator(self._build.seed, "degradation", pair.number)
        return degrade(_unit(image), rng, self._build.scale, self._build.degradation)

    def _encoded(self, images_hwc: Sequence[Floats]) -> Tensor:
        """Return latents [B, C, h, w] of images."""
        import torch

        pictures = np.ascontiguousarray(np.moveaxis(np.stack(images_hwc), 3, 1))
        return self._base.encode(torch.from_numpy(pictures).to(self._device)).float()

    def _stored(self, latents: Floats) -> Tensor:
        """Return latents as they will be read back."""
        import torch

        with np.errstate(over="ignore"):  # what overflows is refused with the triple
            return torch.from_numpy(latents.astype(np.float16).astype(np.float32)).to(self._device)

    def _write_picture(self, name: str, number: int, levels: Levels) -> None:
        import imagecodecs

        (self._folder / name / f"{pair_id(number)}.png").write_bytes(
            imagecodecs.png_encode(np.ascontiguousarray(levels))
        )

    def _refuse_unfit(self, planned: Sequence[Planned], latents: Tensor) -> None:
        largest = latents.abs().flatten(1).amax(dim=1).cpu().numpy()
        for pair, value in zip(planned, largest.tolist(), strict=True):
            if not value <= np.finfo(np.float16).max:
                raise NonFiniteError(
                    f"base {self._base.name} gives latents up to {value:g} for pair {pair_id(pair.number)}; use "
                    f"--base-dtype fp32, more --steps, or another base"
                )

    @contextmanager
    def _memory_named(self) -> Iterator[None]:
        import torch

        said = ("not enough memory", "out of memory", "can't allocate memory")
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
            if not is_memory and not any(words in str(error) for words in said):
                raise
            raise MemoryShortError(
                f"out of memory with pairs of {self._build.size} px; use a smaller --size or --base-dtype bf16"
            ) from error


def _unit(levels: Levels) -> Floats:
    return levels.astype(np.float32) / np.float32(255.0)
