"""What `papers run` is asked for: claims by name or a folder of them, of papers that have a card, and other seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tunewright.claims import claim as claims
from tunewright.claims import listing
from tunewright.errors import ClaimError, did_you_mean
from tunewright.papers import cards

LEAST = 2
"""Seeds: one says nothing about their spread."""


def claims_of(names: Sequence[str], family: str | None = None, every: bool = False) -> tuple[list[str], Path | None]:
    """(names of claims, the folder that they are in; none: the package's own). ClaimError for a folder without claims,
    one beside other names, and for a claim of ours whose paper has no card.
    """
    folders = [Path(n) for n in names if n not in claims.names() and Path(n).is_dir()]
    if folders and len(names) > 1:
        raise ClaimError(
            "a folder of claims stands alone", where=str(folders[0]), remedy="run it in a command of its own"
        )
    if not folders:
        found, folder = listing.chosen(names, family, every), None
    else:
        folder = folders[0]
        found = claims.names(folder)
        if not found:
            raise ClaimError(
                "no claim is in this folder",
                where=str(folder),
                remedy="write a file with CLAIM = Claim(...) into it (docs/claims.md)",
            )
    for name in found:
        loaded = claims.load(name, folder or claims.FOLDER)
        if not loaded.comes_from and loaded.claim.paper not in cards.load():
            raise ClaimError(
                f"the claim '{name}' is of the paper '{loaded.claim.paper}', which the catalogue lacks",
                where=str(loaded.file),
                remedy=did_you_mean(loaded.claim.paper, cards.load()),
            )
    return found, folder


def seeds_of(text: str | None, out: Path | None) -> range | None:
    """`100-107` as a range. ClaimError for anything else, for fewer than two, and where no folder is told to write to:
    results with the claims' own seeds are not to be replaced.
    """
    if text is None:
        return None
    numbers = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    seeds = range(int(numbers[1]), int(numbers[2]) + 1) if numbers else range(0)
    if len(seeds) < LEAST:
        raise ClaimError(
            f"'{text}' are no seeds",
            where="--seeds",
            remedy="write the first and the last, at least two: --seeds 100-107",
        )
    if out is None:
        raise ClaimError(
            "other seeds than a claim's own make another result",
            where="--seeds",
            remedy="say where it is to be written: --out DIR",
        )
    return seeds
