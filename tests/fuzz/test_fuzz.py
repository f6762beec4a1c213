"""No damaged input ends in a traceback, without a remedy, or never: a sample, and with `-m slow` ten thousand."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzz import fuzzing, mutate
from tests.fuzz.surfaces import SURFACES

SAMPLE = 120


@pytest.mark.slow
def test_a_sample_of_damaged_inputs_is_refused_in_clear_messages():
    assert fuzzing.faults(range(SAMPLE)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_ten_thousand_damaged_inputs_are_refused_in_clear_messages(part: int):
    assert fuzzing.faults(range(1000 + 500 * part, 1500 + 500 * part)) == {}


def test_what_escapes_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch):
    from tunewright.commands import doctor

    monkeypatch.setattr(doctor, "examine", lambda: [][0])
    assert fuzzing.outcome(["doctor"]).fault.startswith("IndexError at ")
    assert fuzzing.outcome(["doctor", "--nonsense"]).fault is None


class Ends:
    """A collected object in whose own end time runs out: what is raised there is printed and forgotten."""

    def __del__(self) -> None:
        time.sleep(0.5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "limit, body",
    [("SECONDS", "while True: pass"), ("PATIENCE", "time.sleep(60)"), ("PATIENCE", "Ends(); time.sleep(60)")],
)
def test_what_hangs_is_told(monkeypatch: pytest.MonkeyPatch, limit: str, body: str):
    from tunewright.commands import doctor

    monkeypatch.setattr(fuzzing, limit, 0.1)
    monkeypatch.setattr(doctor, "examine", lambda: exec(body, {"time": time, "Ends": Ends}))
    assert (fuzzing.outcome(["doctor"]).fault or "").startswith("took over")


def test_damage_is_drawn_from_the_number_and_reaches_every_surface():
    assert {fuzzing.surface_of(i) for i in range(300)} == set(SURFACES)
    value = {"a": [1, {"b": "text"}], "c": 0.5}
    changed = [repr(mutate.tree(value, random.Random(i))) for i in range(40)]
    assert len(set(changed)) > 30 and value == {"a": [1, {"b": "text"}], "c": 0.5}
    assert changed == [repr(mutate.tree(value, random.Random(i))) for i in range(40)]
    assert mutate.raw(b"one\ntwo\n", random.Random(3)) == mutate.raw(b"one\ntwo\n", random.Random(3))
