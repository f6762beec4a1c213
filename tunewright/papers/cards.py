"""A paper's card: what it does, what it says, where it lives here, what was shown.

A card is `tunewright/papers/<slug>.toml`. `lives` is "open", or a list of {slots, file}; `shown` names the tests and,
where there is one, the library whose numbers ours equal. Verdicts are never typed: they are read from the results of
the executable claims. `year` is that of the first public version. `map = false` marks a method that is here without
being one of the mapped papers. `reconstructed` says of a method that was made without the paper's text or its authors'
code what it was made from, and so which of its numbers are ours.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError, TunewrightError, did_you_mean
from tunewright.papers import outcomes

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "claims" / "results"
STATES = ("open", "lives", "holds", "fails", "unclear", "not tested")
_NEEDED = ("title", "name", "family", "kind", "modality", "mechanism", "claim", "tags", "lives")
_ALSO = ("year", "arxiv", "map", "shown", "reconstructed")


@dataclass(frozen=True)
class Place:
    """Where a paper lives: a file of the repository, and the slots that it fills there (none for a recipe)."""

    file: str
    slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What an executable claim came to at one scale: "holds", "fails", "unclear" or "not tested"."""

    claim: str
    scale: str
    verdict: str
    beside: tuple[str, ...] = ()  # what it rests on: steps, passes, figures of base and tuned, what the paper had
    task: str = ""  # the lab's task on which it was judged


@dataclass(frozen=True)
class Card:
    """One paper. `lives` is empty while it is open; `map`: is it one of the mapped papers?"""

    slug: str
    title: str
    name: str
    family: str
    kind: str
    modality: str
    mechanism: str
    claim: str
    tags: tuple[str, ...]
    lives: tuple[Place, ...] = ()
    tests: tuple[str, ...] = ()
    parity: str = ""
    year: int | None = None
    arxiv: str | None = None
    map: bool = True
    reconstructed: str = ""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What this paper's claims came to, by scale."""
        return verdicts().get(self.slug, ())

    @property
    def states(self) -> tuple[str, ...]:
        """ "open", or "lives" and the different verdicts of its claims."""
        words = {v.verdict for v in self.verdicts}
        return ("lives" if self.lives else "open", *(s for s in STATES[2:] if s in words))

    @property
    def text(self) -> str:
        """All its words, for searching: names and tags count twice."""
        named = " ".join((self.slug, self.name, self.title, *self.tags))
        return " ".join((named, named, self.family, self.modality, self.mechanism, self.claim))

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON values, with its verdicts."""
        return {**asdict(self), "states": list(self.states), "verdicts": [asdict(v) for v in self.verdicts]}


def read(slug: str, data: Mapping[str, Any], where: str) -> Card:
    """Make a card of what its file says. TunewrightError names a key that is missing or unknown."""
    for key in _NEEDED:
        if key not in data:
            raise TunewrightError(f"the card has no '{key}'", where=where, remedy=f"write {key} = ...")
    for key in data:
        if key not in (*_NEEDED, *_ALSO):
            raise TunewrightError(
                f"a card has no key '{key}'", where=where, remedy=did_you_mean(key, (*_NEEDED, *_ALSO))
            )
    lives, shown = data["lives"], data.get("shown", {})
    if lives != "open" and not (isinstance(lives, list) and lives):
        raise TunewrightError(
            f"lives is {lives!r}", where=where, remedy='write lives = "open", or a list of {slots, file}'
        )
    places = () if lives == "open" else tuple(Place(p["file"], tuple(p["slots"])) for p in lives)
    plain = {k: data[k] for k in ("title", "name", "family", "kind", "modality", "mechanism", "claim")}
    also = {k: data[k] for k in ("year", "arxiv", "map", "reconstructed") if k in data}
    if "reconstructed" in data and lives == "open":
        raise TunewrightError(
            "an open card says that it was reconstructed",
            where=where,
            remedy="nothing here was made from it: take the key out",
        )
    return Card(
        slug=slug,
        **plain,
        tags=tuple(data["tags"]),
        lives=places,
        tests=tuple(shown.get("tests", ())),
        parity=shown.get("parity", ""),
        **also,
    )


@functools.cache
def load() -> dict[str, Card]:
    """Every card by slug, sorted."""
    return {
        file.stem: read(file.stem, tomllib.loads(file.read_text(encoding="utf-8")), str(file))
        for file in sorted(FOLDER.glob("*.toml"), key=lambda f: f.stem)
    }


def reconstructed(slugs: Iterable[str]) -> dict[str, str]:
    """Of the papers named, those that were reconstructed: slug -> from what. Reads their cards alone."""
    files = {slug: FOLDER / f"{slug}.toml" for slug in slugs}
    told = {s: tomllib.loads(f.read_text(encoding="utf-8")) for s, f in files.items() if f.is_file()}
    return {slug: data["reconstructed"] for slug, data in told.items() if "reconstructed" in data}


def find(slug: str) -> Card:
    """One card. RecipeError with the nearest slugs when there is none."""
    cards = load()
    plain = slug.strip().lower().replace("_", "-").replace(" ", "-")
    if plain not in cards:
        raise RecipeError(
            f"no paper is named '{slug}'", remedy=f"{did_you_mean(plain, cards)} or search: tunewright papers {slug}"
        )
    return cards[plain]


@functools.cache
def verdicts() -> dict[str, tuple[Verdict, ...]]:
    """Paper -> what its claims came to. A claim that is not judged yet has no verdict."""
    by_paper: dict[str, list[Verdict]] = {}
    for file in sorted(RESULTS.glob("*.json")):
        for scale, result in json.loads(file.read_text(encoding="utf-8")).items():
            if isinstance(result, dict) and result.get("verdict") in STATES[2:]:
                by_paper.setdefault(result.get("paper", file.stem), []).append(
                    Verdict(file.stem, scale, result["verdict"], tuple(outcomes.words(result)), _task(result))
                )
    return {paper: tuple(of) for paper, of in by_paper.items()}


def _task(result: Mapping[str, Any]) -> str:
    return str((result.get("claim") or {}).get("task") or "")
