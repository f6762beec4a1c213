"""`python -m tunewright.cli`: the command line, whose code is in `commands/`."""

from __future__ import annotations

from tunewright.commands.cli import main

if __name__ == "__main__":
    main()
