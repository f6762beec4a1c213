"""The verb mcp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import examples


@examples(
    "tunewright mcp --data rows --eval locked/test.jsonl --work agent --seconds 3600",
    "tunewright mcp --data rows --eval locked/test.jsonl --work agent --seconds 600 --steps 200",
)
def mcp(
    data: Annotated[list[Path], typer.Option(metavar="DIR", help="folders that recipes may read; repeatable")],
    seconds: Annotated[float, typer.Option(min=1, help="of all runs and comparisons together")],
    evaluation: Annotated[
        list[Path] | None,
        typer.Option("--eval", metavar="FILE", help="evaluation rows, which no tool shows or trains on; repeatable"),
    ] = None,
    work: Annotated[Path, typer.Option(metavar="DIR", help="where runs, recipes and counts are kept")] = Path("agent"),
    steps: Annotated[int | None, typer.Option(min=1, help="the most of one run (default: any)")] = None,
) -> None:
    """Serve agents by the Model Context Protocol: plan, run under a budget, compare, read figures."""
    from tunewright.agents.desk import Desk, Limits
    from tunewright.agents.server import serve

    serve(Desk(work, data, evaluation or [], Limits(seconds, steps)))
