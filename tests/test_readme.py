"""The README names what is there, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

from tunewright import catalogue

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_method_is_named() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)`", README))
    ours = {n for n, e in catalogue.entries().items() if e.room != catalogue.THIRD_PARTY}
    assert ours <= named, sorted(ours - named)


def test_no_method_is_promised() -> None:
    table = README.split("| question |", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) <= set(catalogue.entries())


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (Path(__file__).parents[1] / target).exists(), target
