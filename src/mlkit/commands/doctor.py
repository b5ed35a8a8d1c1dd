"""`mlkit doctor`: what a report of a defect needs to say of the machine."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Ask torch for devices, and time the formats that auto tries.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tell versions, processor, devices, trackers, folders and disk, what auto would choose, and what is wrong.

    Examples:

        mlkit doctor

        mlkit doctor --json
    """
    from mlkit.commands.machine import print_machine

    print_machine(probe=probe, as_json=as_json)
