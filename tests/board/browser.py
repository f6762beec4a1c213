"""Headless Chromium, where this machine has one: Debian's, driven by playwright (which downloads nothing)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"light": (1280, 800, "light"), "dark": (1280, 800, "dark"), "phone": (390, 844, "light")}
"""Width, height and colours of the looks in which every view is tried."""

OURS = ("http://127.0.0.1:", "data:", "file:", "about:")
"""What a page may ask for."""


def chromium() -> str:
    """Its path; a test that asks is skipped where there is none."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    named = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in named if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium on this machine (set CHROMIUM to its path)")
    return found


@contextmanager
def opened() -> Iterator[Any]:
    """A browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(browser: Any, look: str = "light") -> Iterator[Any]:
    """A page in one look; what its console says of errors, and requests elsewhere, fail the test at its end."""
    width, height, scheme = SIZES[look]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened_page, said = context.new_page(), []
    opened_page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    opened_page.on("pageerror", lambda e: said.append(str(e)))
    opened_page.on("request", lambda r: None if r.url.startswith(OURS) else said.append(r.url))
    try:
        yield opened_page
        assert not said, said
    finally:
        context.close()


def violations(opened_page: Any) -> list[str]:
    """What axe finds that is serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(opened_page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def overflow(opened_page: Any) -> int:
    """Pixels by which a page is wider than its window."""
    return int(opened_page.evaluate("document.documentElement.scrollWidth - innerWidth"))
