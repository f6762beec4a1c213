"""What a person sees while a run trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tunewright.runs.progress import Screen, a_second


def test_a_sample_shows_what_was_asked_without_markers(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "<|im_start|>user\nWhich shop\nsold it?<|im_end|>\n<|im_start|>assistant\n"
    long = "Sum up: " + "a word " * 40 + "What is lost?"
    Screen().samples([(asked, "the first", "the second"), (long, "all", "none"), ("", "x", "y")])
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "  Which shop sold it? -> 'the first' (expected 'the second')"
    assert (
        second.endswith("What is lost? -> 'all' (expected 'none')")
        and second.startswith("  Sum up:")
        and "\u2026" in second
    )
    assert third == "   -> 'x' (expected 'y')"
    Screen(quiet=True).samples([(asked, "the first", "the second")])
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("pace", "counted", "told"),
    [
        (821.4, "tok", "821 tok/s"),
        (9.96, "images", "10 images/s"),
        (3.26, "images", "3.3 images/s"),
        (0.4, "images", "2.5 s an image"),
        (0.02, "tok", "50 s a token"),
        (0.5, "patches", "2 s a patch"),
        (0.0, "images", "0.0 images/s"),
    ],
)
def test_what_takes_seconds_is_not_said_to_be_none_a_second(pace, counted, told):
    assert a_second(pace, counted) == told
    said = []
    screen = Screen()
    screen.counted, screen.say = counted, said.append
    plan = SimpleNamespace(steps=1)
    screen._lines("main", plan)({"step": 1, "loss": 0.5, "tokens_per_second": pace})
    assert said == [f"training 'main': step 1 of 1, loss 0.500, {told}"]
