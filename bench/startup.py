"""How long `mlkit --help` and every `COMMAND --help` take, against the floor and against peers.

    python bench/startup.py

The floor is a Typer and Rich app with as many commands and options and nothing behind them, `--help` against
`--help` and `COMMAND --help` against `COMMAND --help` (Typer itself imports pydantic to parse a command). All are
started in turns, so a busy moment falls on every one of them. `accelerate --help` and `litgpt --help` run where they
are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 1.3
STUB_TOP, STUB_COMMAND = "stub --help", "stub train --help"
COMMANDS = (
    (),
    ("dataset",),
    ("dataset", "build"),
    ("dataset", "build", "sar"),
    ("train",),
    ("resume",),
    ("eval",),
    ("eval", "grid"),
    ("infer",),
    ("infer", "sar"),
    ("compare",),
)

STUB = '''
from typing import Annotated
import typer

def options(a: Annotated[str, typer.Option(help="One.", rich_help_panel="A")] = "",
            b: Annotated[int | None, typer.Option(min=0, help="Two.", rich_help_panel="A")] = None,
            c: Annotated[bool, typer.Option(help="Three.", rich_help_panel="B")] = False,
            d: Annotated[float | None, typer.Option(help="Four.")] = None,
            e: Annotated[str | None, typer.Option(help="Five.")] = None,
            f: Annotated[int | None, typer.Option(help="Six.", rich_help_panel="B")] = None,
            g: Annotated[str, typer.Option(help="Seven.")] = "auto",
            h: Annotated[list[str] | None, typer.Argument(help="Eight.")] = None) -> None:
    """A command.

    Examples:

        stub command
    """

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="A stub.")
groups = {"dataset": ("sar",), "eval": ("grid",), "infer": ("sar", "sr", "demosaic", "lens", "bvae")}
for name in ("train", "resume", "compare"):
    app.command(name)(options)
for name, children in groups.items():
    group = typer.Typer(no_args_is_help=True, help="A group.")
    for child in children:
        group.command(child)(options)
    app.add_typer(group, name=name)
inner = typer.Typer(no_args_is_help=True, help="A group.")
for child in ("sar", "sr", "demosaic", "lens", "bvae"):
    inner.command(child)(options)
app.registered_groups[0].typer_instance.add_typer(inner, name="build")
app()
'''


def seconds(command: list[str]) -> float:
    """Return the wall time of one start, in seconds."""
    started_s = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=os.environ)
    return time.perf_counter() - started_s


def imported(arguments: list[str]) -> list[str]:
    """Return which heavy packages a help imports."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print([m for m in ('torch', 'numpy') if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['mlkit', *{arguments!r}, '--help']\n"
        "from mlkit.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(done.stderr.strip().replace("'", '"')))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="starts of each")
    parser.add_argument("--smoke", action="store_true", help="two rounds, two commands")
    parser.add_argument("--json", action="store_true", help="write bench/results/startup.json")
    options = parser.parse_args()
    rounds, commands = (2, COMMANDS[:2]) if options.smoke else (options.rounds, COMMANDS)

    stub = Path(tempfile.mkdtemp()) / "stub.py"
    stub.write_text(STUB)
    mlkit = shutil.which("mlkit", path=str(Path(sys.executable).parent))
    assert mlkit, "install mlkit first"
    contenders: dict[str, list[str]] = {
        STUB_TOP: [sys.executable, str(stub), "--help"],
        STUB_COMMAND: [sys.executable, str(stub), "train", "--help"],
    }
    contenders |= {" ".join(("mlkit", *words, "--help")): [mlkit, *words, "--help"] for words in commands}
    absent = []
    for peer in ("accelerate", "litgpt"):
        found = shutil.which(peer, path=str(Path(sys.executable).parent)) or shutil.which(peer)
        if found:
            contenders[f"{peer} --help"] = [found, "--help"]
        else:
            absent.append(peer)
    for command in contenders.values():
        seconds(command)  # files into the cache of the system
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, command in contenders.items():
            times[name].append(seconds(command))
    print(f"{'command':34} {'median':>8} {'of the stub':>12}")
    ratios = {}
    for name, taken in times.items():
        # The ratio within a round: what slows one start of it slows the next as well.
        floor = STUB_COMMAND if name.startswith("mlkit ") and name != "mlkit --help" else STUB_TOP
        ratios[name] = statistics.median(one / base for one, base in zip(taken, times[floor], strict=True))
        print(f"{name:34} {statistics.median(taken):6.3f} s {ratios[name]:11.2f}x")
    for peer in absent:
        print(f"{peer}: not installed")
    heavy = {" ".join(words): found for words in commands if (found := imported(list(words)))}
    print(f"help imports torch or numpy: {heavy or 'never'}")
    worst = max(ratio for name, ratio in ratios.items() if name.startswith("mlkit"))
    print(f"slowest help of mlkit: {worst:.2f} times the stub (goal: {GOAL})")
    if options.json:
        write(statistics.median(times[STUB_TOP]), ratios, worst)


def write(floor: float, ratios: dict[str, float], worst: float) -> None:
    """Write the result as docs/generate.py reads it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    figures = {
        "mlkit --help over the stub": {
            "value": round(ratios["mlkit --help"], 2), "unit": "x", "goal": f"<= {GOAL}",
            "reached": ratios["mlkit --help"] <= GOAL,
        },
        "slowest COMMAND --help over the stub": {
            "value": round(worst, 2), "unit": "x", "goal": f"<= {GOAL}", "reached": worst <= GOAL,
        },
        "the stub": {"value": round(floor, 3), "unit": "s", "goal": "-", "reached": True},
    }  # fmt: skip
    for name, ratio in ratios.items():
        if name.startswith(("accelerate", "litgpt")):
            figures[f"{name} over the stub"] = {"value": round(ratio, 1), "unit": "x", "goal": "-", "reached": True}
    result = {
        "bench": "startup",
        "command": "python bench/startup.py --json",
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "figures": figures,
    }
    path = Path(__file__).parent / "results" / "startup.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
