"""What annotations say of a picture, in words: things with their attributes and places, how they lie to each other, and
the scene as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tunewright.contract.records import Record, RowProblem
from tunewright.errors import DataError
from tunewright.tasks._boxes import COLUMN, kinds_of, read_objects
from tunewright.tasks._pictures import read_image

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_FACING = (("left of", "right of"), ("above", "below"), ("inside", "around"))
FACING = {a: b for pair in _FACING for a, b in (pair, pair[::-1])}
"""A relation -> the same, told from the other thing."""


@dataclass(frozen=True)
class Thing:
    """One thing: what it is, its attributes in words, and left, top, right, bottom in shares of the picture."""

    kind: str
    attributes: tuple[str, ...]
    box: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """It, with what it is like: "small red circle"."""
        return " ".join([*self.attributes, self.kind])

    @property
    def middle(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2

    @property
    def place(self) -> str:
        """Which ninth of the picture its middle lies in: "top left", "centre"."""
        x, y = (min(int(3 * share), 2) for share in self.middle)
        told = [w for w in (ROWS[y], COLUMNS[x]) if w not in ("middle", "centre")]
        return " ".join(told) or "centre"

    @property
    def hundredths(self) -> str:
        """Its box in hundredths of the picture: "[12, 5, 40, 33]"."""
        return str([round(100 * share) for share in self.box])


@dataclass(frozen=True)
class Scene:
    """A picture's things from top left to bottom right, its captions, and its class in words ("" for none)."""

    things: tuple[Thing, ...]
    captions: tuple[str, ...]
    label: str

    @property
    def kinds(self) -> Counter[str]:
        return Counter(t.kind for t in self.things)

    def called(self, thing: Thing) -> str:
        """A thing so that it is no other: by its name and, where several have that, its place."""
        alike = sum(t.name == thing.name for t in self.things) > 1
        return f"the {thing.name} at the {thing.place}" if alike else f"the {thing.name}"

    @property
    def told_apart(self) -> tuple[Thing, ...]:
        """The things that are called as no other is."""
        called = Counter(map(self.called, self.things))
        return tuple(t for t in self.things if called[self.called(t)] == 1)

    def pairs(self, most: int) -> list[tuple[Thing, str, Thing]]:
        """Things with how the first lies to the second, the nearest pairs first, `most` of them."""
        apart = sorted(combinations(self.told_apart, 2), key=lambda pair: _apart(*pair))
        return [(a, relation(a, b), b) for a, b in apart[:most]]

    def locally(self, most: int) -> list[str]:
        """A sentence on each thing, and one on how each of at most so many pairs lies."""
        each = [f"{article(t.name)} is at the {t.place}." for t in self.things]
        each += [f"{self.called(a)} is {how} {self.called(b)}." for a, how, b in self.pairs(most)]
        return [_upper(s) for s in each]

    def globally(self) -> str:
        """The whole in a sentence or several: its class, what there is how often, its longest caption."""
        told = [f"The scene is {article(self.label)}."] if self.label else []
        told += [f"In all, {self.listed()[0].lower()}{self.listed()[1:]}"] if self.things else []
        return " ".join([*told, *(_sentence(c) for c in [max(self.captions, key=len, default="")] if c)])

    def listed(self) -> str:
        """How many there are of each kind: "There are 2 circles and 1 square."."""
        be = "is" if next(iter(self.kinds.values())) == 1 else "are"
        return f"There {be} {_joined([counted(n, kind) for kind, n in self.kinds.items()])}."


def scene_of(record: Record, form: str) -> Scene:
    """What a record's annotations say. DataError where it has none, or one that cannot be read."""
    captions = record.get("captions", record.get("text"))
    captions = [captions] if isinstance(captions, str) else captions or []
    label = record.get("label")
    try:
        things = _things(record, form) if record.get(COLUMN) is not None else ()
        _check("captions", all(isinstance(c, str) and c.strip() for c in captions), captions, '["A red barn."]')
        _check("label", label is None or isinstance(label, str), label, "a class in words")
    except RowProblem as problem:
        raise problem.at(record.where).error() from None
    if not things and not captions and not label:
        raise DataError(
            "the row says nothing of its picture",
            where=record.where,
            remedy="give a caption (text, captions), a class in words (label) or boxes (objects) beside the picture",
        )
    return Scene(things, tuple(c.strip() for c in captions), label or "")


def _things(record: Record, form: str) -> tuple[Thing, ...]:
    kinds = list(kinds_of(record))
    _check(COLUMN, all(isinstance(k, str) and k.strip() for k in kinds), kinds, "classes in words: category: [ship]")
    size = record.get("width"), record.get("height")
    if not all(isinstance(n, int) and n > 0 for n in size):
        picture = record.get("image", (record.get("images") or [None])[0])
        size = read_image(picture, record.base, 3).size
    width, height = size
    found = read_objects(record, (width, height), list(dict.fromkeys(kinds)), {"format": form})  # type: ignore[arg-type]
    told = _attributes(record[COLUMN], len(kinds))
    shares = found.corners / [width, height, width, height]
    things = [Thing(k, a, tuple(map(float, b))) for k, a, b in zip(kinds, told, shares, strict=True)]  # type: ignore[arg-type]
    return tuple(sorted(things, key=lambda t: (int(3 * t.middle[1]), t.middle[0], t.middle[1], t.name)))


def _attributes(objects: Any, count: int) -> list[tuple[str, ...]]:
    """The words on each thing: `attributes`, a text or a list of them for each."""
    several = isinstance(objects, Mapping)
    told = objects.get("attributes") if several else [one.get("attributes") for one in objects]
    told = [None] * count if told is None else told
    _check(COLUMN, isinstance(told, list) and len(told) == count, told, "attributes: one text or list for each box")
    each = [[one] if isinstance(one, str) else one or [] for one in told]
    fine = all(isinstance(one, list | tuple) and all(isinstance(w, str) and w.strip() for w in one) for one in each)
    _check(COLUMN, fine, told, "attributes: [[small, red], [large]]")
    return [tuple(one) for one in each]


def _check(field: str, fine: bool, value: Any, example: str) -> None:
    if not fine:
        raise RowProblem(field, f"it holds {str(value)[:60]}", f"write {example}")


def relation(a: Thing, b: Thing) -> str:
    """How the first lies to the second: inside or around it, else on the side of the longer way between the middles."""
    if a.box != b.box:
        for word, inner, outer in (("inside", a.box, b.box), ("around", b.box, a.box)):
            if inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]:
                return word
    x, y = (p - q for p, q in zip(a.middle, b.middle, strict=True))
    if abs(x) >= abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def counted(n: int, kind: str) -> str:
    """ "1 ship", "2 ships"."""
    if kind[-1:] == "y" and kind[-2:-1] not in "aeiou":
        plural = f"{kind[:-1]}ies"
    else:
        plural = f"{kind}es" if kind.endswith(("s", "x", "ch", "sh")) else f"{kind}s"
    return f"{n} {kind if n == 1 else plural}"


def _apart(a: Thing, b: Thing) -> float:
    return sum((p - q) ** 2 for p, q in zip(a.middle, b.middle, strict=True))


def _joined(some: Sequence[str]) -> str:
    return some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"


def article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _upper(text) if text.endswith((".", "!", "?")) else f"{_upper(text)}."
