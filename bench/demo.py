"""The whole loop on the embedded sample: build, train two models on a small budget, draw, compare. `make demo` runs it.

    python bench/demo.py

Every step is a command of mlkit as anybody would type it. All of it lies in the folder demo/; a second demo replaces
what the first one made there, and nothing else. A step that fails ends the demo with its exit code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from _common import at_most, finish, options_parser

GOAL_MINUTES = 6.0  # on two CPU cores, after the installation
MODELS = ("baseline_c16", "residual_v1_c16")
TINY = ("model.base_channels=4", "train.steps=2", "train.batch_size=1", "eval.max_samples=2", "checkpoint.every=1")
console = Console(highlight=False)


class Demo:
    """The steps of the demo, their places, and how long each took."""

    def __init__(self, folder: Path, smoke: bool) -> None:
        self.folder, self.smoke = folder, smoke
        self.mark = folder / ".made-by-mlkit-demo"
        self.data, self.runs, self.comparison = folder / "data", folder / "runs", folder / "comparison"
        self.number = 0

    def clear(self) -> None:
        """Remove what an earlier demo made, and nothing else."""
        if self.folder.exists() and any(self.folder.iterdir()) and not self.mark.exists():
            sys.exit(f"{self.folder.absolute()} exists and is not from an earlier demo; move it away and try again")
        ours = (self.data, self.comparison, *(self.runs / name for name in MODELS))
        earlier = [path for path in ours if path.exists()]
        for path in earlier:
            shutil.rmtree(path)
        if earlier:
            console.print(f"[dim]removed from the earlier demo: {', '.join(map(str, earlier))}[/]")
        self.folder.mkdir(exist_ok=True)
        self.mark.touch()

    def step(self, title: str, *words: str) -> None:
        """Show and run one command; end the demo with its exit code when it fails."""
        self.number += 1
        console.print()
        console.print(Rule(f"[bold cyan]{self.number} of 5[/]  [bold]{title}[/]", align="left", style="dim"))
        console.print(f"[dim]$[/] [bold]mlkit {' '.join(words)}[/]\n", soft_wrap=True)
        environment = os.environ | {"MLKIT_RUNS_DIR": str(self.runs)}
        started_s = time.monotonic()
        # stdout and stderr are the terminal's own, so that what moves on them moves here as well.
        code = subprocess.call([sys.executable, "-m", "mlkit", *words], env=environment)
        if code:
            console.print(f"\n[bold red]step {self.number} failed with exit code {code}[/]")
            sys.exit(128 - code if code < 0 else code)
        console.print(f"[dim]{minutes_text(time.monotonic() - started_s)}[/]")

    def train(self, preset: str, title: str) -> None:
        tiny = [word for assignment in TINY for word in ("--set", assignment)] if self.smoke else []
        self.step(title, "train", "--preset", preset, "--quick-test", "--data", str(self.data), *tiny)

    def run(self) -> None:
        build = ["--patch", "64", "--stride", "256"] if self.smoke else []
        self.step("A dataset: radar scenes, simulated from photographs", "dataset", "build", "sar", "--out",
                  str(self.data), *build)  # fmt: skip
        self.train(MODELS[0], "A first model, on a small budget")
        self.train(MODELS[1], "A larger one, on the same data")
        self.step("How the first model learned, checkpoint by checkpoint", "eval", "grid", MODELS[0], "--checkpoints",
                  "all")  # fmt: skip
        self.step("Which is better, and is it shown", "compare", *MODELS, "--out", str(self.comparison))

    def closing(self, seconds: float) -> None:
        """Say where the pictures are and what to type next."""
        pictures = {self.grid_of(name): f"{name}: original, reconstruction, difference" for name in MODELS}
        pictures[self.runs / MODELS[0] / "grids" / "timeline.png"] = f"{MODELS[0]} over its checkpoints"
        pictures[self.comparison / "comparison.png"] = "both side by side"
        lines = {
            f". {Path(sys.prefix).name}/bin/activate": "mlkit in this shell",
            "mlkit train --preset sar_tiny": "a small model, to a usable picture",
            "mlkit dataset build sar --source YOUR_SCENES --out data/mine": "your own scenes",
            "mlkit --help": "everything else",
        }
        assert all(picture.is_file() for picture in pictures), pictures
        console.print()
        console.print(Rule(f"[bold green]Done[/]  in {minutes_text(seconds)}", align="left", style="dim"))
        console.print("A small budget: it shows the loop, not how good the models are.")
        for title, rows in (("Pictures", pictures), ("Type next", lines)):
            console.print(f"\n[bold]{title}[/]")
            width = max(len(str(what)) for what in rows)
            for what, why in rows.items():
                console.print(f"  [cyan]{str(what).ljust(width)}[/]  [dim]{why}[/]", soft_wrap=True)

    def grid_of(self, name: str) -> Path:
        return self.runs / name / (self.runs / name / "last").read_text().strip() / "grid.png"


def minutes_text(seconds: float) -> str:
    """Return "3 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything goes")
    options: argparse.Namespace = parser.parse_args()
    # Ctrl-C is for the command that runs: it saves and ends, and its exit code ends the demo.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    started_s = time.monotonic()
    demo = Demo(options.folder, options.smoke)
    demo.clear()
    demo.run()
    taken_s = time.monotonic() - started_s
    demo.closing(taken_s)
    figures = [at_most("the demo, after the installation", taken_s / 60, GOAL_MINUTES, "min")]
    return finish(figures, options) if options.json or options.smoke else 0


if __name__ == "__main__":
    raise SystemExit(main())
