"""A tiny base with an adapter, in files as `mlkit infer sr` opens them; random, so what it restores is not judged."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mlkit.tasks.sr.bases import open_base, save_base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae
from mlkit.tasks.sr.lora import adapt, save_adapter

RANK = 4


def write_adapter(folder: Path) -> Path:
    """Write base/ and lora/ into `folder`; return the adapter's folder, which names its base."""
    torch.manual_seed(0)
    vae = new_vae()
    transformer = new_transformer(vae, heads=1, double_blocks=1, single_blocks=1, prompt_channels=4)
    nn.init.normal_(transformer.proj_out.weight, std=0.05)
    save_base(
        folder / "base",
        transformer=transformer,
        vae=vae,
        prompt_embeds=torch.zeros(1, 4),
        pooled=torch.zeros(4),
        card="",
    )
    base = open_base(str(folder / "base"))
    adapt(base, RANK, float(RANK))
    with torch.no_grad():
        for name, parameter in base.transformer.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    save_adapter(base, folder / "lora")
    return folder / "lora"
