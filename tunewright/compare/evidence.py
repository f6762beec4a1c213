"""What the claims of papers found of a method, of those that were run here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from tunewright.claims import claim as claims
from tunewright.claims import results_io
from tunewright.claims.claim import Claim
from tunewright.compare.suggested import Evidence


def of_method(name: str, papers: Sequence[str]) -> list[Evidence]:
    """The results of claims of these papers, or of the method's own name, in which it is what is tested; real bases
    first.
    """
    found = [e for claim, results in _known() if _tests(claim, name, papers) for e in results]
    return sorted(found, key=lambda e: (e.scale != "real", e.name))


def _tests(claim: Claim, name: str, papers: Sequence[str]) -> bool:
    named = {m if isinstance(m, str) else next(iter(m)) for m in claim.method.methods}
    return claim.paper in (name, *papers) and name in named


@cache
def _known() -> list[tuple[Claim, list[Evidence]]]:
    """Every claim with results, of which each needs a verdict. A claim that cannot be read says nothing."""
    known = []
    for name in claims.names():
        results = results_io.read(name)
        if results:
            claim = claims.load(name).claim
            known.append((claim, [Evidence(name, s, r.verdict, claim.says) for s, r in results.items() if r.verdict]))
    return known
