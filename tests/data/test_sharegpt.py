"""ShareGPT's calls and their results train what the same conversation trains in OpenAI's form."""

from __future__ import annotations

import json

import pytest

from tests.tasks import chat_templates as stock
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.shapes import canonical
from tunewright.tasks import get_task

CALL = {"name": "weather", "arguments": {"city": "Rome"}}
ASKED, SAID = {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Sun."}


def messages(*turns: dict) -> list[dict]:
    return canonical({"conversations": list(turns)}, {})[0]["messages"]


def encoded(name: str, values: dict):
    return get_task("text-generation").encode(Record(values, id="r"), stock.tokenizer(name), EncodeOptions())


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(CALL),
        CALL,
        json.dumps([CALL]),
        json.dumps({**CALL, "arguments": json.dumps(CALL["arguments"])}),
        json.dumps({"type": "function", "function": CALL}),
    ],
)
@pytest.mark.parametrize("name", ["qwen2.5", "mistral-nemo", "llama-3.1", "glm-4.5", "lfm2.5"])
def test_a_call_in_every_form_trains_what_openais_form_trains(value, name):
    seen = {"from": "observation", "value": '{"sky": "sunny"}'}
    got = messages(ASKED, {"from": "function_call", "value": value}, seen, SAID)
    called = {"id": "call00000", "type": "function", "function": CALL}
    openai = [
        stock.user("Who?"),
        stock.answer("", tool_calls=[called]),
        {"role": "tool", "name": "weather", "tool_call_id": "call00000", "content": '{"sky": "sunny"}'},
        stock.answer("Sun."),
    ]
    ours, theirs = (encoded(name, {"messages": m}) for m in (got, openai))
    assert list(ours.input_ids) == list(theirs.input_ids) and list(ours.weights) == list(theirs.weights)
    assert "weather" in stock.trained(name, ours) and "sunny" not in stock.trained(name, ours)


def test_several_calls_are_answered_in_order_and_a_result_may_be_an_object():
    two = [CALL, {"name": "clock", "arguments": {}}]
    got = messages(
        ASKED,
        {"from": "function_call", "value": json.dumps(two)},
        {"from": "observation", "value": {"sky": "sunny"}},
        {"from": "function_response", "value": [1, 2]},
        {"from": "function_call", "value": CALL},
        {"from": "tool", "value": "rain"},
        SAID,
    )
    assert [t.get("tool_call_id") for t in got] == [None, None, "call00000", "call00001", None, "call00002", None]
    assert [t.get("name") for t in got][2:6] == ["weather", "clock", None, "weather"]
    assert got[2]["content"] == '{"sky": "sunny"}' and got[3]["content"] == "[1, 2]"


def test_what_was_thought_before_a_call_is_reasoning():
    got = messages(ASKED, {"from": "function_call", "value": f"<think>\nLook.\n</think>\n\n{json.dumps(CALL)}"})
    assert got[1]["reasoning_content"] == "Look." and got[1]["tool_calls"][0]["name"] == "weather"
    assert "Look." in stock.trained("qwen3", encoded("qwen3", {"messages": got}))


@pytest.mark.parametrize("value", ["I call weather", "{", "3", "[]", '["a"]', "null", "[" * 99999])
def test_a_call_that_is_none_is_a_bad_row(value):
    with pytest.raises(RowProblem) as caught:
        messages(ASKED, {"from": "function_call", "value": value})
    assert caught.value.field == "conversations[1].value" and "JSON" in caught.value.remedy


def test_a_template_that_shows_no_calls_refuses_the_row():
    with pytest.raises(RowProblem, match="leaves it out") as caught:
        encoded("chatml", {"messages": messages(ASKED, {"from": "function_call", "value": CALL}, SAID)})
    assert caught.value.field.startswith("messages[1].tool_calls")


def test_what_a_turn_says_of_itself_is_kept():
    got = messages(ASKED, {**SAID, "train": False, "weight": 0, "name": "Bo", "markdown": None}, ASKED, SAID)
    assert got[1] == {"role": "assistant", "content": "Sun.", "train": False, "weight": 0, "name": "Bo"}
