"""How long `mlkit --help` and every `COMMAND --help` take, against a Typer and Rich app as large.

    python bench/startup.py

The stub is written here from mlkit's own command tree: the same commands, groups, options, panels and help texts, and
nothing behind them. Each help of mlkit is compared with the same help of the stub; all are whole processes, started in
turns, with compiled files. `accelerate --help` and `litgpt --help` run where they are installed. No help may import
torch, numpy, or (beyond what Typer itself imports for a command) pydantic.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import Figure, at_most, finish, in_turns, options_parser, ratio, show

GOAL = 1.3
PEERS = ("accelerate", "litgpt")
HEAVY = ("torch", "numpy", "pydantic", "accelerate", "safetensors")
# Without compiled files a start takes twice as long, for the stub and for mlkit.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
Words = tuple[str, ...]


# ---- the stub --------------------------------------------------------------------------------------------------


def command_tree() -> tuple[Any, Any]:
    """Return mlkit's root command and a context for listing what is below it."""
    import typer

    from mlkit.cli import app

    root = typer.main.get_command(app)
    return root, typer.Context(root)


def commands(command: Any, context: Any, words: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Yield every command and group with the words that call it, from the root down."""
    yield words, command
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), context, (*words, name))


def stub_source() -> str:
    """Return a program with mlkit's commands and options, and nothing behind them."""
    root, context = command_tree()
    lines = ["from typing import Annotated, Any", "import typer", ""]
    for words, command in commands(root, context):
        name, parent = "_".join(("app", *words)), "_".join(("app", *words[:-1]))
        shown_in = getattr(command, "rich_help_panel", None)
        panel = f"rich_help_panel={shown_in if isinstance(shown_in, str) else None!r}"
        if hasattr(command, "list_commands"):
            lines.append(f"{name} = typer.Typer(no_args_is_help=True, rich_markup_mode='rich', help={command.help!r})")
            if words:
                lines.append(f"{parent}.add_typer({name}, name={words[-1]!r}, {panel})")
            else:
                lines += [f"@{name}.callback()", "def _root(version: bool = False) -> None: ..."]
        else:
            options = ", ".join(stub_option(number, one) for number, one in enumerate(command.params))
            lines.append(f"def {name}({options}) -> None: ...")
            lines.append(f"{parent}.command({words[-1]!r}, help={command.help!r}, {panel})({name})")
    return "\n".join([*lines, "", "def main() -> None:", "    app(prog_name='mlkit')", ""])


def stub_option(number: int, option: Any) -> str:
    """Return an option of the same name, kind, panel and help as a parameter."""
    facts = f"help={option.help!r}, rich_help_panel={option.rich_help_panel!r}"
    if "Argument" in type(option).__name__:
        return f"a{number}: Annotated[list[str] | None, typer.Argument({facts})] = None"
    names = ", ".join(repr(name) for name in option.opts)
    if option.is_flag:
        return f"a{number}: Annotated[bool, typer.Option({names}, {facts})] = False"
    if option.min is not None:
        return f"a{number}: Annotated[int | None, typer.Option({names}, min={option.min!r}, {facts})] = None"
    return f"a{number}: Annotated[str | None, typer.Option({names}, {facts})] = None"


# ---- starting --------------------------------------------------------------------------------------------------


def starts(command: list[str]) -> Callable[[], object]:
    """Return the start of a program; its output must not be empty."""

    def start() -> None:
        done = subprocess.run(command, capture_output=True, check=True, env=ENVIRONMENT)
        assert done.stdout, command

    return start


def imported(module: str, words: Words, path: Path) -> set[str]:
    """Return which heavy packages a help imports, as `-X importtime` lists them."""
    code = f"import sys; sys.argv = ['mlkit', *{words!r}, '--help']; from {module} import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT,
        cwd=path,
    )  # fmt: skip
    return {name for name in re.findall(r"\|\s+([A-Za-z0-9_]+)$", done.stderr, re.MULTILINE) if name in HEAVY}


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="starts of each")
    options = parser.parse_args()
    words_of = [words for words, _ in commands(*command_tree())]
    if options.smoke:
        options.rounds, words_of = 2, [(), ("train",)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "stub.py").write_text(stub_source(), encoding="utf-8")
        # The same way in as the script that pip makes for mlkit.
        for name, module in (("stub", "stub"), ("mlkit", "mlkit.__main__")):
            (folder / f"start_{name}.py").write_text(f"import sys\nfrom {module} import main\nsys.exit(main())\n")
        ways: dict[str, Callable[[], object]] = {}
        for words in words_of:
            for name in ("stub", "mlkit"):
                command = [sys.executable, str(folder / f"start_{name}.py"), *words, "--help"]
                ways[" ".join((name, *words, "--help"))] = starts(command)
        for peer in PEERS:
            found = shutil.which(peer, path=str(Path(sys.executable).parent)) or shutil.which(peer)
            if found and not options.smoke:
                ways[f"{peer} --help"] = starts([found, "--help"])
            elif not found:
                print(f"{peer}: not installed")
        times = in_turns(ways, options.rounds)
        extra = {
            " ".join(("mlkit", *words)): found
            for words in words_of
            if (found := imported("mlkit.__main__", words, folder) - imported("stub", words, folder))
        }
    return report(times, extra, options)


def report(times: dict[str, list[float]], extra: dict[str, set[str]], options: Any) -> int:
    """Print the starts and return the exit code."""
    rows, ratios = [], {}
    for name, taken in times.items():
        if name.startswith("stub "):
            continue
        program, _, rest = name.partition(" ")
        stub = f"stub {rest}" if program == "mlkit" else "stub --help"
        ratios[name] = ratio(taken, times[stub])
        medians = [f"{statistics.median(one) * 1e3:.0f} ms" for one in (taken, times[stub])]
        rows.append([name, *medians, str(ratios[name])])
    show(("whole process", "median", "stub", "over the stub"), rows)
    print(f"helps that import more of {', '.join(HEAVY)} than the stub does: {extra or 'none'}")
    of_mlkit = {name: one.value for name, one in ratios.items() if name.startswith("mlkit")}
    slowest = max(of_mlkit, key=of_mlkit.__getitem__)
    figures = [
        at_most("mlkit --help over the stub", of_mlkit["mlkit --help"], GOAL),
        at_most("slowest COMMAND --help over the stub's", of_mlkit[slowest], GOAL),
        Figure("which is", slowest, ""),
        Figure("the stub's --help", round(statistics.median(times["stub --help"]), 3), "s"),
        Figure("helps that import torch, numpy or pydantic by themselves", len(extra), "", "0", not extra),
    ]
    figures += [
        Figure(f"{name} over the stub", round(one.value, 1), "x")
        for name, one in ratios.items()
        if name not in of_mlkit
    ]
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())
