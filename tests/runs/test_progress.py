"""What a person sees while a run trains."""

from __future__ import annotations

import pytest

from tunewright.runs.progress import Screen


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
