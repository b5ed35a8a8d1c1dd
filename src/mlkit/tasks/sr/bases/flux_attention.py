"""Attention of FLUX.1 transformers for inference: what FluxAttnProcessor of diffusers computes, in less time.

Rotary embeddings turn pairs of channels (Su et al. 2021, section 3.2.2), which is a product of complex numbers. As one,
it reads each value once; as four real products with interleaved copies it takes as long as a quarter of a small model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ComplexRotary:
    """A processor for attentions of FluxTransformer2DModel; B images, S tokens, H heads of D channels. No gradients."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what FluxAttnProcessor returns: [B, S, H D] of the image, and of the text where it comes apart."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (-1, attn.head_dim)) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            text_query, text_key, text_value = (
                layer(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
                for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
            key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        if image_rotary_emb is not None:
            turn = torch.complex(*(part[:, ::2].float().contiguous() for part in image_rotary_emb))[:, None]
            query, key = _turned(query, turn), _turned(key, turn)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=attention_mask
        )
        tokens = mixed.transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return tokens
        text, image = tokens.split_with_sizes(
            [encoder_hidden_states.shape[1], tokens.shape[1] - encoder_hidden_states.shape[1]], dim=1
        )
        dropout = attn.to_out[1]
        return dropout(attn.to_out[0](image.contiguous())), attn.to_add_out(text.contiguous())


def hasten(transformer: nn.Module) -> None:
    """Give a Flux transformer of diffusers this processor, in place; others stay as they are."""
    if type(transformer).__name__ == "FluxTransformer2DModel":
        transformer.set_attn_processor(ComplexRotary())  # type: ignore[operator]


def _turned(tokens: Tensor, turn: Tensor) -> Tensor:
    """Return [B, S, H, D] with channel pairs multiplied by [S, 1, D / 2] complex64."""
    values = tokens.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    torch.view_as_complex(values.view(*values.shape[:-1], -1, 2)).mul_(turn)
    return values.to(tokens.dtype)
