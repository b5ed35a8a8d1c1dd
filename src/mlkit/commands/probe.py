"""What torch says of this machine, as JSON on stdout: a process of its own, so that a broken torch breaks nothing else.

python -m mlkit.commands.probe
"""

from __future__ import annotations

import json
import platform
from typing import Any


def probe() -> dict[str, Any]:
    """Return torch's devices and what `auto` chooses for a small convolutional network."""
    import torch

    from mlkit.commands.opened import pick_device

    device, _ = pick_device("auto")
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "devices": [_cuda(place) for place in range(torch.cuda.device_count())]
        + (["mps"] if torch.backends.mps.is_available() else []),
        "auto": {"device": device.type, **_choice(device)},
    }


def _cuda(place: int) -> str:
    import torch

    facts = torch.cuda.get_device_properties(place)
    bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
    return f"cuda:{place} {facts.name}, {facts.total_memory / 1e9:.1f} GB, sm_{facts.major}{facts.minor}, {bf16}"


def _choice(device: Any) -> dict[str, Any]:
    """Return what `auto` chooses for the preset `baseline_c16` on noise: the network differs, the way is the same."""
    import torch

    from mlkit.presets import resolve_preset
    from mlkit.seeding import isolated_rng
    from mlkit.tasks import load_task
    from mlkit.training.precision import choose

    free = {"train.precision": "auto", "model.base_channels": 32}
    task = load_task(resolve_preset("baseline_c16", flags=free, assignments=['train.channels_last="auto"']).settings)
    with isolated_rng(0):
        sample = {"image": torch.rand(4, 1, 64, 64), "db_range": torch.tensor([[-25.0, 5.0]] * 4)}
        chosen = choose(task, {key: value.to(device) for key, value in sample.items()}, device)
    return {"precision": chosen.precision, "channels_last": chosen.channels_last, "reason": chosen.reason}


if __name__ == "__main__":
    print(json.dumps({"machine": platform.machine(), **probe()}))  # noqa: T201
