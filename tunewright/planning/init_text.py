"""The pieces of a first recipe's text: lines with their reasons, numbers as people write them, scalars of YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tunewright.recipe.yaml_text import write


def commented(text: str, why: str) -> str:
    """A line and its reason, which stand below one another."""
    return f"{text:<29} # {why}" if why else text


def written(value: float) -> str:
    """A number as recipes write it: 0.0012, 1600, 10%."""
    if value == 0.1:
        return "10%"
    return f"{value:.0e}".replace("e-0", "e-") if value < 1e-3 and float(f"{value:.0e}") == value else f"{value:g}"


def scalar(text: str) -> str:
    """Text as one YAML scalar, quoted where it must be."""
    return write([text]).removeprefix("- ").strip()


def of_source(path: str, columns: Mapping[str, str]) -> str:
    """A source: its path alone, or with its columns."""
    if not columns:
        return scalar(path)
    named = ", ".join(f"{ours}: {inside(theirs)}" for ours, theirs in columns.items())
    return f"{{path: {inside(path)}, columns: {{{named}}}}}"


def inside(text: str) -> str:
    """Text as a scalar between braces, where commas and brackets mean something."""
    plain = scalar(text)
    return json.dumps(text, ensure_ascii=False) if plain == text and set(text) & set(",[]{}") else plain
