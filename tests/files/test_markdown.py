"""Names from data in a card: shown as they are, never obeyed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests import tiny
from tunewright.files.markdown import code, fenced, inline
from tunewright.loading.save import model_card

EVIL = (
    "a|b",
    "`rm -rf`",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://a/b.png)",
    "[click](javascript:alert(1))",
    "a\n\n# heading\n---\n",
    "```\nout of the block\n```",
    "**bold** _it_ ~~s~~ &lt; \\ $x$",
    "# a",
    "1. a",
    "- a",
    "\x1b[31mred\x00",
)
TEXTS = (
    st.sampled_from(EVIL)
    | st.text(st.characters(codec="utf-8"), max_size=30)
    | st.lists(st.sampled_from(list("ab|`<>[]()*_\\~&$!#-+.1 \n")), max_size=12).map("".join)
)


def flat(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shown(markdown: str) -> tuple[list[str], set[str]]:
    """The texts that a reader sees, and the kinds of inline markup that are more than text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    texts, kinds = [], set()
    for token in parser.parse(markdown):
        if token.type == "inline":
            children = token.children or []
            texts.append("".join(c.content for c in children))
            kinds |= {c.type for c in children} - {"text", "text_special"}
    return texts, kinds


@example("0 #")
@example("a ## b ##")
@given(TEXTS)
@example("a_b _c_ d_e_f")
@example("__0__")
def test_a_name_is_text(text: str) -> None:
    texts, kinds = shown(f"| {inline(text)} | end |\n| --- | --- |\n| {inline(text)} | end |")
    assert texts == [flat(text), "end"] * 2 and not kinds
    texts, kinds = shown(f"Note: {inline(text)}")
    assert " ".join(texts) == f"Note: {flat(text)}".strip() and not kinds
    texts, kinds = shown(f"# {inline(text)}")
    assert "".join(texts) == flat(text) and not kinds


@given(TEXTS)
def test_a_name_between_backticks_is_one_span(text: str) -> None:
    if not flat(text):
        return
    texts, kinds = shown(f"| {code(text)} | end |\n| --- | --- |")
    assert kinds == {"code_inline"} and texts[1] == "end"
    assert texts[0].strip() == flat(text)


@given(TEXTS)
def test_a_block_is_one_block(text: str) -> None:
    block, after = MarkdownIt("commonmark").parse(f"{fenced(text, 'yaml')}\n\n# after")[:2]
    assert block.type == "fence" and after.type == "heading_open"


@pytest.mark.parametrize("name", EVIL)
def test_a_model_card_obeys_no_name(name: str) -> None:
    card: dict[str, Any] = {
        "name": name,
        "base_model": name,
        "licence": name,
        "recipe": f"keep: |\n  {name}",
        "tags": [],
    }
    text = model_card(card, tiny.llama())
    _, header, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    assert yaml.safe_load(header)["license"] == name
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    assert [t.content for t in tokens if t.type in ("html_block", "html_inline")] == []
    assert [t.type for t in tokens if t.type in ("fence", "heading_open")] == ["heading_open"] * 2 + ["fence"]
