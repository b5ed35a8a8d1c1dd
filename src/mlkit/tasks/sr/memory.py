"""What an FTD step costs on the real bases: built on the meta device, where tensors have shapes and no memory.

A step is the velocity at z_t, the velocity at z_L, and the decoded image of the latter, all with gradient and gradient
checkpointing, of a bf16 transformer, a float32 autoencoder and a float32 adapter under AdamW. Parameters, layers and
FLOPs are counted; memory is the sum of what is counted and what autograd keeps, without the CUDA context and what the
allocator loses; time supposes a rate. Neither weights nor a GPU are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mlkit.tasks.sr.bases import Base
from mlkit.tasks.sr.lora import adapt

COUNTED, ESTIMATED = "counted (meta device)", "estimated"
SUSTAINED_FLOPS = 4e14  # 40 % of an H100's dense bf16 peak (989 TFLOP/s, its data sheet)
_ADAPTER_BYTES = 16  # a parameter: itself, its gradient and AdamW's two moments, float32
_META = torch.device("meta")
# transformer/config.json and vae/config.json of each model on the hub; prompt_tokens as its pipeline pads "".
FLUX_DEV: dict[str, Any] = {
    "name": "black-forest-labs/FLUX.1-dev",
    "transformer": {
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": 128,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    },
    "prompt_tokens": 512,
}
Z_IMAGE_TURBO: dict[str, Any] = {
    "name": "Tongyi-MAI/Z-Image-Turbo",
    "transformer": {
        "_class_name": "ZImageTransformer2DModel",
        "all_f_patch_size": [1],
        "all_patch_size": [2],
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "cap_feat_dim": 2560,
        "dim": 3840,
        "in_channels": 16,
        "n_heads": 30,
        "n_kv_heads": 30,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "norm_eps": 1e-05,
        "qk_norm": True,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
    },
    "prompt_tokens": 32,
}
_VAE: dict[str, Any] = {  # of both
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one FTD step of one image costs; each figure's mark is in `MARKS`."""

    base: str
    size_px: int
    rank: int
    targets: str
    tokens: int
    parameters: int
    adapted_layers: int
    adapter_parameters: int
    weights_gb: float
    adapter_gb: float
    activations_gb: float
    total_gb: float
    step_pflop: float
    step_s: float


_COUNTED = "tokens parameters adapted_layers adapter_parameters weights_gb adapter_gb step_pflop"
MARKS: dict[str, str] = {
    **dict.fromkeys(_COUNTED.split(), COUNTED),
    **dict.fromkeys(("activations_gb", "total_gb", "step_s"), ESTIMATED),
}


def meta_base(model: dict[str, Any]) -> Base:
    """Return a base of true shapes without weights, in bf16: one of `FLUX_DEV` and `Z_IMAGE_TURBO`, or alike."""
    import diffusers

    config = {key: value for key, value in model["transformer"].items() if key[0] != "_"}
    with _META:
        transformer = getattr(diffusers, model["transformer"]["_class_name"])(**config)
        vae = diffusers.AutoencoderKL(**_VAE)
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    width = config["joint_attention_dim" if "joint_attention_dim" in config else "cap_feat_dim"]
    return Base.of(
        transformer=transformer,
        vae=vae,
        prompt_embeds=torch.zeros(model["prompt_tokens"], width, device=_META),
        pooled=torch.zeros(config.get("pooled_projection_dim", 0), device=_META),
        name=model["name"],
    )


