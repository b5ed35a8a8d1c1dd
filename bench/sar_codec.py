"""Radar scenes as files of equal size: the codec `gdn_codec_c64` against JPEG 2000.

    python bench/sar_codec.py

Each scene of --scenes (Sentinel-1, AIRSAR, PiSAR and Gotcha's X band), in dB and moved to a median of 0 dB, is divided
into training and validation areas 16 px apart. The codec is trained on the former, half an hour of one CPU core, or
taken from --run. Each validation area is then a scene of its own. JPEG 2000 gets it as Pillow writes it with
irreversible wavelets at 0.25, 0.5 and 1 bit per pixel: 8 bits of the same dB range, a bare codestream without the boxes
of a file. The codec gets as many bytes at most, header and checksum of its file included. PSNR of both is against the
unrounded area, clipped to that range. The same for latents packed with general coders, to see what a coder with the
model's probabilities is worth, and a picture side by side with --picture.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _common import ROOT, Figure, at_least, finish, options_parser, show

SCENES = (
    "sentinel1_VV_db.tif", "sanfrancisco_airsar.npy", "tsukaba_pisar.npy", "shanghai_sentinel1.npy",
    "gotcha_p1_az001_HH_slc512.npy", "gotcha_p1_az002_HH_slc512.npy",
)  # fmt: skip
RATES = (0.25, 0.5, 1.0)  # bits per pixel
BARS = (0.0, 0.5)  # dB over JPEG 2000 at the middle rate
PRESET = "gdn_codec_c64"


@dataclass(frozen=True, slots=True)
class Row:
    """One area at one rate."""

    area: str
    asked: float
    jpeg_bytes: int
    jpeg_psnr: float
    own_bytes: int
    own_psnr: float
    num_px: int


# ---- data and model --------------------------------------------------------------------------------------------------


def levelled(options: argparse.Namespace, folder: Path) -> Path:
    """Write the scenes, in dB with a median of 0, and return their folder."""
    from mlkit.tasks.sar.readers import open_scenes

    folder.mkdir(exist_ok=True)
    if options.smoke:
        rng = np.random.default_rng(0)
        ground = np.kron(rng.uniform(-9, 6, (16, 16)), np.ones((16, 16)))
        np.save(folder / "smoke.npy", (ground + 10 * np.log10(rng.gamma(4, 0.25, ground.shape))).astype(np.float32))
        return folder
    for name in SCENES:
        path = options.scenes / name
        if not path.exists():
            print(f"{name} is left out: {path} is absent")
            continue
        for scene in open_scenes(path):
            db = scene.read().db_hw
            np.save(folder / f"{scene.name.replace('#', '_')}.npy", (db - np.nanmedian(db)).astype(np.float32))
    return folder


def mlkit(work: Path, *words: str) -> None:
    environment = {**os.environ, "MLKIT_RUNS_DIR": str(work / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"mlkit {' '.join(words)}\n{done.stderr[-3000:]}")


def codec_of_run(options: argparse.Namespace, work: Path, data: Path) -> Any:
    """Return the codec, trained here where no run is given."""
    import torch

    from mlkit.commands.opened import open_model
    from mlkit.runs.folders import resolve_run
    from mlkit.tasks.sar.codec import codec_of

    torch.set_num_threads(1)
    run = options.run
    if run is None:
        run = work / "runs" / "codec"
        fewer = ("--max-steps", str(options.steps)) if options.steps else ()
        small = ("--max-steps", "4", "--set", "model.base_channels=4") if options.smoke else fewer
        if not run.exists():
            mlkit(work, "train", "--preset", PRESET, "--data", str(data), "--name", "codec", *small)
    opened = open_model(resolve_run(str(run), work / "runs").chosen_checkpoint(), torch.device("cpu"), task_name="sar")
    return codec_of(opened.net, opened.checkpoint, opened.task.settings.model, torch.device("cpu"))


def areas(data: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield name and dB values of each validation area."""
    from mlkit.data.manifest import open_manifest
    from mlkit.data.store import Store
    from mlkit.tasks.sar.source import SCENES as STORED

    manifest = open_manifest(data)
    store = Store(data, STORED)
    for number, scene in enumerate(manifest.details["scenes"]):
        for area in scene["validation_areas"]:
            yield scene["name"], np.array(store[number][area["y0"] : area["y1"], area["x0"] : area["x1"]])


# ---- codecs ----------------------------------------------------------------------------------------------------------


