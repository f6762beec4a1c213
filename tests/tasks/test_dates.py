"""A template that prints today's date gives equal rows on every day, and says so."""

from __future__ import annotations

import json
from datetime import datetime
from types import SimpleNamespace

import pytest
import yaml
from transformers.utils import chat_template_utils

from tests import tiny
from tests.tasks import chat_templates as stock
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import build
from tunewright.loading.load import load
from tunewright.planning.check import check_recipe
from tunewright.recipe import Source
from tunewright.tasks import _patterns, get_task
from tunewright.tasks._render import CLOCK, DATE, _clock, dated, render

TASK = get_task("text-generation")
DATED = ["gpt-oss", "granite-3.3", "llama-3.2", "mistral-small-3.2"]
DAYS = [datetime(2026, 11, 28, 9, 5), datetime(2027, 1, 3, 23, 59)]


def on(day: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: day))
    _patterns.patterns_of.cache_clear()


@pytest.mark.parametrize("name", DATED)
def test_rows_of_two_days_are_equal(name, monkeypatch, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "Who?", "completion": "Ann."}\n' * 9)
    t, made = stock.tokenizer(name), []
    for k, day in enumerate(DAYS):
        on(day, monkeypatch)
        one = TASK.encode(Record({"messages": [stock.user("Who?"), stock.answer("Ann.")]}, id="r"), t, EncodeOptions())
        many = build([Source(path="a.jsonl")], TASK, t, EncodeOptions(), tmp_path / f"cache{k}", base=tmp_path)
        text = t.decode(one.input_ids)
        assert not any(f"{d:%Y}" in text for d in DAYS) and "2024" in text
        made.append((text, many.hash, [list(r.input_ids) for r in many.rows]))
    assert made[0] == made[1]
    assert made[0][2][0] == list(one.input_ids)


def test_every_form_of_a_date_is_that_days(monkeypatch):
    forms = [f"%{d}" for d in "aAbBdHIjmMpSUwWyYF"] + ["%d %B %Y", "%-d/%-m", "%H:%M", "day %d"]
    t = tiny.tokenizer()
    t.chat_template = "".join("{{ strftime_now('" + f + "') }};" for f in forms) + "{{ messages[0].content }}"
    on(DATE, monkeypatch)
    turns = [{"role": "user", "content": "strftime_now %d"}]
    assert render(t, turns) == t.apply_chat_template(turns, tokenize=False)
    assert render(t, turns).endswith(";strftime_now %d")


def test_a_template_without_a_clock_is_left_alone_and_one_that_asks_for_it_finds_one():
    t = tiny.tokenizer()
    assert _clock(t.chat_template) == {} and dated(t) is None and dated(None) is None
    t.chat_template = (
        "\n{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ CLOCK is defined }}{{ day() }}".replace(
            "CLOCK", CLOCK
        )
    )
    assert render(t, [{"role": "user", "content": "x"}]) == "\nTrue26" and "26 July 2024" in (dated(t) or "")


def test_check_and_run_say_which_day_it_is(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "model")
    t = tiny.tokenizer()
    for template, says in ((t.chat_template, False), ("{{ strftime_now('%Y') }}" + t.chat_template, True)):
        t.chat_template = template
        t.save_pretrained(tmp_path / "model")
        (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Who?", "completion": "Ann."}) + "\n")
        recipe = {
            "model": "./model",
            "task": "text-generation",
            "data": {"train": "a.jsonl"},
            "methods": ["full"],
            "budget": {"steps": 1},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        notes = load(str(tmp_path / "model"), TASK).notes
        for said in (notes, check_recipe(tmp_path / "recipe.yaml").report.cautions):
            assert any("26 July 2024" in text for text in said) == says
