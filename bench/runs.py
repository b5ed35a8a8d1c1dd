"""How long `mlkit runs list` takes over a thousand runs, and `mlkit presets list`, as whole processes.

    python bench/runs.py

The runs are written here as training leaves them: run.json, settings, pointers, two checkpoints with their
checkpoint.json, a mark for every third. The peers are Typer apps of one command that read the same files with the
standard library and print a line for each: what any such program needs. All are whole processes, started in turns, with
compiled files. Neither list may import torch.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Figure, at_most, finish, in_turns, options_parser, ratio, show

RUNS = 1000
GOAL_S = 0.5
GOAL = 1.3
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
STUBS = {
    "runs": """
import json, typer
from pathlib import Path
app = typer.Typer()

@app.command()
def main(folder: Path) -> None:
    for run in sorted(folder.iterdir()):
        about = json.loads((run / "run.json").read_bytes())
        last = (run / "last").read_text().strip()
        best = json.loads((run / (run / "best").read_text().strip() / "checkpoint.json").read_bytes())
        note = json.loads((run / "mark.json").read_bytes())["note"] if (run / "mark.json").is_file() else ""
        print(f"{run.name:30} {about['task']:8} {about['preset']:20} {about['status']:8} {last:10} "
              f"{best['scores']['psnr']:.2f} {about['created']} {note}")

app()
""",
    "presets": """
import tomllib, typer
from pathlib import Path
app = typer.Typer()

@app.command()
def main(folder: Path) -> None:
    for file in sorted(folder.glob("*/*.toml")):
        text = file.read_text()
        values = tomllib.loads(text)
        print(f"{file.stem:20} {values.get('task', ''):10} {values.get('train', {}).get('steps', '')} {text[:100]}")

app()
""",
}


def write_runs(folder: Path, count: int) -> None:
    """Write runs that look like real ones, of about the same sizes."""
    from mlkit.presets import resolve_preset, to_toml

    resolved = resolve_preset("baseline_c16")
    settings, values = to_toml(resolved.settings), resolved.settings.model_dump(mode="json")
    scores = {key: 0.5 for key in ("loss", "rmse_db", "ssim", "enl_ratio", "epi")}
    files = {f"{name}.{kind}": {"bytes": 12345, "sha256": "0" * 64} for name in "abc" for kind in "de"}
    for number in range(count):
        run = folder / f"v{number // 10}.{number % 10}_variant"
        about = {
            "format_version": 1,
            "id": f"{number:012d}",
            "name": run.name,
            "primary_metric": "psnr",
            "origins": dict(resolved.origins),
            "task": "sar",
            "preset": "baseline_c16",
            "status": "success",
            "created": f"2026-{1 + number // 100:02d}-{1 + number % 28:02d}T10:00:00+00:00",
            "command": "mlkit train --preset baseline_c16 --data data/s1 --name " + run.name,
            "versions": {name: "1.2.3" for name in ("mlkit", "torch", "numpy", "accelerate", "safetensors")},
            "dataset_sha256": "a" * 64,
            "lineage": {},
        }
        for step in (9000, 10000):
            (run / f"ckpt-{step}").mkdir(parents=True)
            info = {"format_version": 1, "step": step, "settings": values, "files": files}
            info |= {"scores": scores | {"psnr": 20 + number / 100}}
            (run / f"ckpt-{step}" / "checkpoint.json").write_text(json.dumps(info, indent=2))
        (run / "run.json").write_text(json.dumps(about, indent=2))
        (run / "settings.toml").write_text(settings)
        (run / "best").write_text("ckpt-9000\n")
        (run / "last").write_text("ckpt-10000\n")
        if number % 3 == 0:
            (run / "mark.json").write_text(json.dumps({"format_version": 1, "note": "a note", "tags": ["kept"]}))


def starts(command: list[str], environment: dict[str, str], spent: list[float]) -> Callable[[], object]:
    """Return the start of a program; its processor time is kept."""

    def start() -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout, command
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    return start


def imports_torch(words: list[str], environment: dict[str, str]) -> bool:
    code = f"import sys; sys.argv = ['mlkit', *{words!r}]; from mlkit.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return re.search(r"\|\s+torch$", done.stderr, re.MULTILINE) is not None


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="starts of each")
    options = parser.parse_args()
    count = 20 if options.smoke else RUNS
    options.rounds = 2 if options.smoke else options.rounds
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_runs(folder / "runs", count)
        environment = ENVIRONMENT | {"MLKIT_RUNS_DIR": str(folder / "runs")}
        # The same way in as the script that pip makes.
        (folder / "start.py").write_text("import sys\nfrom mlkit.__main__ import main\nsys.exit(main())\n")
        ways: dict[str, Callable[[], object]] = {}
        for name, source in STUBS.items():
            (folder / f"stub_{name}.py").write_text(source)
            place = folder / "runs" if name == "runs" else presets_folder()
            stub = [sys.executable, str(folder / f"stub_{name}.py"), str(place)]
            own = [sys.executable, str(folder / "start.py"), name, "list"]
            for label, command in ((f"stub {name}", stub), (f"mlkit {name} list", own)):
                ways[label] = starts(command, environment, spent.setdefault(label, []))
        times = in_turns(ways, options.rounds)
        with_torch = [name for name in STUBS if imports_torch([name, "list"], environment)]
    return report(times, spent, with_torch, count, options)


def presets_folder() -> Path:
    """Return where the shipped presets lie."""
    from mlkit.preset_files import presets_root

    return presets_root()


def report(
    times: dict[str, list[float]], spent: dict[str, list[float]], with_torch: list[str], count: int, options: Any
) -> int:
    """Print the starts and return the exit code."""
    ratios = {name: ratio(times[f"mlkit {name} list"], times[f"stub {name}"]) for name in STUBS}
    rows = []
    for name, taken in times.items():
        over = str(ratios[name.split()[1]]) if name.startswith("mlkit") else ""
        processor = f"{statistics.median(spent[name]) * 1e3:.0f} ms"
        rows.append([name, f"{statistics.median(taken) * 1e3:.0f} ms", processor, over])
    show(("whole process", "median", "processor", "over the stub"), rows)
    listed = f"mlkit runs list, {count:,} runs"
    figures = [
        at_most(listed, statistics.median(times["mlkit runs list"]), GOAL_S, "s"),
        Figure(f"{listed}, processor time", round(statistics.median(spent["mlkit runs list"]), 3), "s"),
        at_most("runs list over the stub that reads the same", ratios["runs"].value, GOAL),
        at_most("presets list over the stub that reads the same", ratios["presets"].value, GOAL),
        Figure("lists that import torch", len(with_torch), "", "0", not with_torch),
    ]
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())
