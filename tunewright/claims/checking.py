"""Whether a stored result still speaks of what is here: read off at once, or computed again from its digest.

A result is stale when its claim declares something else, when the base's weights are others, or when its behaviour
digest no longer comes out; one that has no digest, when what its methods' files do has changed. A file that was moved,
laid out anew or worded otherwise makes nothing stale. What `check` found is kept in the cache, for as long as neither
the digest nor any code that it goes through changes, so that reading verdicts says so at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.claims import code_hash
from tunewright.claims.claim import Loaded, Scale
from tunewright.claims.results_io import Behaviour, ScaleResult
from tunewright.files.cache import cache_folder, write_json

if TYPE_CHECKING:
    from tunewright.claims.behaviour import Digests

WORK = ("numbers written", "bytes kept for backward")
NEAR_STEPS = 3
"""Steps over which processors that add in another order agree closely; later ones amplify rounding."""
EARLY, LATE = (1e-3, 1e-4), (0.1, 0.05)
"""(relative, absolute) tolerance on another kind of machine: of the first steps' losses, and of all else."""
ROWS_APART = 0.5
"""The same of a share of a few rows: one that is answered otherwise moves it far."""
WORK_APART = 0.01
"""Relative, on any machine, of what time and memory are made of: less than any claim about them asks for."""


def declared(loaded: Loaded, scale: Scale, result: ScaleResult, base_hash: str | None = None) -> list[str]:
    """What of a result's premises has changed, read off without computing: "claim", "base" (where today's is known),
    and, of a result without a digest, "method"."""
    if scale not in loaded.claim.scales:
        return ["claim"]
    pairs = [("claim", result.claim_hash, code_hash.of_claim(loaded, scale))]
    if result.digest is None:
        pairs.append(("method", result.method_hash, code_hash.of_methods(loaded.claim)))
    if base_hash is not None and result.base_hash is not None:
        pairs.append(("base", result.base_hash, base_hash))
    return [what for what, then, now in pairs if then != now]


def stale(loaded: Loaded, scale: Scale, result: ScaleResult, base_hash: str | None = None) -> list[str]:
    """The same, and "behaviour" where a check of today's code on this machine found that the digest differs."""
    differs = known(loaded, scale, result)
    return [*declared(loaded, scale, result, base_hash), *(["behaviour"] if differs else [])]


def check(
    loaded: Loaded, scale: Scale, result: ScaleResult, digests: Digests, task: Mapping[str, Any]
) -> tuple[list[str], bool]:
    """Compute a result's digest again: (where it differs, whether every bit is equal). Kept for `known`.

    ValueError for a result without a digest.
    """
    if result.digest is None:
        raise ValueError("the result has no digest")
    now = digests.of(loaded, scale, {a.name: a.rate for a in result.arms}, task)
    differs = list(differences(result.digest, now))
    write_json(_kept(loaded, scale), {"of": _of(loaded, result.digest), "differs": differs})
    return differs, not differs and _numbers(result.digest) == _numbers(now)


def known(loaded: Loaded, scale: Scale, result: ScaleResult) -> list[str] | None:
    """Where the digest differs, as an earlier check of the very same code found; None where there was none."""
    if result.digest is None or not _kept(loaded, scale).is_file():
        return None
    try:
        kept = json.loads(_kept(loaded, scale).read_text(encoding="utf-8"))
        return list(kept["differs"]) if kept["of"] == _of(loaded, result.digest) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kept(loaded: Loaded, scale: Scale) -> Path:
    return cache_folder() / "claims" / loaded.name / scale / "check.json"


def _of(loaded: Loaded, digest: Behaviour) -> str:
    what = f"{code_hash.of_code(loaded)} {digest.model_dump_json()}"
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def _numbers(digest: Behaviour) -> dict[str, Any]:
    return digest.model_dump(exclude={"machine": True, "refused": True, "runs": {"__all__": {"refused", "unit"}}})


def differences(then: Behaviour, now: Behaviour) -> Iterator[str]:
    """Where two digests differ, in words: in any bit on one kind of machine, else beyond what rounding explains."""
    exact = then.machine == now.machine
    if list(then.runs) != list(now.runs):
        yield f"other runs: {', '.join(now.runs)}, then {', '.join(then.runs)}"
        return
    for name, run in then.runs.items():
        other = now.runs[name]
        if _kind(run.refused) != _kind(other.refused):
            yield f"{name}: {other.refused or 'it ran'}, then {run.refused or 'it ran'}"
            continue
        if len(run.losses) != len(other.losses):
            yield f"{name}: {len(other.losses)} losses, then {len(run.losses)}"
            continue
        for step, (a, b) in enumerate(zip(run.losses, other.losses, strict=True), 1):
            if not _near(a, b, exact, EARLY if step <= NEAR_STEPS else LATE):
                yield f"{name}: the loss of step {step} is {b:.9g}, then {a:.9g}"
                break
        shares = run.unit == "fraction"
        yield from _figures(name, run.figures, other.figures, exact, shares)
    if _kind(then.refused) != _kind(now.refused):
        yield f"its measure: {now.refused or 'it gave figures'}, then {then.refused or 'it gave figures'}"
    else:
        shares = any(run.unit == "fraction" for run in then.runs.values())
        yield from _figures("its measure", then.measured, now.measured, exact, shares)


def _figures(
    where: str, then: Mapping[str, float], now: Mapping[str, float], exact: bool, shares: bool
) -> Iterator[str]:
    if then.keys() != now.keys():
        yield f"{where}: other figures: {', '.join(sorted(then.keys() ^ now.keys()))}"
        return
    for name, a in then.items():
        if name in WORK:
            if abs(now[name] - a) > WORK_APART * a:
                yield f"{where}: {name}: {now[name]:.6g}, then {a:.6g}"
            continue
        answers = shares and not (".kept." in name or name.endswith("drift") or name.startswith("norm of"))
        if not _near(a, now[name], exact, (LATE[0], ROWS_APART) if answers else LATE):
            yield f"{where}: {name} is {now[name]:.9g}, then {a:.9g}"
            return


def _near(a: float, b: float, exact: bool, tolerance: tuple[float, float]) -> bool:
    return a == b if exact else abs(a - b) <= max(tolerance[0] * abs(a), tolerance[1])


def _kind(refused: str | None) -> str | None:
    """The class of an error: how it is worded may change."""
    return None if refused is None else refused.split(":")[0]
