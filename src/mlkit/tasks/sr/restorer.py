"""A base with its adapter, opened for use: tiles of enlarged images in, restored tiles out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlkit.errors import NonFiniteError
from mlkit.tasks.sr.bases import Base
from mlkit.tasks.sr.bases.flux_attention import hasten
from mlkit.tasks.sr.flow import integrate, one_step
from mlkit.tasks.sr.lora import base_only, is_adapted
from mlkit.tasks.sr.model import DTYPES

Floats = NDArray[np.float32]
Precision = Literal["auto", "fp32", "bf16"]

_COPIED_BELOW = 200_000_000  # parameters; up to here a second copy, with the adapter merged in, costs nothing


class Restorer:
    """One-step restoration of tiles; in eval mode, without gradients.

    Args:
        base: with its adapter, or without one.
        t_lr: T_L, at which the adapter was trained.
        device: where it runs.
        precision: number format of the transformer's products; auto is bf16 where the machine has it.
        name: of the checkpoint, for messages.
    """

    def __init__(
        self, base: Base, *, t_lr: float, device: torch.device, precision: Precision = "auto", name: str = ""
    ) -> None:
        self.base = base.to(device).eval().requires_grad_(False)
        self.t_lr, self.device, self.name = t_lr, device, name or base.name
        self.multiple = base.multiple
        own = {parameter.dtype for parameter in base.transformer.parameters()}
        self.num_parameters = sum(parameter.numel() for parameter in base.transformer.parameters())
        self._bf16 = own == {torch.float32} and (precision == "bf16" or (precision == "auto" and _has_bf16(device)))
        self._merges = own == {torch.float32} and self.num_parameters <= _COPIED_BELOW
        self._copies: dict[bool, Base] = {}
        # One thread a share of the tiles instead of all threads in each product: small products are held up by waiting
        # for one another, twenty times so when another process wants a core too.
        self.workers = torch.get_num_threads() if device.type == "cpu" and self._merges else 1
        self._pool: ThreadPoolExecutor | None = None

    @property
    def precision(self) -> str:
        """The number format that is used, in words."""
        if self._bf16:
            return "bf16"
        dtype = next(self.base.transformer.parameters()).dtype
        return next(name for name, value in DTYPES.items() if value == dtype)

    def __call__(
        self, tiles_nchw: Floats, *, sr_scales: Sequence[float] = (1.0,), steps: int = 1, adapted: bool = True
    ) -> Floats:
        """Return restored tiles [N, 3 S, h, w] around [0, 1], not clamped: three channels for each of S sr_scales.

        z0_hat = z_L - s u T_L, where u T_L is one step of the flow, or `steps` of them from T_L to 0. With s = 0 it is
        the autoencoder's round trip.

        Args:
            tiles_nchw: [N, 3, h, w] in [0, 1], h and w multiples of `multiple`.
            sr_scales: s, each at least 0.
            steps: of Euler's method.
            adapted: False asks the base alone.

        Raises:
            NonFiniteError: when the model gives NaN or infinity.
        """
        base = self._copy(adapted)

        def one(tiles: Floats) -> Floats:
            with torch.inference_mode():
                z_lr = self.base.encode(torch.from_numpy(tiles).to(self.device))
                towards = self._velocity(base, z_lr, steps) if any(sr_scales) else torch.zeros_like(z_lr)
                made = [self.base.decode(one_step(z_lr, towards, self.t_lr, sr_scale)) for sr_scale in sr_scales]
                result: Floats = torch.cat(made, dim=1).float().cpu().numpy()
                return result

        with warnings.catch_warnings(), nullcontext() if adapted or base is not self.base else base_only(base):
            # torch says that it normalises bf16 by fp32 weights in two steps; it is as exact.
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            output = one(tiles_nchw) if self.workers == 1 else self._shared(one, tiles_nchw)
        if not np.isfinite(output).all():
            raise NonFiniteError(
                f"{self.name} gives values that are not finite in {self.precision}; try --precision fp32, and if that "
                "does not help its weights are unusable"
            )
        return output

    def _shared(self, one: Callable[[Floats], Floats], tiles_nchw: Floats) -> Floats:
        """Return `one` of the tiles, each worker's share on a thread of its own."""
        shares = np.array_split(tiles_nchw, min(self.workers, len(tiles_nchw)))
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # for all threads of the matrix library, and below for each of OpenMP
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
            return np.concatenate(list(self._pool.map(one, shares)))
        finally:
            torch.set_num_threads(before)

    def _velocity(self, base: Base, z_lr: Tensor, steps: int) -> Tensor:
        """Return the mean velocity of the path from T_L to 0."""

        def velocity(z: Tensor, t: Tensor) -> Tensor:
            # A copy is held in bf16 itself: autocast would convert its weights again for every batch.
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16 and base is self.base):
                return base.velocity(z, t)

        if steps == 1:
            return velocity(z_lr, torch.full((z_lr.shape[0],), self.t_lr, device=z_lr.device))
        return (z_lr - integrate(velocity, z_lr, self.t_lr, 0.0, steps)) / self.t_lr

    def _copy(self, adapted: bool) -> Base:
        """Return the base to ask: for a small one a copy whose adapter is merged into its weights, or taken off."""
        if not self._merges or not is_adapted(self.base):
            return self.base
        if adapted not in self._copies:
            wrapped = copy.deepcopy(self.base.transformer)
            transformer = wrapped.merge_and_unload() if adapted else wrapped.unload()  # type: ignore[operator]
            if self._bf16:
                nn.Module.to(transformer, torch.bfloat16)  # that of diffusers warns of what need not be kept in float32
            hasten(transformer)
            self._copies[adapted] = Base(
                transformer=transformer,
                vae=self.base.vae,
                prompt_embeds=self.base.prompt_embeds,
                pooled=self.base.pooled_prompt_embeds,
                name=self.base.name,
            )
        return self._copies[adapted]


def _has_bf16(device: torch.device) -> bool:
    """Return whether products of bf16 are faster than those of float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
