"""The attention diversification loss (Li et al. 2025, eq. 22 and 23, after Guo et al. 2023): tokens alike cost.

One-step models drift to attention outputs that are nearly the same at every token, which shows as periodic patterns.
The loss is the mean over tokens of cos(token, mean token), averaged over layers: 1 where all tokens are one.
B images, S tokens, D channels.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

# The attentions of Flux and of Z-Image; those of autoencoders are called attentions.0.
_ATTENTION = re.compile(r"(.*\.)?(attn|attention)")
_TEXT_ALONE = "context_refiner"  # a stage of Z-Image that sees the prompt and no image


class AttentionDiversity:
    """Collects attention outputs of every forward pass within its context; `loss()` may be asked after it.

    Outputs are only kept while the model runs, and computed with in `loss`: gradient checkpointing compares what a
    block saves in its two passes. Leave the context before the backward pass, whose recomputations count as passes.

    Args:
        model: anything that holds the transformer, wrapped or not.
        enabled: False makes it free: there are no hooks, and no loss.
    """

    def __init__(self, model: nn.Module, *, enabled: bool = True) -> None:
        self._model = model
        self._enabled = enabled
        self._handles: list[RemovableHandle] = []
        self._num_text: dict[nn.Module, int] = {}  # leading tokens of the text in a sequence of text and image
        self._outputs: list[Tensor] = []

    def __enter__(self) -> Self:
        if self._enabled:
            for name, module in attentions(self._model).items():
                block = self._model.get_submodule(name.rpartition(".")[0])
                if type(block).__name__ == "FluxSingleTransformerBlock":
                    self._handles.append(block.register_forward_pre_hook(self._note_text, with_kwargs=True))
                self._handles.append(module.register_forward_hook(self._keep))
            assert self._handles, f"{type(self._model).__name__} has no attention"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def loss(self) -> Tensor:
        """Return the mean similarity of what was collected, a scalar in [-1, 1] with gradient to the model."""
        assert self._outputs, "no forward pass within the context"
        return torch.stack([token_similarity(tokens) for tokens in self._outputs]).mean()

    def _note_text(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Its attention runs over text and image side by side, and a thousand empty text tokens are alike by right."""
        text = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
        self._num_text[block.get_submodule("attn")] = int(text.shape[1])

    def _keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tokens: Tensor = output[0] if isinstance(output, tuple) else output  # image first, then text
        self._outputs.append(tokens[:, self._num_text.get(module, 0) :])


def token_similarity(tokens: Tensor) -> Tensor:
    """Return the mean over images and tokens of cos(token, mean token of the image), a float32 scalar.

    Args:
        tokens: [B, S, D], any float format.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        return functional.cosine_similarity(tokens, tokens.mean(dim=1, keepdim=True), dim=2).mean()


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the attentions of the transformer in `model` that see the image, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if _ATTENTION.fullmatch(name) and _TEXT_ALONE not in name.split(".")
    }
