"""A chat template is a stranger's program: whatever it does, a user reads one message."""

from __future__ import annotations

import json
import sys

import pytest

from tests import tiny
from tests.tasks import chat_templates as stock
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.check import check
from tunewright.data.dataset import build
from tunewright.errors import ModelError
from tunewright.machine import limits
from tunewright.recipe import Source
from tunewright.tasks import _render, get_task
from tunewright.tasks._dialect import dialect_of

TASK = get_task("text-generation")
ROW = {"prompt": "a", "completion": "b"}
TWICE = "{% for i in range(99999) %}{% for j in range(99999) %}SAID{% endfor %}{% endfor %}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much address space a process has")


def encode(template, values=ROW):
    t = tiny.tokenizer()
    t.chat_template = template
    return TASK.encode(Record(values, id="r"), t, EncodeOptions())


@pytest.mark.parametrize(
    "template, says",
    [
        (TWICE.replace("SAID", ""), "does not end"),
        (TWICE.replace("SAID", "x"), "does not end"),
        ("x" * 1_000_001, "1,000,001 characters"),
        ("{% for m in messages %}\n{{ m.content }}", "cannot be read"),
        pytest.param("{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}", "more memory", marks=linux),
        ("{{ 'a' * 10 ** 15 }}", "more memory"),
    ],
)
def test_a_template_that_loops_is_huge_or_broken_is_one_error_about_the_model(monkeypatch, template, says):
    monkeypatch.setattr(_render, "SECONDS", 0.5 if says == "does not end" else 120.0)
    with pytest.raises(ModelError, match=says) as caught:
        encode(template)
    assert caught.value.remedy and caught.value.where.startswith("chat_template")


def test_a_template_that_was_late_once_is_not_waited_for_again(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(_render, "SECONDS", 1.0)
    monkeypatch.setattr(_render, "within", lambda seconds, call: waited.append(seconds) or limits.within(seconds, call))
    for _ in range(2):
        with pytest.raises(ModelError, match="does not end"):
            encode(TWICE.replace("SAID", "z"))
    assert waited == [1.0]


@pytest.mark.parametrize(
    "template, remedy",
    [
        ("{{ raise_exception('System role not supported') }}", "in front of the first user turn"),
        ("{{ raise_exception('Tool call IDs should have nine letters') }}", "the id"),
        ("{{ raise_exception('roles must alternate') }}", "in the order"),
        ("{{ messages[7].content }}", "in the order"),
        ("{{ 1 // 0 }}", "in the order"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "in the order"),
    ],
)
def test_a_template_that_refuses_a_row_makes_it_bad_with_its_own_words(template, remedy):
    with pytest.raises(RowProblem, match="refuses") as caught:
        encode(template)
    assert remedy in caught.value.remedy and "\n" not in caught.value.reason


def test_check_and_run_say_of_a_looping_template_what_encoding_says(monkeypatch, tmp_path):
    monkeypatch.setattr(_render, "SECONDS", 0.5)
    (tmp_path / "rows.jsonl").write_text((json.dumps(ROW) + "\n") * 50)
    t = tiny.tokenizer()
    t.chat_template = TWICE.replace("SAID", "y")
    report = check({"train": [Source(path="rows.jsonl")]}, TASK, t, EncodeOptions(), base=tmp_path)
    assert not report.ok and len(report.refusals) == 1 and "does not end" in report.refusals[0]
    with pytest.raises(ModelError, match="does not end"):
        build([Source(path="rows.jsonl")], TASK, t, EncodeOptions(), tmp_path / "cache", base=tmp_path)


@pytest.mark.parametrize("name, ends", [("gemma", True), ("qwen2.5", True), ("glm-4.5", True), ("solar", False)])
def test_check_knows_an_end_of_turn_that_is_not_the_tokenizers_eos(tmp_path, name, ends):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    t = stock.tokenizer(name)
    report = check({"train": [Source(path="rows.jsonl")]}, TASK, t, EncodeOptions(), base=tmp_path)
    assert report.ok and ("end not trained" in {n.kind for n in report.notices}) is not ends


def test_check_says_which_answers_a_template_leaves_untrained(tmp_path):
    rows = [stock.ROWS["two"][0], stock.ROWS["one"][0]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for name, where in (("qwen3", ("rows.jsonl:1",)), ("qwen2.5", None)):
        report = check(
            {"train": [Source(path="rows.jsonl")]}, TASK, stock.tokenizer(name), EncodeOptions(), base=tmp_path
        )
        found = {n.kind: n for n in report.notices}
        assert report.ok and getattr(found.get("earlier answers not trained"), "where", None) == where


@pytest.mark.parametrize("name", sorted(stock.TABLE))
def test_many_conversations_are_rendered_as_the_tokenizer_renders_each(name):
    reader = stock.tokenizer(name)
    asked = [stock.user("Who is it?"), stock.answer("Ann.")]
    talks = [asked, [*asked, stock.user(" Where? \n"), stock.answer("Oslo <b>")], [stock.user("alone")]]
    talks += [[{"role": "system", "content": "Be brief."}, *asked], [stock.answer("first"), *asked]]
    written = [dialect_of(reader).write(turns) for turns in talks]
    expected = []
    for turns in written:
        try:
            expected.append(_render.render(reader, turns))
        except RowProblem:
            expected.append(None)
    given = json.dumps(written)
    assert _render.render_many(reader, written) == expected and json.dumps(written) == given


def test_a_tokenizer_that_renders_in_a_way_of_its_own_is_asked_for_many_too():
    class Own(type(tiny.tokenizer())):
        def apply_chat_template(self, conversation, **kwargs):
            return super().apply_chat_template(conversation, **kwargs).upper()

    reader = tiny.tokenizer()
    reader.__class__ = Own
    assert "CARD" in _render.render_many(reader, [[stock.user("card")]])[0]
