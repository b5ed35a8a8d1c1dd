"""The Typer app: the verbs, listed in the order in which people use them. Nothing here imports torch or pydantic."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mlkit import __version__
from mlkit.commands import compare, doctor, eval, presets, resume, runs, train
from mlkit.tasks import TASKS, available_tasks, task_module

UsageError: Any = typer.BadParameter.__base__  # Typer's own, or Click's where Typer builds on that


def _tasks_group(attribute: str, planned: str) -> type[TyperGroup]:
    """Return a group with one command a task, from `tasks/<name>/cli.py`, imported only when it is used."""

    class TasksGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(TASKS)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name not in TASKS:
                if not ctx.resilient_parsing:  # as while a shell completes
                    task_module(cmd_name, "cli")  # raises the sentence
                return None
            one = typer.Typer(add_completion=False)
            if cmd_name in available_tasks():
                one.command(cmd_name)(getattr(task_module(cmd_name, "cli"), attribute))
            else:
                one.command(
                    cmd_name,
                    help=f"({planned})",
                    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
                )(_not_here(cmd_name))
            return typer.main.get_command(one)

    return TasksGroup


def _not_here(name: str) -> Any:
    def absent(ctx: typer.Context) -> None:
        task_module(name, "task")  # raises the sentence

    return absent


_VERBS = ("dataset", "presets", "train", "resume", "runs", "eval", "infer", "compare", "doctor")


class _InOrderOfUse(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)  # plain commands first, then groups
        return sorted(names, key=lambda name: _VERBS.index(name) if name in _VERBS else len(_VERBS))


app = typer.Typer(
    cls=_InOrderOfUse,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build a dataset, train, resume exactly, look at pictures, run on real images, compare with honest numbers.",
    epilog="Start here: mlkit train --preset sar_tiny     Errors are one sentence; add --traceback for more.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"mlkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


_data = typer.Typer(no_args_is_help=True, help="Build datasets.")
_data.add_typer(
    typer.Typer(
        cls=_tasks_group("dataset_build", "not in this version yet"),
        no_args_is_help=True,
        help="Build a dataset for a task, from your files or the embedded sample.",
    ),
    name="build",
)
app.add_typer(_data, name="dataset", rich_help_panel="Data")
_presets = typer.Typer(no_args_is_help=True, help="What the presets hold, and whether your own is good.")
_presets.command("list")(presets.list_)
_presets.command("show", no_args_is_help=True)(presets.show)
_presets.command("explain", no_args_is_help=True)(presets.explain)
_presets.command("schema")(presets.schema)
_presets.command("check", no_args_is_help=True)(presets.check)
app.add_typer(_presets, name="presets", rich_help_panel="Training")
app.command(rich_help_panel="Training", no_args_is_help=True)(train.train)
app.command(rich_help_panel="Training", no_args_is_help=True)(resume.resume)
_runs = typer.Typer(no_args_is_help=True, help="The runs there are: find, look, mark, compare settings, check, prune.")
_runs.command("list")(runs.list_)
_runs.command("show", no_args_is_help=True)(runs.show)
_runs.command("mark", no_args_is_help=True)(runs.mark)
_runs.command("diff", no_args_is_help=True)(runs.diff)
_runs.command("board")(runs.board)
_runs.command("verify")(runs.verify)
_runs.command("prune")(runs.prune)
app.add_typer(_runs, name="runs", rich_help_panel="Results")
_eval = typer.Typer(no_args_is_help=True, help="Scores and pictures of checkpoints.")
_eval.command("grid", no_args_is_help=True)(eval.grid)
app.add_typer(_eval, name="eval", rich_help_panel="Results")
app.add_typer(
    typer.Typer(
        cls=_tasks_group("infer", "not in this version yet"),
        no_args_is_help=True,
        help="Run a checkpoint on your own images.",
    ),
    name="infer",
    rich_help_panel="Results",
)
app.command(rich_help_panel="Results", no_args_is_help=True)(compare.compare)
app.command(rich_help_panel="Machine")(doctor.doctor)
