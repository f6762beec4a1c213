"""The command line: the app, its exit codes, and the order of its verbs, which live in a file for each group.

Each verb is a few lines over a library function, which is imported when the verb runs. Errors that Tunewright raises
on purpose become one message and an exit code; anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tunewright import __version__, errors
from tunewright.commands import (
    after,
    agents,
    asking,
    before,
    boarding,
    comparing,
    fitting,
    measuring,
    merging,
    running,
    selecting,
    serving,
    shipping,
    tuning,
)
from tunewright.commands.folders import runs
from tunewright.commands.options import below
from tunewright.commands.papers import papers
from tunewright.machine import going, terminal
from tunewright.runs import several

CODES = (
    (0, "done"),
    (1, "another error"),
    (errors.RecipeError.code, "the recipe, a flag or a parameter is not valid"),
    (errors.DataError.code, "a data file or row cannot be used"),
    (errors.ModelError.code, "a model, tokenizer or adapter cannot be loaded"),
    (errors.MethodError.code, "methods conflict, or cannot do what is asked"),
    (errors.CheckpointError.code, "a checkpoint is unreadable or altered"),
    (errors.FolderError.code, "a folder is locked, read-only or full, or what would be written is there already"),
    (errors.NonFiniteError.code, "training met a value that is not finite"),
    (errors.MissingExtraError.code, "an extra or the network is missing"),
    (measuring.CODES["fails"], "a gate fails"),
    (measuring.CODES["cannot tell"], "a gate cannot tell: intervals hold its bounds"),
    (errors.PartedError.code, "another process of the same run ended"),
    (errors.INTERRUPTED, "interrupted; with a run's checkpoint, `tunewright resume DIR` goes on"),
)
"""Exit codes and what they mean."""

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in CODES) + "."


# typer carries its own click in some versions: what a wrong command line raises is found through typer's own names.
_USAGE_ERROR: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def fail(message: str, code: int) -> int:
    """Print one message on stderr; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return code


def _usage(error: Any, prog_name: str) -> str:
    context = getattr(error, "ctx", None)
    asked = context.command_path if context is not None else prog_name
    return f"{error.format_message()}\n  -> `{asked} --help` says what it takes"


class _Interrupted(Exception):
    """An interruption of a verb, under a name that typer does not turn into a code of its own."""


GOES_ON = {
    "tune": "the same command goes on: runs that were finished are kept",
    "compare": "the same command goes on: runs that were finished are kept",
    "merge": "the same command goes on where it stopped",
}
"""What to do after an interruption, by verb; a run says it itself, and others leave nothing to go on with."""


TOGETHER = ("run", "resume")
"""Verbs that several processes do together."""


def _say(text: str) -> None:
    """How far a long work is, beside what a verb prints; a run that is quiet says nothing."""
    print(text, file=sys.stderr, flush=True)


class _Group(TyperGroup):
    """Runs a verb and turns what it raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            os.getcwd()
        except OSError:
            raise errors.FolderError(
                "the working directory is not there any more", remedy="change to one that is, then try again"
            ) from None
        asked = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        if asked and asked[0] not in TOGETHER:
            several.refuse(f"tunewright {asked[0]}")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted(ctx.invoked_subcommand) from None

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> Any:
        sys.exit(self._code(args, prog_name or "tunewright", extra))

    def _code(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        extra["standalone_mode"] = False
        args = list(sys.argv[1:] if args is None else args) or ["--help"]  # who asks for nothing asks what there is
        try:
            with going.telling(_say):
                result = super().main(args=args, prog_name=prog_name, **extra)
            sys.stdout.flush()  # what cannot be printed is found here, not when the interpreter ends
        except errors.TunewrightError as error:
            return fail(str(error), error.code)
        except _USAGE_ERROR as error:
            return fail(_usage(error, prog_name), errors.RecipeError.code)
        except (_Interrupted, KeyboardInterrupt, typer.Abort) as error:
            goes_on = GOES_ON.get(str(error), "nothing was left half-done; the same command begins anew")
            return fail(f"interrupted\n  -> {goes_on}", errors.INTERRUPTED)
        except BrokenPipeError:
            sys.stderr.close()
            return 0
        except OSError as error:
            if error.errno is None:  # a library's own: a defect of ours
                raise
            from tunewright.files.checkpoint import system_error

            told = system_error(error)
            terminal.leave(1)
            return fail(str(told), told.code)
        return result if isinstance(result, int) else 0


app = typer.Typer(
    cls=_Group,
    epilog=EPILOG,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"tunewright {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Adapt a pre-trained model with any published method, and show what it gained, lost and cost."""


VERBS = (
    running.run,
    running.resume,
    before.plan,
    before.check,
    before.suggest,
    selecting.select,
    tuning.tune,
    comparing.compare,
    fitting.fit_laws,
    measuring.measure,
    measuring.gate,
    after.chat,
    serving.serve,
    after.export,
    boarding.board,
    shipping.fuse,
    shipping.extract_lora,
    shipping.push,
    asking.methods,
    merging.merge,
    before.init,
    agents.mcp,
    asking.schema,
    asking.doctor,
)
"""In the order of `tunewright --help`."""

for _verb in VERBS:
    # a merge's parameters are flags that its method names
    _free = {"allow_extra_args": True, "ignore_unknown_options": True} if _verb is merging.merge else None
    app.command(context_settings=_free, epilog=below(_verb))(_verb)
app.add_typer(runs, name="runs")
app.add_typer(papers, name="papers")


def _ask_to_end(number: int, frame: Any) -> None:
    if terminal.is_hang_up(number):
        terminal.leave()
    raise terminal.AskedToEnd


def main() -> None:
    """The console script. SIGTERM is an interruption, as Ctrl-C and a lost terminal are."""
    for number in terminal.ending_signals():
        signal.signal(number, _ask_to_end)
    app()


if __name__ == "__main__":
    main()
