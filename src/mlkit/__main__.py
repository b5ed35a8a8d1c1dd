"""`mlkit` and `python -m mlkit`: run the app; turn every error of a user into one sentence and an exit code."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit."""
    traceback = "--traceback" in sys.argv
    if traceback:
        sys.argv.remove("--traceback")
    from mlkit.cli import app
    from mlkit.errors import MlkitError

    try:
        app(prog_name="mlkit")
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
    except Exception as error:
        if traceback:
            raise
        print(  # noqa: T201
            f"mlkit: internal error: {type(error).__name__}: {error}; run again with --traceback and report it",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
