"""The time left, however long a step is."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from tunewright.machine.pace import Pace, in_words
from tunewright.runs import progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("each", [0.01, 1.0, 45.0, 7200.0])
@pytest.mark.parametrize("first", [1, 400])
def test_the_time_left_is_known_after_the_first_step(each: float, first: int) -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.left is None and in_words(pace.left) == ""
    for step in range(first, first + 5):  # a resumed run's first step may be any
        clock.now += each
        pace.step(step, first + 9)
        assert pace.left == pytest.approx(each * (first + 9 - step))
    clock.now += each / 2
    assert pace.left == pytest.approx(each * 4.5), "it goes down between steps"
    clock.now += each * 100
    assert pace.left == 0


def test_what_came_before_the_first_step_is_not_counted_on() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now += 600  # statistics, compilation ...
    pace.step(1, 10)
    clock.now += 2
    pace.step(2, 10)
    assert pace.left == pytest.approx(16)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "about 0 s left"), (42.4, "about 42 s left"), (720, "about 12 min left"), (9000, "about 2.5 h left")],
)
def test_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_bar_shows_it_where_steps_take_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(), io.StringIO()
    monkeypatch.setattr(progress, "Pace", lambda: Pace(clock))
    monkeypatch.setattr(Progress, "start", lambda self: None)
    bars: list[Progress] = []
    real = Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, *a, **k: (real(self, *a, **k), bars.append(self))[0])
    with progress.Screen()._bar("main", SimpleNamespace(steps=10)) as show:
        for step in (1, 2, 3):
            clock.now += 60
            show({"step": step, "loss": 1.0, "tokens_per_second": 5.0})
        Console(file=out, width=200).print(bars[0].get_renderable())
    assert "about 7 min left" in out.getvalue(), out.getvalue()


def test_lines_say_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "Pace", lambda: Pace(clock))
    monkeypatch.setattr(progress.time, "monotonic", clock)
    show = progress.Screen()._lines("main", SimpleNamespace(steps=3))
    for step in (1, 2, 3):
        clock.now += 50
        show({"step": step, "loss": 1.0, "tokens_per_second": 5.0})
    told = capsys.readouterr().err.splitlines()
    assert [line.partition("tok/s")[2] for line in told] == [", about 2 min left", ", about 50 s left", ""]
