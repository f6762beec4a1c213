"""The report and the comparison as a browser shows them: light, dark and on a phone; what axe finds; what overflows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.board import browser
from tests.report.example import make_example, make_metrics, make_rows
from tests.report.sequence_example import make_sequence
from tunewright.report import page

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def chromium():
    with browser.opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    page.render(make_example(), make_metrics(), make_rows(), folder)
    (folder / "sequence").mkdir()
    page.render(make_sequence(12), [], [], folder / "sequence")
    kept = {name: DOCS / f"{name}.html" for name in ("compare-nano", "compare-quickstart")}
    return {"report": folder / "report.html", "sequence": folder / "sequence" / "report.html", **kept}


@pytest.mark.parametrize("look", ["phone", *(pytest.param(k, marks=pytest.mark.slow) for k in ("light", "dark"))])
@pytest.mark.parametrize("name", ["report", "sequence", "compare-nano", "compare-quickstart"])
def test_a_page_is_whole(chromium, pages: dict[str, Path], name: str, look: str) -> None:
    width, height, scheme = browser.SIZES[look]
    # the pages' own policy lets no script of axe's run
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)
    try:
        opened = context.new_page()
        opened.goto(pages[name].as_uri())
        assert browser.overflow(opened) <= 0
        assert browser.violations(opened) == []
        cut = (
            "[...document.querySelectorAll('td, .sub')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)"
        )
        assert opened.evaluate(f"{cut}.length") == 0 or look != "phone", opened.evaluate(f"{cut}[0].outerHTML")
    finally:
        context.close()
