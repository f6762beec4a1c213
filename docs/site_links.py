"""For the documentation site: links from docs/ to files outside of it lead to the repository.

On the forge `../tunewright/errors.py` leads to the file; a site has only docs/. mkdocs calls `on_page_markdown` (see
`hooks` in mkdocs.yml). Whether a file is there is checked here, so that a strict build fails on such a dead link too.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_log = logging.getLogger("mkdocs.hooks.site_links")


def outside(text: str, page: str, forge: str, root: Path = ROOT) -> tuple[str, list[str]]:
    """(Markdown whose links out of docs/ lead to `forge`, links to nothing). `page`: its path under docs/."""
    dead = []

    def lead(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match[1], match[2], match[3] or "", match[4]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
        if path.startswith("docs/") or target.startswith("/"):
            return match[0]
        if path.startswith("..") or not (root / path).exists():
            dead.append(target)
        kind = "tree" if (root / path).is_dir() else "blob"
        return f"{opening}{forge.rstrip('/')}/{kind}/main/{path}{anchor}{closing}"

    return _LINK.sub(lead, text), dead


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """What mkdocs asks of each page before it is rendered."""
    text, dead = outside(markdown, page.file.src_uri, config["repo_url"])
    for target in dead:
        _log.warning("Doc file '%s' links to '%s', which is no file of the repository", page.file.src_uri, target)
    return text
