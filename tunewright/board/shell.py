"""What every page is made of: the templates, and addresses within the board."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from tunewright import __version__
from tunewright.report.cells import cell
from tunewright.report.page import nbsp
from tunewright.report.words import capital, metric_name

VIEWS = {
    "runs": ("Runs", "/"),
    "compare": ("Compare", "/compare"),
    "papers": ("Papers", "/papers"),
    "methods": ("Methods", "/methods"),
    "benchmarks": ("Benchmarks", "/benchmarks"),
}

MAY_START: ContextVar[bool] = ContextVar("MAY_START", default=False)
"""Whether the board that answers a request starts runs, too."""


@cache
def environment() -> Environment:
    """Everything that a page is filled with is escaped by the templates."""
    made = Environment(
        loader=PackageLoader("tunewright.board", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(cell=_written, nbsp=nbsp, capital=capital, metric_name=metric_name)
    made.globals.update(views=VIEWS, version=__version__)
    return made


def _written(value: Any) -> str:
    """A value in words, whatever it is."""
    return cell(value) if value is None or isinstance(value, bool | int | float | str) else str(value)


def paged(query: Mapping[str, str], total: int, size: int) -> tuple[int, int]:
    """(page, pages): which page of `size` things a query asks for, from 1, and how many there are."""
    pages = max(1, -(-total // size))
    text = query.get("page", "")
    asked = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 1
    return min(pages, max(1, asked)), pages


def href(kind: str, name: str) -> str:
    """The address of something by its name, whatever characters it has, those that are no text included."""
    return f"/{kind}/{quote(os.fsencode(name), safe='/')}"


def rendered(template: str, **context: Any) -> str:
    """A page's text."""
    return environment().get_template(template).render(may_start=MAY_START.get(), **context)


def message(title: str, said: str, here: str = "") -> str:
    """A page that says one thing."""
    return rendered("message.html", here=here, title=title, said=said)
