"""Answers held to JSON: what a guide lets through is JSON, and all of JSON is let through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.serve import serving
from tunewright.serve.errors import ApiError
from tunewright.serve.guided import pattern_of
from tunewright.serve.json_form import JsonObject

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


@given(OBJECTS, st.sampled_from([None, 1, 4]), st.booleans())
def test_every_object_is_let_through_and_done_at_its_end(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    form = JsonObject()
    assert form.takes(text[:-1]) and not form.done
    assert form.takes(text[-1:]) and form.done
    assert not form.takes(b" ") and not JsonObject().takes(text + b"x")


def test_blanks_end_with_the_line_and_its_indentation():
    for before, open_ in ((b"", 0), (b'{"a":', 1), (b'{"a": [', 2)):
        most = b"\r\n" + b" " * 4 * open_
        assert JsonObject().takes(before + most) and not JsonObject().takes(before + most + b" "), before


@given(OBJECTS, st.data())
def test_what_python_does_not_read_is_not_let_through(value: Any, data: st.DataObject) -> None:
    text = bytearray(json.dumps(value).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 127))
    form = JsonObject()
    let = form.takes(bytes(text)) and form.done
    try:
        good = isinstance(json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name))), dict)
    except ValueError:
        good = False
    spaced = text[:1].isspace() or text[-1:].isspace()
    assert let == good or spaced


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with serving.served() as (_, address):
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
ASK: Any = [{"role": "user", "content": "Say it as JSON"}]


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_keeps_to_its_schema(client: openai.OpenAI, seed: int) -> None:
    how: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    got = client.chat.completions.create(model="tiny", messages=ASK, seed=seed, max_tokens=150, response_format=how)
    if got.choices[0].finish_reason == "stop":
        jsonschema.validate(json.loads(got.choices[0].message.content or ""), SCHEMA)
    else:
        assert (got.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_object_is_json(client: openai.OpenAI, temperature: float) -> None:
    ended = 0
    for seed in range(6):
        got = client.chat.completions.create(
            model="tiny",
            messages=ASK,
            temperature=temperature,
            seed=seed,
            max_tokens=120,
            response_format={"type": "json_object"},
            logit_bias={str(tiny.tokenizer().convert_tokens_to_ids("}")): 6},  # a fresh model would not end it
        )
        text = got.choices[0].message.content or ""
        if got.choices[0].finish_reason == "stop":
            ended += 1
            assert isinstance(json.loads(text), dict)
        form = JsonObject()
        assert form.takes(text.replace("\ufffd", "x").encode())
    assert ended


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "integer", "minimum": 3}, "'minimum' in schema is nothing"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "'not' in schema.a"),
        ({"$ref": "#/nowhere"}, "cannot be followed"),
        ({"type": "string", "maxLength": 100000}, "too large"),
        ({"type": "strange"}, "cannot be followed"),
    ],
)
def test_schemas_that_cannot_be_followed_are_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says):
        pattern_of(schema)
