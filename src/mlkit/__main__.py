"""`mlkit` and `python -m mlkit`: run the app; turn every error of a user into one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

# Of the machine, not of mlkit: said in one sentence wherever they come from.
_PLACES = {
    errno.EACCES: "choose a place that you may use",
    errno.EPERM: "choose a place that you may use",
    errno.EROFS: "choose a place that you may use",
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space and try again",
}


def main() -> None:
    """Run the command line and exit."""
    traceback = "--traceback" in sys.argv
    if traceback:
        sys.argv.remove("--traceback")
    from mlkit.cli import UsageError, app
    from mlkit.errors import MlkitError

    try:
        sys.exit(app(prog_name="mlkit", standalone_mode=False))  # None, or the code of a typer.Exit
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its text is the help, which is printed by now
            sys.exit(error.exit_code)
        told = error.format_message().replace("Value error, ", "").rstrip(".")
        command = error.ctx.command_path if error.ctx else "mlkit"
        print(f"mlkit: {told} (see: {command} --help)", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except MlkitError as error:
        if traceback:
            raise
        for problem in error.problems:
            print(f"mlkit: {problem}", file=sys.stderr)  # noqa: T201 - the one place where errors are printed
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe left (mlkit ... | head): nothing more to say, and nothing to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if traceback or error.errno not in _PLACES:
            _defect(error, traceback)
        place = f"{error.filename}: " if error.filename else ""
        print(f"mlkit: {place}{error.strerror}; {_PLACES[error.errno]}", file=sys.stderr)  # noqa: T201
        sys.exit(4)
    except Exception as error:  # noqa: BLE001 - told as a defect
        _defect(error, traceback)


def _defect(error: Exception, traceback: bool) -> NoReturn:
    if traceback:
        raise error
    print(  # noqa: T201
        f"mlkit: internal error: {type(error).__name__}: {error}; run again with --traceback and report it",
        file=sys.stderr,
    )
    sys.exit(1)


if __name__ == "__main__":
    main()