def jpeg2000(unit_hw: np.ndarray[Any, Any], bits_per_px: float) -> tuple[int, np.ndarray[Any, Any]]:
    """Return the bytes and what they decode to."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(np.rint(unit_hw * 255).astype(np.uint8))
    picture.save(
        buffer, "JPEG2000", quality_mode="rates", quality_layers=[8 / bits_per_px], irreversible=True, no_jp2=True
    )
    return len(buffer.getvalue()), np.asarray(Image.open(io.BytesIO(buffer.getvalue())), np.float64) / 255


def own(codec: Any, path: Path, bits_per_px: float) -> tuple[int, np.ndarray[Any, Any], Any]:
    """Return the bytes of the file, what it decodes to in [0, 1], and the coded scene."""
    from mlkit.tasks.sar.codec import decoded_rows, encode_scene, open_coded
    from mlkit.tasks.sar.latents import write_coded
    from mlkit.tasks.sar.readers import open_scenes

    (scene,) = open_scenes(path, "db")
    file = path.with_suffix(".mlk")
    size = write_coded(file, encode_scene(codec, scene, bits_per_px=bits_per_px))
    coded = open_coded(codec, file)
    rows = np.concatenate([band for _, band in decoded_rows(codec, coded)])
    return size, (rows.astype(np.float64) - codec.db_min) / (codec.db_max - codec.db_min), coded


def psnr(made: np.ndarray[Any, Any], unit_hw: np.ndarray[Any, Any]) -> float:
    return float(-10 * np.log10(np.nanmean((made - unit_hw) ** 2)))


def packed_sizes(codec: Any, coded: Any) -> dict[str, int]:
    """Return the bytes of the same values by the model's probabilities and by general coders."""
    import imagecodecs

    from mlkit.tasks.sar.codec import latent_shape
    from mlkit.tasks.sar.coding import decode, whole_prior

    q = decode(coded.values, latent_shape(codec, coded), whole_prior(codec.net.prior), coded.level)
    plain = q.astype(np.int8).tobytes()
    return {
        "range coder": len(coded.values),
        "Brotli": len(imagecodecs.brotli_encode(plain, level=11)),
        "LZMA": len(imagecodecs.lzma_encode(plain, level=9)),
        "Zstandard": len(imagecodecs.zstd_encode(plain, level=22)),
        "Deflate": len(zlib.compress(plain, 9)),
    }


def measured(codec: Any, data: Path, work: Path) -> tuple[list[Row], dict[str, int]]:
    rows: list[Row] = []
    packed: dict[str, int] = {}
    for number, (name, db) in enumerate(areas(data)):
        path = work / f"area{number}.npy"
        np.save(path, db)
        unit = ((db - codec.db_min) / (codec.db_max - codec.db_min)).clip(0, 1)
        for rate in RATES:
            size, made = jpeg2000(np.nan_to_num(unit), rate)
            own_size, own_made, coded = own(codec, path, 8 * size / db.size)
            rows.append(Row(name, rate, size, psnr(made, unit), own_size, psnr(own_made, unit), db.size))
            if rate == RATES[1]:
                for coder, count in packed_sizes(codec, coded).items():
                    packed[coder] = packed.get(coder, 0) + count
    return rows, packed


def timed(codec: Any, data: Path, work: Path) -> dict[str, float]:
    """Return CPU seconds a megapixel of the largest area with the codec's own step, and of JPEG 2000 at 0.5 bit/px."""
    from mlkit.tasks.sar.codec import decoded_rows, encode_scene, open_coded
    from mlkit.tasks.sar.latents import write_coded
    from mlkit.tasks.sar.readers import open_scenes

    found = list(areas(data))
    number = max(range(len(found)), key=lambda index: found[index][1].size)
    db = found[number][1]
    unit = np.nan_to_num(((db - codec.db_min) / (codec.db_max - codec.db_min)).clip(0, 1))
    (scene,) = open_scenes(work / f"area{number}.npy", "db")
    file = work / "timed.mlk"
    times = {}
    for what, action in (
        ("coding", lambda: write_coded(file, encode_scene(codec, scene))),
        ("reading back", lambda: list(decoded_rows(codec, open_coded(codec, file)))),
        ("JPEG 2000 both ways", lambda: jpeg2000(unit, RATES[1])),
    ):
        action()  # tables are made once
        started_s = time.process_time()
        action()
        times[what] = (time.process_time() - started_s) / (db.size / 1e6)
    return times


# ---- picture ---------------------------------------------------------------------------------------------------------


