"""`tunewright mcp`: a Model Context Protocol server for agents, over standard input and output, by the official SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunewright import __version__
from tunewright.agents.desk import Desk
from tunewright.errors import MissingExtraError, TunewrightError

INSTRUCTIONS = """Tunewright adapts a pre-trained model by a recipe (YAML: model, task, data.train, methods, budget) and
measures what it gained, lost and cost. Begin with `budget` and `methods`; `check` and `plan` cost nothing; `run` trains
and measures. Evaluation rows are the owner's: data.eval is set by the server, no tool shows these rows or answers to
them, and every run on them is counted. Choose by held-out training rows (data.validation) where you can, and compare
few runs."""


def server(desk: Desk) -> Any:
    """The server with its tools. MissingExtraError without the SDK."""
    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise MissingExtraError(
            "the Model Context Protocol's SDK is not installed", where="mcp", remedy='pip install "tunewright[mcp]"'
        ) from error
    made = MCPServer("tunewright", instructions=INSTRUCTIONS, version=__version__)

    async def done(work: Callable[[], Any]) -> dict[str, Any]:
        """Do some work beside the protocol's own, which goes on meanwhile; errors become a message."""
        import anyio.to_thread
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            return {"result": await anyio.to_thread.run_sync(work)}
        except TunewrightError as error:
            raise ToolError(str(desk.guard.told(str(error)))) from None

    @made.tool()
    async def budget() -> dict[str, Any]:
        """Seconds that are left for runs and comparisons, the most steps of a run, attempts counted so far, and the
        files of data, by the names that a recipe's paths have here.
        """
        return await done(desk.budget)

    @made.tool()
    async def methods(name: str | None = None) -> dict[str, Any]:
        """The methods that a recipe may name, or one of them in full with its parameters."""
        return await done(lambda: desk.methods(name))

    @made.tool()
    async def check(recipe: str) -> dict[str, Any]:
        """Check a recipe (YAML text) and its training rows; nothing is trained."""
        return await done(lambda: desk.check(recipe))

    @made.tool()
    async def plan(recipe: str) -> dict[str, Any]:
        """Foresee a recipe's run (YAML text): what trains, how long, how much memory; nothing is trained."""
        return await done(lambda: desk.plan(recipe))

    @made.tool()
    async def run(recipe: str, name: str | None = None, seconds: float | None = None) -> dict[str, Any]:
        """Run a recipe (YAML text) and read its figures. Counts as an attempt on the evaluation rows and takes time of
        the budget; stopped after `seconds` (none: all that is left), and can then be resumed.
        """
        return await done(lambda: desk.run(recipe, name, seconds))

    @made.tool()
    async def resume(name: str, seconds: float | None = None) -> dict[str, Any]:
        """Go on with a run that its seconds stopped; the same attempt."""
        return await done(lambda: desk.resume(name, seconds))

    @made.tool()
    async def compare(first: str, second: str) -> dict[str, Any]:
        """Two finished runs on the same evaluation rows: each difference (second minus first), paired."""
        return await done(lambda: desk.compare(first, second))

    @made.tool()
    async def report(name: str) -> dict[str, Any]:
        """A finished run's figures: target, kept, drift, cost, each with its interval, and which attempt it was."""
        return await done(lambda: desk.report(name))

    @made.tool()
    async def runs() -> dict[str, Any]:
        """All runs of the work folder: state and figures."""
        return await done(desk.listed)

    return made


def serve(desk: Desk) -> None:
    """Serve over standard input and output until these close."""
    server(desk).run("stdio")
