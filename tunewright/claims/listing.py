"""`tunewright papers run`, `verdicts` and `check`: claims run with progress, the table of what was found, and whether
it still speaks of what is here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.claims import checking, results_io
from tunewright.claims import claim as claims
from tunewright.claims.claim import Loaded, Scale
from tunewright.claims.results_io import ScaleResult
from tunewright.claims.rule import holm_verdicts
from tunewright.errors import ClaimError, Interrupted, TunewrightError
from tunewright.machine.pace import Pace, in_words
from tunewright.runs.progress import Shown

SCALES: tuple[Scale, ...] = ("nano", "real")
HEADINGS = ("claim", "scale", "verdict", "Holm", "effect", "d", "seeds", "stale", "runs' time")


def chosen(names: Sequence[str], family: str | None = None, every: bool = False) -> list[str]:
    """The claims that a command line names. ClaimError when it names none."""
    if names:
        return [claims.load(n).name for n in names]
    if not every and family is None:
        raise ClaimError(
            "no claim is named",
            remedy="name some, or write --family F or --all; there are: " + (", ".join(claims.names()) or "none"),
        )
    of_family = [n for n in [*claims.names(), *_added()] if family is None or _family(n) == family]
    if not of_family:
        raise ClaimError(
            f"no claim is of the family '{family}'", remedy="`tunewright papers verdicts` lists what there is"
        )
    return of_family


def _added() -> list[str]:
    """The claims of other packages; those that cannot be had are named, and the others go on."""
    usable = []
    for name in claims.added_names():
        try:
            usable.append(claims.load(name).name)
        except TunewrightError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return usable


def _family(name: str) -> str | None:
    from tunewright.papers import cards

    card = cards.load().get(claims.load(name).claim.paper)
    return None if card is None else card.family


def run_all(
    names: Sequence[str],
    scale: Scale,
    *,
    results: Path | None = None,
    workers: int | None = None,
    folder: Path | None = None,
    seeds: range | None = None,
) -> list[dict[str, Any]]:
    """Run claims one after the other; one that cannot be run is named and the others go on.

    `folder`: of the claims, else the package's own; `seeds`: other ones than the claims'. ClaimError at the end if any
    could not be run.
    """
    from tunewright.claims.engine import Local
    from tunewright.claims.runner import run_claim

    failed: list[tuple[str, TunewrightError]] = []
    with Local(workers=workers) as engine:
        for i, name in enumerate(names):
            with showing(f"{name} ({scale}), claim {i + 1} of {len(names)}") as say:
                try:
                    run_claim(name, scale, engine=engine, results=results, say=say, claims=folder, seeds=seeds)
                except (KeyboardInterrupt, Interrupted):
                    remedy = "write the same command again: it goes on where it was, finished runs are kept"
                    raise Interrupted("interrupted", where=f"{name}, scale {scale}", remedy=remedy) from None
                except TunewrightError as error:
                    failed.append((name, error))
    for name, why in failed:
        print(f"{name}: {why}", file=sys.stderr)
    if len(failed) == len(names):
        raise ClaimError(
            f"{len(failed)} of {len(names)} claims could not be run", remedy="each is named above with its reason"
        )
    for place in {results_io.folder(results, name): None for name in names}:
        print(f"results are in {place}", file=sys.stderr)
    return rows([n for n in names if n not in dict(failed)], results=results, scales=(scale,), folder=folder)


@contextmanager
def showing(title: str) -> Iterator[Any]:
    """Progress: a bar on a terminal, else a line now and then. Runs done, of how many, seconds left."""
    pace = Pace()
    last = [0.0]

    def line(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        pace.step(done, total)
        if now - last[0] >= 10 or done == total:
            last[0] = now
            left = f"{in_words(pace.left)}; " if done < total else ""
            print(
                f"{title}: {done} of {total} runs, {left}{what}",
                file=sys.stderr,
                flush=True,
            )

    if not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[what]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, what="", pace=Shown(pace))

        def drawn(done: int, total: int, what: str) -> None:
            pace.step(done, total)
            bar.update(task, completed=done, total=total, what=what)

        yield drawn


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def stored(
    names: Sequence[str],
    *,
    results: Path | None = None,
    scales: Sequence[Scale] = SCALES,
    folder: Path | None = None,
) -> Iterator[tuple[Loaded, Scale, ScaleResult]]:
    """Every result that these claims (of the package, or of a folder) have at these scales."""
    for name in names:
        loaded = claims.load(name) if folder is None else claims.load(name, folder)
        by_scale = results_io.read(loaded.name, results)
        yield from ((loaded, scale, by_scale[scale]) for scale in scales if scale in by_scale)


def rows(
    names: Sequence[str],
    *,
    results: Path | None = None,
    scales: Sequence[Scale] = SCALES,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """One row per claim and scale that has a result, with the verdict after Holm's correction over the rows of its
    scale.
    """
    entries = list(stored(names, results=results, scales=scales, folder=folder))
    corrected: dict[tuple[str, str], str] = {}
    for scale in scales:
        of_scale = {
            loaded.name: r.judged
            for loaded, s, r in entries
            if s == scale and r.judged is not None and r.untested is None
        }
        corrected |= {(name, scale): word for name, word in holm_verdicts(of_scale).items()}
    return [_row(loaded, scale, r, corrected.get((loaded.name, scale))) for loaded, scale, r in entries]


def _row(loaded: Loaded, scale: Scale, result: ScaleResult, corrected: str | None) -> dict[str, Any]:
    judged = result.judged
    return {
        "claim": loaded.name,
        "paper": result.paper,
        "scale": scale,
        "verdict": result.verdict,
        "status": result.status,
        "holm": corrected,
        "interval": result.interval,
        "rows": next((p.crossed.rows for p in result.pairs if p.crossed is not None), None),
        "smallest": result.smallest,
        "metric": result.metric,
        "relative": loaded.claim.relative,
        "seeds": None if judged is None else judged.seeds,
        "usable": None if judged is None else judged.usable,
        "reason": result.untested or (None if judged is None else judged.reason),
        "failed_runs": result.failed_runs,
        "attempts": result.attempts,
        "stale": checking.stale(loaded, scale, result, base_today(loaded, scale)),
        "checked": None if result.digest is None else checking.known(loaded, scale, result) is not None,
        "seconds": result.seconds,
    }


def base_today(loaded: Loaded, scale: Scale) -> str | None:
    """The hash of the lab base that the claim would run on now; None where it is not on this machine."""
    from tunewright.claims.lab.tasks import task
    from tunewright.files.hashing import hash_weights
    from tunewright.loading import builtin
    from tunewright.loading.locate import locate

    try:
        recipe = task(loaded.claim.task).scales[scale] if loaded.recipe is None else loaded.recipe(scale)
        model = str(recipe["model"])
        if model in builtin.TABLE and not builtin.is_ready(builtin.TABLE[model]):
            return None
        return hash_weights(locate(model, progress=False).folder)
    except (TunewrightError, OSError, KeyError):
        return None


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows as text for a terminal."""
    if not found:
        return "no claim has a result yet: `tunewright papers run NAME` makes one"
    grid = [HEADINGS, *(cells(r) for r in found)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(HEADINGS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    lines.insert(1, "─" * (sum(widths) + 2 * (len(widths) - 1)))
    reasons = [f"{r['claim']} ({r['scale']}): {r['reason']}" for r in found if r["reason"]]
    note = (
        "effect: mean over seeds and 95 % interval, positive where the method is better; d: smallest effect of "
        "interest, set before any run; all seeds are judged on the same rows: what other rows would give is in no "
        "interval but those over seeds x rows"
    )
    unread = sum(r["checked"] is False for r in found)
    if unread:
        reasons.append(
            f"{unread} of them were not checked against today's code on this machine: `tunewright papers check` "
            "computes in seconds each whether they still hold of it"
        )
    return "\n".join([*lines, "", note, *reasons])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row as the texts under `HEADINGS`."""
    interval, seeds = row["interval"], row["seeds"]
    effect = ""
    if interval:
        ends = (
            ""
            if interval.get("low") is None
            else f" [{_number(interval['low'], row)}, {_number(interval['high'], row)}]"
        )
        effect = f"{_number(interval['value'], row)}{ends}"
    usable = "" if seeds is None else f"{seeds}" if row["usable"] == seeds else f"{row['usable']} of {seeds}"
    usable += f" x {row['rows']} rows" if row["rows"] else ""
    word = row["verdict"] or f"({row['status']})"
    again = "" if row["attempts"] == 1 else f" (attempt {row['attempts']})"
    return (
        row["claim"],
        row["scale"],
        word + again,
        row["holm"] or "",
        effect,
        _number(row["smallest"], row),
        usable,
        ", ".join(row["stale"]),
        _time(row["seconds"]),
    )


def _number(value: float, row: dict[str, Any]) -> str:
    return f"{100 * value:+.1f} %" if row["relative"] else f"{value:+.3g}"
