"""Chat templates as models have them write pictures where they would themselves, and only answers count."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.records import RowProblem
from tunewright.errors import RecipeError
from tunewright.recipe import Recipe
from tunewright.tasks._chat import conversation
from tunewright.tasks._found import HOLE
from tunewright.tasks._placed import parts_known, placed, shown_by

FOLDER = Path(__file__).parent / "templates"
MARKERS = {
    "gemma-3": "<start_of_image>",
    "idefics3": "<image>",
    "llama-4": "<|image|>",
    "llava-next": "<image>",
    "qwen2.5-vl": "<|image_pad|>",
}


def reads(name: str) -> Any:
    """A tokenizer with a template, and with the special tokens that this writes."""
    own, template = copy.deepcopy(tokenizer()), (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    written = {MARKERS[name], *re.findall(r"<[|/]?[a-z_]+\|?>", template)}
    own.add_tokens(sorted(written), special_tokens=True)
    own.chat_template = template
    return own


def turns(*said: Any) -> list[dict[str, Any]]:
    """Turns of user and assistant by turns; None inside a list is a picture."""
    parts = [[{"type": "image"} if p is None else {"type": "text", "text": p} for p in s] for s in said]
    return [{"role": ("user", "assistant")[i % 2], "content": p} for i, p in enumerate(parts)]


@pytest.mark.parametrize("name", MARKERS)
def test_the_text_is_the_templates_own(name: str) -> None:
    own, marker = reads(name), MARKERS[name]
    assert parts_known(own, own.chat_template, marker)
    first = turns([None, "What is it?"], ["A red fox here."])
    for said in (first, turns(["Compare ", None, " with ", None], ["Both are foxes."], ["And?"], ["It is lazy."])):
        shown, _ = placed(said, [b""] * sum("text" not in p for t in said for p in t["content"]))
        talk = conversation(shown_by(own, marker), shown)
        text = "".join(piece for piece, _ in talk.segments)
        assert own.apply_chat_template(said, tokenize=False).startswith(text.replace(HOLE, marker))
        assert text.count(HOLE) == sum("text" not in p for t in said for p in t["content"])
        counted = "".join(piece for piece, weight in talk.segments if weight)
        answers = [t["content"][0]["text"] for t in said if t["role"] == "assistant"]
        assert all(a in counted for a in answers) and HOLE not in counted and "What" not in counted


def test_a_system_turn_is_shown_in_parts_where_only_these_are_read() -> None:
    own = reads("idefics3")
    said = [{"role": "system", "content": "Be brief please."}, *turns([None, "What is it?"], ["A red fox here."])]
    talk = conversation(shown_by(own, "<image>"), placed(said, [b""])[0])
    assert "System: Be brief please.<end_of_utterance>" in "".join(t for t, _ in talk.segments)


def test_a_picture_token_in_a_text_is_refused() -> None:
    own = reads("qwen2.5-vl")
    said, _ = placed(turns([None, "What is <|image_pad|> here?"], ["A red fox."]), [b""])
    with pytest.raises(RowProblem, match=r"of 1 picture the chat template writes 2"):
        conversation(shown_by(own, "<|image_pad|>"), said)


def test_a_recipes_template_may_ask_the_same_of_every_picture() -> None:
    tree = {"model": "a/b", "data": {"train": "x.jsonl", "template": "What is it?"}, "methods": ["lora"]}
    given = {**tree, "budget": {"steps": 1}}
    assert Recipe.model_validate({**given, "task": "image-text-to-text"}).data.template == "What is it?"
    with pytest.raises(RecipeError, match="does not say where the row's text goes"):
        Recipe.model_validate({**given, "task": "text-generation"})
