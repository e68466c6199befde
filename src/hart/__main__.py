"""`python -m hart` is the command `hart`."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script. Imports the command line itself, since Ctrl-C may come meanwhile."""
    try:
        from hart.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
