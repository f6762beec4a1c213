"""The verb board: runs, papers and methods as pages on loopback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, examples, show


@examples(
    "tunewright board",
    "tunewright board runs --port 8765 --allow-run",
)
def board(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="a folder of runs")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on this machine; 0: a free one")] = 8765,
    allow_run: Annotated[
        bool, typer.Option("--allow-run", help="let the page start runs, for whoever has the token that is printed")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show runs, comparisons, papers and methods as pages, on this machine alone. It only reads folders."""
    from tunewright.board.server import Board

    with Board(folder, port, allow_run=allow_run) as serving:
        token = serving.starter.token if serving.starter is not None else None
        told = {"address": serving.address, "folder": str(serving.index.root), "token": token}
        lines = [f"the board of {serving.index.root} is at {serving.address} (Ctrl-C ends it)"]
        if token is not None:
            lines.append(f"runs are started at {serving.address}start#token={token}")
        show(told, as_json, lambda: "\n".join(lines))
        sys.stdout.flush()
        try:
            serving.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
