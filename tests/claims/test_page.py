from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunewright.claims import page, simulate

PAGE = Path(__file__).parent.parent.parent / "docs" / "claims.md"


def test_the_page_says_what_code_and_results_say():
    text = PAGE.read_text(encoding="utf-8")
    assert page.filled(text) == text, "run `python -m tunewright.claims.page docs/claims.md`"


def test_every_judged_claim_has_its_words_and_the_counts_add_up(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    table, words = (text.partition(f"<!-- {n} -->")[2].partition(f"<!-- /{n} -->")[0] for n in ("verdicts", "texts"))
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", table, re.MULTILINE)
    assert {name for name, _ in rows} == set(re.findall(r"^- `([\w-]+)` \(", words, re.MULTILINE))
    counts = r"(\d+) results: (\d+) hold, (\d+) fail, (\d+) are unclear, (\d+) tested nothing"
    total, *each = map(int, re.search(counts, table).groups())
    assert total == len(rows) == sum(each)
    assert page.verdicts(tmp_path) == "No claim has been judged yet." and page.texts(tmp_path) == "None yet."


def test_marks_that_are_not_there_are_an_error():
    assert page.between("a <!-- x -->old<!-- /x --> b", "x", "new") == "a <!-- x -->\nnew\n<!-- /x --> b"
    with pytest.raises(ValueError, match="no marks"):
        page.between("a", "x", "new")


def test_the_committed_figures_of_the_rule_are_what_they_should_be():
    text = PAGE.read_text(encoding="utf-8").partition("<!-- simulated -->")[2].partition("<!-- /simulated -->")[0]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]
    assert len(rows) == 3 * 2 * len(simulate.SHAPES) + 2 * 2 * 2 + 2 * 2 + 3 * 2 * 4
    for what, _, figure, found, _, _ in rows:
        rate = float(re.match(r"[\d.]+", found)[0])
        if figure.startswith("interval"):
            assert 93 <= rate <= 97, (what, figure, rate)
        elif figure.endswith("Holm"):
            assert rate <= 6, rate
        elif figure.startswith(("`holds`", "`fails`")) and not what.startswith(("skewed", "curves, less")):
            assert rate <= 3.5, (what, figure, rate)