def draw(codec: Any, data: Path, work: Path, path: Path) -> None:
    """Write originals, JPEG 2000 and the codec side by side at 0.5 bits per pixel, in dB on one colour bar."""
    from mlkit.imaging.grids import Panel, apply_scale, comparison_grid, grayscale, write_png

    scale = grayscale("backscatter over the median (dB)", codec.db_min, codec.db_max)
    span = codec.db_max - codec.db_min
    rows, labels = [], []
    for number, (name, db) in enumerate(areas(data)):
        if name.rsplit("_", 1)[-1] in ("1", "2") or name.endswith("az002_HH_slc512"):
            continue  # one channel a scene
        side = min(db.shape)
        unit = ((db - codec.db_min) / span).clip(0, 1)
        size, made = jpeg2000(np.nan_to_num(unit), RATES[1])
        own_size, own_made, _ = own(codec, work / f"area{number}.npy", 8 * size / db.size)

        def panel(title: str, values: Any, note: str, side: int = side) -> Panel:
            return Panel(title, apply_scale(values[:side, :side] * span + codec.db_min, scale), note, scale)

        rows.append(
            [
                panel("Original", unit, f"{db.shape[1]} x {db.shape[0]} px, first {side} x {side} shown"),
                panel("JPEG 2000", made, f"{size:,} bytes\nPSNR {psnr(made, unit):.2f} dB"),
                panel(PRESET, own_made, f"{own_size:,} bytes\nPSNR {psnr(own_made, unit):.2f} dB"),
            ]
        )
        labels.append(name.split("_HH")[0])
    write_png(path, comparison_grid(rows, heading="0.5 bits per pixel, areas not trained on", labels=labels))


def main() -> int:
    parser = options_parser(__doc__)
    shared = Path(os.environ.get("MLKIT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--scenes", type=Path, default=shared / "sar", help="folder with the scenes")
    parser.add_argument("--run", type=Path, help="a run or checkpoint to take instead of training one")
    parser.add_argument("--work", type=Path, help="keep dataset and run here, and go on where a stopped call was")
    parser.add_argument("--steps", type=int, help="train for so many instead of the preset's")
    parser.add_argument("--picture", type=Path, help="also draw them side by side")
    options = parser.parse_args()
    if not options.smoke and not any((options.scenes / name).exists() for name in SCENES):
        print(f"skipped: no scene in {options.scenes}; give --scenes")
        return 0
    with ExitStack() as stack:
        work = (options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))).absolute()
        work.mkdir(parents=True, exist_ok=True)
        data = work / "data"
        if not data.exists():
            folder = levelled(options, work / "levelled")
            words = ("--patch", "64", "--stride", "32", "--guard", "16", "--val-share", "0.25", "--kind", "db")
            mlkit(work, "dataset", "build", "sar", "--source", str(folder), *words, "--out", str(data))
            shutil.rmtree(folder)
        codec = codec_of_run(options, work, data)
        rows, packed = measured(codec, data, work)
        times = timed(codec, data, work)
        if options.picture:
            draw(codec, data, work, options.picture)
    print(f"{codec.db_min:.2f} to {codec.db_max:.2f} dB are 0 to 1; {codec.model_id}")
    show(
        ("area", "asked", "JPEG 2000", "PSNR", "mlkit", "PSNR", "gain"),
        [
            (
                row.area, f"{row.asked:g} bit/px", f"{row.jpeg_bytes:,} B", f"{row.jpeg_psnr:.2f}",
                f"{row.own_bytes:,} B", f"{row.own_psnr:.2f}", f"{row.own_psnr - row.jpeg_psnr:+.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    from mlkit.evaluation.statistics import mean_interval

    figures = []
    for rate in RATES:
        of_rate = [row for row in rows if row.asked == rate]
        for title, values in (
            ("JPEG 2000, PSNR", [row.jpeg_psnr for row in of_rate]), ("codec, PSNR", [row.own_psnr for row in of_rate])
        ):  # fmt: skip
            figures.append(Figure(f"{rate:g} bit/px, {title}", round(float(np.mean(values)), 3), "dB"))
        real = [sum(getattr(row, key) for row in of_rate) for key in ("jpeg_bytes", "own_bytes", "num_px")]
        told = ", ".join(f"{8 * size / real[2]:.3f}" for size in real[:2])
        figures.append(Figure(f"{rate:g} bit/px, real rate of both", told, "bit/px"))
        over = mean_interval([row.own_psnr - row.jpeg_psnr for row in of_rate])
        gain = over.mean
        inside = f"{over.mean:+.2f} ({over.low:+.2f} to {over.high:+.2f})"
        figures.append(Figure(f"gain at {rate:g} bit/px and its 95 % interval over {len(of_rate)} areas", inside, "dB"))
        if rate == RATES[1]:
            figures += [
                at_least(f"{name} bar: gain over JPEG 2000 at {rate:g} bit/px", gain, bar, "dB")
                for name, bar in zip(("first", "second"), BARS, strict=True)
            ]
    figures += [
        Figure(f"latents at 0.5 bit/px by {coder} over the range coder", round(count / packed["range coder"], 3), "x")
        for coder, count in packed.items()
    ]
    figures += [Figure(f"{what}, CPU time", round(value, 2), "s/MP") for what, value in times.items()]
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())
