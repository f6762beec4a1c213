"""What a notebook shows of a result: the terminal's own table as HTML, and a page in a frame of its own.

All text is escaped: rich escapes what it exports, and a page is an attribute of its frame, which may run the page's
script and nothing else (no access to the notebook, no network: the page's own policy).
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

WIDTH = 100  # characters
_PRE = '<pre style="white-space:pre;overflow-x:auto;line-height:1.25;font-family:monospace">{code}</pre>'


def recorded(show: Callable[[Console], None]) -> str:
    """HTML of what `show` prints to a console."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    show(console)
    return console.export_html(code_format=_PRE, inline_styles=True).rstrip()


def table(renderable: RenderableType) -> str:
    """HTML of one rich renderable."""
    return recorded(lambda console: console.print(renderable))


def framed(page: Path, title: str) -> str:
    """A page to unfold, in a frame; nothing where the file is not there."""
    if not page.is_file():
        return ""
    text = html.escape(page.read_text(encoding="utf-8"), quote=True)
    name = html.escape(title, quote=True)
    return (
        f"<details><summary>{name}</summary>"
        f'<iframe title="{name}" srcdoc="{text}" sandbox="allow-scripts" loading="lazy" '
        'style="width:100%;height:720px;border:1px solid #8884"></iframe></details>'
    )


def plain(show: Callable[[Console], None]) -> str:
    """What `show` prints, without colours: at most WIDTH characters a line, nothing behind the last one."""
    out = io.StringIO()
    show(
        Console(
            file=out,
            width=WIDTH,
            color_system=None,
            force_terminal=False,
            force_jupyter=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