def costs(
    models: Sequence[dict[str, Any]] = (FLUX_DEV, Z_IMAGE_TURBO),
    *,
    sizes_px: Sequence[int] = (512, 1024),
    rank: int = 16,
    targets: str = "attention",
) -> Iterator[Cost]:
    """Yield a cost for each model and size (side of a square image)."""
    for model in models:
        base = meta_base(model)
        parameters = sum(p.numel() for p in base.transformer.parameters())
        frozen = 2 * parameters + 4 * sum(p.numel() for p in base.vae.parameters())
        layers = len(adapt(base, rank, float(rank), 0.0, targets))
        adapter = sum(p.numel() for p in base.parameters() if p.requires_grad)
        for size in sizes_px:
            tokens = (size // base.multiple) ** 2
            transformer = _transformer_cost(base, tokens, model["prompt_tokens"])
            vae = _vae_cost(base, size)
            kept = 2 * transformer.kept + vae.kept  # both velocities wait for one backward pass
            activations = kept + max(transformer.largest, vae.largest)
            flops = 2 * transformer.flops + vae.flops
            yield Cost(
                base=base.name,
                size_px=size,
                rank=rank,
                targets=targets,
                tokens=tokens + model["prompt_tokens"],
                parameters=parameters,
                adapted_layers=layers,
                adapter_parameters=adapter,
                weights_gb=frozen / 1e9,
                adapter_gb=adapter * _ADAPTER_BYTES / 1e9,
                activations_gb=activations / 1e9,
                total_gb=(frozen + adapter * _ADAPTER_BYTES + activations) / 1e9,
                step_pflop=flops / 1e15,
                step_s=flops / SUSTAINED_FLOPS,
            )


def table(rows: Sequence[Cost]) -> str:
    """Return a Markdown table of the costs, a mark under each heading."""
    headings = {
        "tokens": ("Tokens", "{:,}"),
        "parameters": ("Parameters, 1e9", "{:.2f}"),
        "adapted_layers": ("Adapted layers", "{:,}"),
        "adapter_parameters": ("LoRA parameters, 1e6", "{:.1f}"),
        "weights_gb": ("Frozen weights, GB", "{:.1f}"),
        "adapter_gb": ("LoRA with AdamW, GB", "{:.2f}"),
        "activations_gb": ("Activations, GB", "{:.1f}"),
        "total_gb": ("Sum, GB", "{:.1f}"),
        "step_pflop": ("PFLOP a step", "{:.2f}"),
        "step_s": (f"s a step at {SUSTAINED_FLOPS / 1e12:.0f} TFLOP/s", "{:.2f}"),
    }
    scale = {"parameters": 1e9, "adapter_parameters": 1e6}
    titles = [f"{heading}: {MARKS[name]}" for name, (heading, _) in headings.items()]
    lines = [["Base", "px", "LoRA", *titles], ["---"] * (3 + len(titles))]
    for row in rows:
        values = [
            form.format(getattr(row, name) / scale.get(name, 1) if name in scale else getattr(row, name))
            for name, (_, form) in headings.items()
        ]
        lines.append([row.base, str(row.size_px), f"rank {row.rank}, {row.targets}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# ---- counting --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes that wait for the backward pass, bytes of the largest block recomputed in it, and FLOPs of the step."""

    kept: int
    largest: int
    flops: int


def _transformer_cost(base: Base, tokens: int, prompt_tokens: int) -> _Part:
    """Count the blocks, one of each kind; what is around them is a thousandth."""
    model: Any = base.transformer.get_base_model()  # type: ignore[operator]
    lengths = {tokens, prompt_tokens, tokens + prompt_tokens}
    kept = largest = flops = 0
    for blocks, arguments in _blocks(model, tokens, prompt_tokens):
        kept += len(blocks) * sum(_bytes(x) for x in arguments[: 1 + (base.family == "flux")])
        largest = max(largest, _kept_bytes(partial(blocks[0], *arguments), lengths))
        flops += len(blocks) * _flops(partial(checkpoint, blocks[0], *arguments, use_reentrant=False))
    return _Part(kept, largest, flops)


def _blocks(model: Any, tokens: int, prompt_tokens: int) -> Iterator[tuple[nn.ModuleList, tuple[Any, ...]]]:
    """Yield each kind of block with what a training step calls one of them with."""

    def hidden(length: int, width: int) -> Tensor:
        return torch.zeros(1, length, width, device=_META, dtype=torch.bfloat16).requires_grad_()

    if hasattr(model, "single_transformer_blocks"):
        width, head = model.inner_dim, model.config.attention_head_dim
        time = torch.zeros(1, width, device=_META, dtype=torch.bfloat16)
        rotary = tuple(torch.zeros(tokens + prompt_tokens, head, device=_META) for _ in range(2))
        arguments = (hidden(tokens, width), hidden(prompt_tokens, width), time, rotary)
        yield model.transformer_blocks, arguments
        yield model.single_transformer_blocks, arguments
        return
    for blocks, length, timed in (
        (model.noise_refiner, tokens, True),
        (model.context_refiner, prompt_tokens, False),
        (model.layers, tokens + prompt_tokens, True),
    ):
        turns = torch.zeros(1, length, model.dim // model.n_heads // 2, device=_META, dtype=torch.complex64)
        time = torch.zeros(1, 256, device=_META, dtype=torch.bfloat16)
        yield blocks, (hidden(length, model.dim), None, turns, time if timed else None)


def _vae_cost(base: Base, size: int) -> _Part:
    """Count the decoder: its blocks are recomputed one by one, its last normalisation and convolution are not."""
    cells = size // base.factor
    latent = torch.zeros(1, base.latent_channels, cells, cells, device=_META).requires_grad_()
    vae: Any = base.vae
    decoder = vae.decoder
    blocks = [decoder.mid_block, *decoder.up_blocks]
    fed: dict[nn.Module, Tensor] = {}

    def keep_input(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        fed[module] = given[0].detach().requires_grad_()

    handles = [module.register_forward_pre_hook(keep_input) for module in (*blocks, decoder.conv_norm_out)]
    vae.decode(latent)
    for handle in handles:
        handle.remove()
    largest = max(_kept_bytes(partial(block, fed[block]), {cells**2}) for block in blocks)

    def last() -> Tensor:
        out: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(fed[decoder.conv_norm_out])))
        return out

    kept = sum(_bytes(fed[block]) for block in blocks) + _kept_bytes(last, {cells**2})
    vae.enable_gradient_checkpointing()
    flops = _flops(lambda: vae.decode(latent).sample)
    vae.disable_gradient_checkpointing()
    return _Part(kept, largest, flops)


def _flops(call: Callable[[], Any]) -> int:
    """Return the FLOPs of a call with its backward pass, where it may compute again."""
    with FlopCounterMode(display=False) as counter:
        out = call()
        outputs = out if isinstance(out, tuple) else (out,)
        torch.autograd.backward(outputs, [torch.zeros_like(x) for x in outputs])
    return int(counter.get_total_flops())


def _kept_bytes(call: Callable[[], Any], lengths: set[int]) -> int:
    """Return the bytes that autograd keeps of a call, without weights.

    Without attention matrices too, square of one of `lengths`: fused kernels, which real devices run, keep none.
    """
    saved: dict[int, Tensor] = {}  # the tensors themselves, so that no two storages share an address

    def pack(tensor: Tensor) -> Tensor:
        square = tensor.ndim >= 3 and tensor.shape[-1] == tensor.shape[-2] and tensor.shape[-1] in lengths
        if not isinstance(tensor, nn.Parameter) and not square:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
