"""`tunewright papers check`: every result's digest computed again, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims import checking
from tunewright.claims.claim import Loaded, Scale
from tunewright.claims.listing import SCALES, base_today, showing, stored
from tunewright.claims.results_io import ScaleResult
from tunewright.claims.runner import lab_recipe
from tunewright.errors import ClaimError, TunewrightError

if TYPE_CHECKING:
    from tunewright.claims.behaviour import Digests


def check_all(
    names: Sequence[str], *, results: Path | None = None, scales: Sequence[Scale] = SCALES
) -> list[dict[str, Any]]:
    """One row per result of these claims: whether it is stale, and why; whether its digest was computed again.

    ClaimError when there is no result.
    """
    from tunewright.claims.behaviour import Digests

    entries = list(stored(names, results=results, scales=scales))
    if not entries:
        raise ClaimError("none of these claims has a result", remedy="`tunewright papers run NAME` makes one")
    rows = []
    with Digests() as digests, showing("checking") as say:
        for i, (loaded, scale, result) in enumerate(entries, 1):
            rows.append(_checked(loaded, scale, result, digests))
            say(i, len(entries), f"{loaded.name} ({scale}): {rows[-1]['outcome']}")
    return rows


def _checked(loaded: Loaded, scale: Scale, result: ScaleResult, digests: Digests) -> dict[str, Any]:
    begun = time.monotonic()
    base = base_today(loaded, scale)
    premises = checking.declared(loaded, scale, result, base)
    differs: list[str] = []
    if premises:
        outcome = f"stale: another {' and another '.join(premises)}"
    elif result.digest is None:
        outcome = f"its methods' files do what they did (no digest: {result.no_digest})"
    elif base is None:
        outcome = "not checked: the base is not on this machine"
    else:
        try:
            differs, exact = checking.check(loaded, scale, result, digests, lab_recipe(loaded, scale))
            how = "in every bit" if exact else "to rounding"
            outcome = f"stale: {differs[0]}" if differs else f"comes out again {how}"
        except TunewrightError as error:
            outcome = f"not checked: {error.what}"
    return {
        "claim": loaded.name,
        "scale": scale,
        "stale": [*premises, *(["behaviour"] if differs else [])],
        "outcome": outcome,
        "differs": differs,
        "seconds": round(time.monotonic() - begun, 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text for a terminal, what is stale last."""
    ordered = sorted(rows, key=lambda r: bool(r["stale"]))
    widths = [max(len(r[k]) for r in rows) for k in ("claim", "scale")]
    lines = [
        f"{r['claim']:{widths[0]}}  {r['scale']:{widths[1]}}  {r['seconds']:5.1f} s  {r['outcome']}" for r in ordered
    ]
    stale = sum(bool(r["stale"]) for r in rows)
    unread = sum(r["outcome"].startswith("not checked") for r in rows)
    return "\n".join([*lines, "", f"{len(rows)} results: {stale} stale, {unread} not checked"])
