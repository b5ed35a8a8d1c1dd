"""The whole loop on the embedded sample: build, train two models on a small budget, draw, compare.

    python bench/demo.py

Everything lies in the folder demo/, which is made anew each time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

DEMO = Path("demo")
MARK = DEMO / ".made-by-mlkit-demo"
RUNS = DEMO / "runs"
DATA = DEMO / "data"
MODELS = ("baseline_c16", "residual_v1_c16")
console = Console()


def clear() -> None:
    """Remove what an earlier demo left, and nothing that it did not make."""
    if DEMO.exists() and not MARK.exists():
        sys.exit(f"{DEMO.absolute()} exists and is not from an earlier demo; move it away and try again")
    if DEMO.exists():
        shutil.rmtree(DEMO)
        console.print(f"[dim]removed the earlier demo in {DEMO}[/]")
    DEMO.mkdir()
    MARK.touch()


def mlkit(title: str, *arguments: str) -> None:
    """Show and run one command; end the demo with its exit code when it fails."""
    console.print()
    console.print(Rule(f"[bold]{title}", align="left", style="dim"))
    console.print(f"[dim]$[/] mlkit {' '.join(arguments)}", highlight=False)
    environment = os.environ | {"MLKIT_RUNS_DIR": str(RUNS), "MLKIT_CACHE_DIR": str(DEMO / "cache")}
    done = subprocess.run([sys.executable, "-m", "mlkit", *arguments], env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    started_s = time.monotonic()
    clear()
    mlkit("1 / 5  a dataset: simulated radar scenes from photographs", "dataset", "build", "sar", "--out", str(DATA))
    for number, preset in enumerate(MODELS, start=2):
        mlkit(f"{number} / 5  train {preset}", "train", "--preset", preset, "--quick-test", "--data", str(DATA))
    mlkit("4 / 5  every checkpoint as a time line", "eval", "grid", MODELS[0], "--checkpoints", "all")
    out = DEMO / "comparison"
    mlkit("5 / 5  compare", "compare", *MODELS, "--out", str(out))
    console.print()
    console.print(Rule("[bold]done", align="left", style="dim"))
    minutes, seconds = divmod(round(time.monotonic() - started_s), 60)
    console.print(f"{minutes} min {seconds:02d} s. The pictures:")
    pictures = [RUNS / name / f"ckpt-{(RUNS / name / 'last').read_text().strip()[5:]}" / "grid.png" for name in MODELS]
    pictures += [RUNS / MODELS[0] / "grids" / "timeline.png", out / "comparison.png"]
    for picture in pictures:
        assert picture.is_file(), picture
        console.print(f"  {picture}", highlight=False)
    console.print("Both models have seen little: this shows the loop, not how good they are. Next:")
    activate = Path(sys.prefix).name
    for line in (
        f". {activate}/bin/activate",
        "mlkit train --preset sar_tiny",
        "mlkit dataset build sar --source YOUR_SCENES --out data/mine",
    ):
        console.print(f"  {line}", highlight=False)


if __name__ == "__main__":
    main()
