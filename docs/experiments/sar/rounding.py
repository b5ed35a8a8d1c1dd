"""Latents rounded to 8 bits afterwards against latents rounded in training, as whole files, on the embedded sample.

    python docs/experiments/sar/rounding.py --data DIR --after RUN --trained RUN --json FILE

RUN of `residual_v1_c16` and of `residual_codec_c16`, trained on DIR with equal steps. Every third validation scene
becomes a file of each: rounded afterwards, with its one rate; rounded in training at step 1, and with as many bits as
the first at most.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - beside the measurements


def codec(run: Path) -> Any:
    import torch

    from mlkit.commands.opened import open_model
    from mlkit.runs.folders import checkpoints
    from mlkit.tasks.sar.codec import codec_of

    device = torch.device("cpu")
    opened = open_model(list(checkpoints(run))[-1], device, task_name="sar")  # the last: no score chose it
    return codec_of(opened.net, opened.checkpoint, opened.task.settings.model, device)


def coded(one: Any, path: Path, bits_per_px: float | None = None) -> tuple[float, float]:
    """Return bits a pixel of the whole file, and PSNR of what it decodes to."""
    from mlkit.tasks.sar.codec import encode_scene, open_coded, psnr_of
    from mlkit.tasks.sar.latents import write_coded
    from mlkit.tasks.sar.readers import open_scenes

    (scene,) = open_scenes(path, "db")
    file = path.with_suffix(".mlk")
    size = write_coded(file, encode_scene(one, scene, bits_per_px=bits_per_px))
    return 8 * size / np.load(path).size, psnr_of(one, open_coded(one, file), scene)


def main() -> int:
    from mlkit.data.manifest import open_manifest
    from mlkit.tasks.sar.source import SarSource

    parser = _common.options_parser(__doc__)
    for name in ("--data", "--after", "--trained"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    after, trained = codec(options.after), codec(options.trained)
    source = SarSource(open_manifest(options.data), "validation", None)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for index in range(0, len(source), 3):
            unit = np.asarray(source.sample(index, np.random.default_rng(0))["image"])[0]
            path = Path(temporary) / f"{index}.npy"
            np.save(path, (unit * (after.db_max - after.db_min) + after.db_min).astype(np.float32))
            plain = coded(after, path)
            for way, result in (
                ("rounded to 8 bits afterwards, Brotli", plain),
                ("rounded in training, step 1", coded(trained, path)),
                ("rounded in training, at most the bits of the first", coded(trained, path, plain[0])),
            ):
                found.setdefault(way, []).append(result)
    rows = {way: [round(float(value), 4) for value in np.mean(results, axis=0)] for way, results in found.items()}
    for way, (bits, psnr) in rows.items():
        print(f"{way}: {bits:.3f} bit/px, {psnr:.2f} dB")
    _common.write_experiment(options.json, {"scenes": len(next(iter(found.values()))), "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
