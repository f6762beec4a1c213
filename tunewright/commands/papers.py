"""Verbs for the papers behind the methods: list, show, run, verdicts and check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tunewright import errors
from tunewright.commands.options import JsonOption, below, examples, show


class ListsByDefault(TyperGroup):
    """A group of verbs that lists when no verb of its own is named: `papers WORDS` is `papers list WORDS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@examples(
    "tunewright papers forget less",
    "tunewright papers list --family continual --state holds",
)
def papers_list(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORDS]...", help="what to look for, best first")
    ] = None,
    family: Annotated[str | None, typer.Option(help="merge, peft, continual ...")] = None,
    state: Annotated[str | None, typer.Option(help="open, lives, holds, fails, unclear or not tested")] = None,
    modality: Annotated[str | None, typer.Option(help="text, vision, any ...")] = None,
    kind: Annotated[str | None, typer.Option(help="method, analysis, benchmark ...")] = None,
    as_json: JsonOption = False,
) -> None:
    """List papers, those that fit the words best first: `tunewright papers forget less --family continual`."""
    from tunewright.papers import listing

    listing.print_list(
        " ".join(words or []), {"family": family, "state": state, "modality": modality, "kind": kind}, as_json
    )


@examples(
    "tunewright papers show hft",
)
def papers_show(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="a paper's short name")], as_json: JsonOption = False
) -> None:
    """Show one paper: what it does, what it says, where it lives, what was shown, and papers like it."""
    from tunewright.papers import listing

    listing.print_card(slug, as_json)


@examples(
    "tunewright papers run hft",
    "tunewright papers run --family peft --workers 2",
    "tunewright papers run my-claims/ --seeds 100-107 --out my-results",
)
def papers_run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG|DIR]...", help="claims to run, or a folder of them")
    ] = None,
    family: Annotated[str | None, typer.Option(help="all claims of papers of this family")] = None,
    every: Annotated[bool, typer.Option("--all", help="all claims")] = False,
    scale: Annotated[str, typer.Option(help="nano (minutes) or real (hours)")] = "nano",
    workers: Annotated[
        int | None, typer.Option(min=1, help="runs side by side (default: as cores and memory allow)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--results",
            metavar="DIR",
            help="where results are written (default: the package's own, where it may be written)",
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="other seeds than the claims' own, written to --out")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run papers' claims and judge them by one rule; finished runs are found again, so it may be stopped anywhere."""
    from tunewright.claims import asked, listing

    if scale not in ("nano", "real"):
        raise errors.ClaimError(f"no scale is named '{scale}'", remedy="write --scale nano or --scale real")
    found, folder = asked.claims_of(names or [], family, every)
    others = asked.seeds_of(seeds, out)
    verdicts = listing.run_all(found, scale, results=out, workers=workers, folder=folder, seeds=others)  # type: ignore[arg-type]
    show(verdicts, as_json, lambda: listing.table(verdicts))


@examples(
    "tunewright papers verdicts",
    "tunewright papers verdicts hft --json",
)
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

    rows = listing.rows(listing.chosen(names or [], family, every=True), results=results)
    show(rows, as_json, lambda: listing.table(rows))


@examples(
    "tunewright papers check hft",
    "tunewright papers check --family peft",
)
def papers_check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SLUG]...", help="claims to check (default: all)")
    ] = None,
    family: Annotated[str | None, typer.Option(help="claims of papers of this family")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="where results are (default: as shipped)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Whether stored verdicts still speak of today's code: compute their digests again, in seconds each.

    Ends with code 1 if any is stale.
    """
    from tunewright.claims import check_listing, listing

    rows = check_listing.check_all(listing.chosen(names or [], family, every=True), results=results)
    show(rows, as_json, lambda: check_listing.table(rows))
    if any(row["stale"] for row in rows):
        raise typer.Exit(1)


papers = typer.Typer(
    cls=ListsByDefault, no_args_is_help=False, help="The papers behind the methods: list, search, show."
)
_VERBS: dict[str, Callable[..., None]] = {
    "list": papers_list,
    "show": papers_show,
    "run": papers_run,
    "verdicts": papers_verdicts,
    "check": papers_check,
}
for _name, _verb in _VERBS.items():
    papers.command(_name, epilog=below(_verb))(_verb)
