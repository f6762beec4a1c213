"""The command line. Each verb is a few lines over a library function, which is imported when the verb runs.

A verb whose module is not there is not listed. Errors that Tunewright raises on purpose become one message and an exit
code; anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tunewright import __version__, errors

CODES = (
    (0, "done"),
    (1, "another error"),
    (errors.RecipeError.code, "the recipe, a flag or a parameter is not valid"),
    (errors.DataError.code, "a data file or row cannot be used"),
    (errors.ModelError.code, "a model, tokenizer or adapter cannot be loaded"),
    (errors.MethodError.code, "methods conflict, or cannot do what is asked"),
    (errors.CheckpointError.code, "a checkpoint is unreadable or altered"),
    (errors.FolderError.code, "a folder is locked, read-only or full"),
    (errors.NonFiniteError.code, "training met a value that is not finite"),
    (errors.MissingExtraError.code, "an extra or the network is missing"),
    (errors.INTERRUPTED, "interrupted: `tunewright resume DIR` goes on"),
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
    """An interruption under a name that typer does not turn into a code of its own."""


class _Group(TyperGroup):
    """Runs a verb and turns what it raises into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> Any:
        sys.exit(self._code(args, prog_name or "tunewright", extra))

    def _code(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        extra["standalone_mode"] = False
        try:
            result = super().main(args=args, prog_name=prog_name, **extra)
        except errors.TunewrightError as error:
            return fail(str(error), error.code)
        except _USAGE_ERROR as error:
            return fail(_usage(error, prog_name), errors.RecipeError.code)
        except (_Interrupted, KeyboardInterrupt, typer.Abort):
            return fail(
                "interrupted\n  -> `tunewright resume DIR` goes on from the last checkpoint", errors.INTERRUPTED
            )
        except BrokenPipeError:
            sys.stderr.close()
            return 0
        return result if isinstance(result, int) else 0


class _ListsByDefault(TyperGroup):
    """A group of verbs that lists when no verb of its own is named: `papers WORDS` is `papers list WORDS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="a recipe file, or the name of one that ships with the package (quickstart)"),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="a run's folder")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override one value: train.seed=1, stages.0.budget.steps=24"),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="print errors and the result only")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]


def verb(module: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb when the module that does its work is there (looked up as a file: nothing is imported)."""
    path = Path(__file__).parents[1] / module.replace(".", "/")

    def register(function: Callable[..., None]) -> Callable[..., None]:
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            app.command(rich_help_panel=None)(function)
        return function

    return register


def show(value: Any, as_json: bool, text: Callable[[], str] | None = None) -> None:
    """Print a result: as JSON, or as text."""
    print(json.dumps(value, indent=2, ensure_ascii=False) if as_json or text is None else text())


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


@verb("runs.run")
def run(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the run's folder (default: runs/NAME, runs/NAME-2, ...)")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the base, train, measure again, and report."""
    from tunewright.runs.run import run_recipe

    run_recipe(recipe, set_ or [], out, quiet=quiet, json=as_json)


@verb("runs.run")
def resume(
    folder: RunArgument,
    verify: Annotated[bool, typer.Option("--verify", help="recompute the last steps and compare, bit for bit")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped, from its last whole checkpoint."""
    from tunewright.runs.run import resume as go_on

    go_on(folder, verify=verify, quiet=quiet, json=as_json)


@verb("planning.plan")
def plan(recipe: RecipeArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Before anything is trained: will it fit, how long, what exactly is trained."""
    from tunewright.planning.plan import plan as make_plan

    make_plan(recipe, set_ or [], json=as_json)


@verb("planning.check")
def check(
    recipe: RecipeArgument,
    set_: SetOption = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write the good rows and a quarantine file there")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a recipe and its data, row by row."""
    from tunewright.planning.check import check_recipe

    if not check_recipe(recipe, set_ or [], clean=clean, json=as_json):
        raise typer.Exit(errors.DataError.code)


@verb("compare")
def compare(
    recipe: RecipeArgument,
    methods: Annotated[
        str,
        typer.Option(
            "--methods", metavar="A,B,...", help="names, NAME:param=value, A+B together, or files with `methods:`"
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="runs of each method")] = 8,
    budget: Annotated[
        str | None,
        typer.Option(metavar="KIND=AMOUNT", help="of each run: tokens=200k, or steps, epochs, seconds, flops"),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="choose each method's learning rate on validation rows first")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="run on a Ray cluster: host:port, ray://host:port or local")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="the comparison's folder (default: runs/compare-NAME); what is done there is kept"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="runs side by side (default: as cores and memory allow)")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods under one budget over seeds: which gains most, loses least, costs least.

    Stopped anywhere, the same command goes on.
    """
    from tunewright.compare.comparison import compare_recipe

    compare_recipe(
        recipe,
        methods,
        sets=set_ or [],
        seeds=seeds,
        budget=budget,
        tune=tune,
        cluster=cluster,
        out=out,
        workers=workers,
        quiet=quiet,
        json=as_json,
    )


@verb("finished.chat")
def chat(folder: RunArgument) -> None:
    """Talk to the base and the tuned model side by side."""
    from tunewright.finished.chat import chat as talk

    talk(folder)


@verb("finished.export")
def export(
    folder: RunArgument,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="where to write it (default: DIR/model)")] = None,
) -> None:
    """Write the tuned model as a plain transformers folder, its logits checked against the run's."""
    from tunewright.finished.export import export as write

    write(folder, out)


@verb("catalogue")
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one method, in full")] = None,
    table: Annotated[
        bool, typer.Option("--table", help="lines of code, slots and needs of each file, and the median")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what a recipe may name, or describe one of them."""
    from tunewright.catalogue import listing

    if table:
        from tunewright.catalogue import code_table

        rows = code_table.measured()
        show(rows, as_json, lambda: code_table.page(rows))
    elif name is not None:
        described = listing.one(name)
        show(described, as_json, lambda: listing.page(described))
    else:
        show(listing.all_described() if as_json else None, as_json, listing.table)


papers = typer.Typer(
    cls=_ListsByDefault, no_args_is_help=False, help="The papers behind the methods: list, search, show."
)
app.add_typer(papers, name="papers")


@papers.command("list")
def papers_list(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORDS]...", help="what to look for, best first")
    ] = None,
    family: Annotated[str | None, typer.Option(help="merge, peft, continual ...")] = None,
    state: Annotated[str | None, typer.Option(help="open, lives, holds, fails or unclear")] = None,
    modality: Annotated[str | None, typer.Option(help="text, vision, any ...")] = None,
    kind: Annotated[str | None, typer.Option(help="method, analysis, benchmark ...")] = None,
    as_json: JsonOption = False,
) -> None:
    """List papers, those that fit the words best first: `tunewright papers forget less --family continual`."""
    from tunewright.papers import listing

    listing.print_list(
        " ".join(words or []), {"family": family, "state": state, "modality": modality, "kind": kind}, as_json
    )


@papers.command("show")
def papers_show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="a paper's short name")], as_json: JsonOption = False
) -> None:
    """Show one paper: what it does, what it says, where it lives, what was shown, and papers like it."""
    from tunewright.papers import listing

    listing.print_card(slug, as_json)


@papers.command("run")
def papers_run(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SLUG]...", help="claims to run")] = None,
    family: Annotated[str | None, typer.Option(help="all claims of papers of this family")] = None,
    every: Annotated[bool, typer.Option("--all", help="all claims")] = False,
    scale: Annotated[str, typer.Option(help="nano (minutes) or real (hours)")] = "nano",
    workers: Annotated[
        int | None, typer.Option(min=1, help="runs side by side (default: as cores and memory allow)")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="where results are written (default: the package's own, where it may be written)"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run papers' claims and judge them by one rule; finished runs are found again, so it may be stopped anywhere."""
    from tunewright.claims import listing

    if scale not in ("nano", "real"):
        raise errors.ClaimError(f"no scale is named '{scale}'", remedy="write --scale nano or --scale real")
    found = listing.run_all(listing.chosen(names or [], family, every), scale, results=results, workers=workers)  # type: ignore[arg-type]
    show(found, as_json, lambda: listing.table(found))


@papers.command("verdicts")
def papers_verdicts(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG]...", help="claims to show (default: all)")
    ] = None,
    family: Annotated[str | None, typer.Option(help="claims of papers of this family")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="where results are (default: as shipped)")] = None,
    as_json: JsonOption = False,
) -> None:
    """What running the papers' claims gave, and what has changed since."""
    from tunewright.claims import listing

    found = listing.rows(listing.chosen(names or [], family, every=True), results=results)
    show(found, as_json, lambda: listing.table(found))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def merge(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="folders, hub ids, adapters, runs; or one file in mergekit's form"),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where the result is written")],
    method: Annotated[
        str | None, typer.Option(help="linear, ties, slerp ...; its parameters are flags: --density 0.2")
    ] = None,
    base: Annotated[str | None, typer.Option(help="the models' common base")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 (default: as stored)")] = None,
    kind: Annotated[
        str, typer.Option("--as", help="model; delta: what differs from the base; adapter: of adapters")
    ] = "model",
    shard_size: Annotated[str, typer.Option(help="largest file of the result")] = "5GB",
    seed: Annotated[int, typer.Option(help="of methods that draw")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="default: every core")] = None,
    data: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="rows, for methods that learn")] = None,
    task: Annotated[str, typer.Option(help="those rows' task")] = "text-generation",
    then: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STEP", help="an edit of the merged change: lines, or '{lines: {alpha: merge, beta: 0.5}}'"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge models into one: `tunewright merge a b --method ties --density 0.2 --base B --out DIR`."""
    from dataclasses import asdict

    from tunewright.weights import command

    flags = next((i for i, m in enumerate(models) if m.startswith("--")), len(models))
    given = [*models[flags:], *context.args]
    more = {
        "shard_size": shard_size,
        "seed": seed,
        "threads": threads,
        "data": data or (),
        "task": task,
        "then": then or (),
    }
    done = command.run(models[:flags], given, out, method=method, base=base, dtype=dtype, kind=kind, **more)
    show({**asdict(done), "folder": str(done.folder)}, as_json, lambda: command.page(done))


@verb("planning.init")
def init(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="built-in name, hub id or local folder")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="a file of rows")],
    task: Annotated[str | None, typer.Option(help="the hub's name of the task (default: by the rows' shape)")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="where to write the recipe")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for a model, a data file and a task."""
    from tunewright.planning.init import write_recipe

    write_recipe(model, data, task, out)
    print(f"{out} is written. Next: tunewright check {out}; tunewright plan {out}; tunewright run {out}")


@verb("recipe")
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from tunewright.recipe import Recipe

    show(Recipe.json_schema(), True)


@verb("commands.doctor")
def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has, and what is missing for what."""
    from tunewright.commands.doctor import examine, page

    found = examine()
    show([f.as_dict() for f in found], as_json, lambda: page(found))


def main() -> None:
    """The console script. SIGTERM is an interruption, as Ctrl-C is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
