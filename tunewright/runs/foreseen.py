"""Whether a stage's makers will make any row at all, told before anything is measured or trained.

Makers are run on the stage's records as they will be, up to the first thing that they ask a model or a judge. What they
make then depends on the answer, and nothing is foreseen. Where they ask nothing (every text is too short for them, no
document is related to another), what they make is what they will make, and a stage without rows is refused with the
counts. Makers that name no model are run whole, on at most `MOST` records: of more, their own run tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tunewright.contract.made import Made
from tunewright.contract.records import Record
from tunewright.contract.writer import Prompt, Writer, Written
from tunewright.errors import DataError
from tunewright.recipe import StageSpec
from tunewright.runs.making import Makers, kept_of, made_by, place_of, rng_of

MOST, SHOWN = 2000, 4


class _Asked(Exception):
    """A maker asks something whose answer is not there yet."""


class _Mute(Writer):
    """Answers no prompt, and nothing where there is none."""

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Written]]:
        if prompts:
            raise _Asked
        return []

    def __getattr__(self, name: str) -> Any:
        raise _Asked


class _Closed:
    """A reader that reads nothing yet."""

    def __getattr__(self, name: str) -> Any:
        raise _Asked


def _unjudged(answers: Sequence[Any]) -> list[float]:
    if answers:
        raise _Asked
    return []


def foresee(
    makers: Makers,
    records: Callable[[], Sequence[Record]],
    stage: StageSpec,
    seed: int,
    labels: Sequence[str] | None,
    usable: Callable[[Made], Made],
) -> None:
    """DataError where a stage's makers will make nothing of its `records`, whatever a model answers.

    `usable` gives what is made as it is kept: thrown away where it can be no row.
    """
    where, given = place_of(stage), list(records())
    count = len(given)
    if not count or (count > MOST and not makers.speakers()):
        return
    made = list[Made]()
    for k, (name, method) in enumerate(makers.makers):
        speakers = method.speakers()
        try:
            made = made_by(
                name, method, given, writers={n: _Mute(n) for n in speakers},
                readers={n: _Closed() for n in speakers},  # type: ignore[misc]
                score=_unjudged, labels=labels, round=stage.round or 1, rng=rng_of(seed, stage.name, name, k),
                where=where,
            )  # fmt: skip
        except _Asked:
            return
        made = [usable(one) for one in made]
        given = kept_of(name, made)
        if not given:
            break
    if given:
        return
    reasons = Counter(one.thrown.split(":")[0] for one in made).most_common()
    told = ", ".join(f"{n:,}: {reason}" for reason, n in reasons[:SHOWN])
    more = sum(n for _, n in reasons[SHOWN:])
    these = "record" if count == 1 else "records"
    raise DataError(
        f"'{name}' can make no row to train on of the {count:,} {these} of the stage '{stage.name}'"
        f"{f'; thrown away: {told}' if told else ''}{f', {more:,} for other reasons' if more else ''}",
        where=where,
        remedy=f"give other rows as data.train, or set what it asks of them: `tunewright methods {name}` lists it",
    )
