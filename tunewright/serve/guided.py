"""Answers held to a form: any JSON object, or a JSON schema by `outlines_core` (extra `serve`)."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.serve.errors import ApiError
from tunewright.serve.json_form import JsonObject
from tunewright.serve.schemas import ResponseFormat
from tunewright.serve.vocabulary import bytes_of_tokens

KEPT = 32
"""Compiled schemas that are kept."""
WAITING = 8
"""Requests that may wait for schemas: each holds a thread of the web server's."""
LARGEST, MOST = 20_000, 256
"""Characters of a schema as a pattern, and the largest count in it: compiling takes a second for each few hundred
states."""
FOLLOWED = frozenset(
    "type properties required items prefixItems enum const anyOf oneOf allOf $ref $defs definitions minItems maxItems "
    "minLength maxLength pattern format additionalProperties title description default examples $schema $id".split()
)
"""Keywords that answers are held to, and those that ask for nothing."""
NAMED = frozenset(("properties", "$defs", "definitions"))
"""Keywords whose keys are names."""

Make = Callable[[], Any]


class Guides:
    """Makes guides for one tokenizer. `ends`: the tokens that end an answer; `width`: of the model's logits."""

    def __init__(self, tokenizer: Any, ends: frozenset[int], width: int):
        self._tokenizer, self._ends, self._width = tokenizer, ends, width
        self._made: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._waiting = threading.Lock(), threading.Semaphore(WAITING)
        self._bytes: dict[int, bytes] | None = None
        self._vocabulary: Any = None

    def make(self, asked: ResponseFormat | None) -> Make | None:
        """What makes a guide for each answer; None where none is asked for. Takes seconds for a new schema."""
        if asked is None or asked.type == "text":
            return None
        if not self._waiting.acquire(blocking=False):
            raise ApiError(429, f"{WAITING} schemas are waited for already. Try again in a while.", code="queue_full")
        try:
            with self._lock:
                if self._bytes is None:
                    self._bytes = bytes_of_tokens(self._tokenizer)
                known = self._bytes
                if asked.json_schema is None:
                    return lambda: AnyObject(known)
                index = self._index(asked.json_schema.given)
        finally:
            self._waiting.release()
        return lambda: Schema(index, self._ends, self._width)

    def _index(self, schema: dict[str, Any]) -> Any:
        if importlib.util.find_spec("outlines_core") is None:
            raise ApiError(
                400, 'json_schema needs outlines_core: pip install "tunewright[serve]".', param="response_format"
            )
        from outlines_core import Index

        text = json.dumps(schema)
        if text in self._made:
            self._made.move_to_end(text)
            return self._made[text]
        pattern = pattern_of(schema)
        try:
            index = Index(pattern, self._known())
        except Exception as error:
            raise ApiError(400, f"The schema cannot be followed: {_first(error)}", param="response_format") from error
        self._made[text] = index
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return index

    def _known(self) -> Any:
        if self._vocabulary is None:
            from outlines_core import Vocabulary

            if not self._ends:
                raise ApiError(400, "This model has no token that ends an answer.", param="response_format")
            by_bytes: dict[bytes, list[int]] = {}
            for i, data in (self._bytes or {}).items():
                if i not in self._ends:
                    by_bytes.setdefault(data, []).append(i)
            self._vocabulary = Vocabulary(min(self._ends), by_bytes)
        return self._vocabulary


def pattern_of(schema: dict[str, Any]) -> str:
    """A schema as a regular expression. ApiError (400) for one that cannot be followed, or is too large to be."""
    from outlines_core.json_schema import build_regex_from_schema

    _check(schema, "schema")
    try:
        pattern = build_regex_from_schema(json.dumps(schema))
    except Exception as error:
        raise ApiError(400, f"The schema cannot be followed: {_first(error)}", param="response_format") from error
    counts = [int(n) for found in re.findall(r"\{(\d*),?(\d*)\}", pattern) for n in found if n]
    if len(pattern) > LARGEST or max(counts, default=0) > MOST or sum(counts) > 4 * MOST:
        raise ApiError(
            400,
            f"The schema is too large to be followed: {LARGEST:,} characters as a pattern, counts up to {MOST}.",
            param="response_format",
        )
    return str(pattern)


def _check(schema: Any, where: str, depth: int = 0) -> None:
    """ApiError where a part of a schema asks for what answers are not held to."""
    if depth > 32:
        raise ApiError(400, f"{where} is nested too deeply.", param="response_format")
    if isinstance(schema, list):
        for i, part in enumerate(schema):
            _check(part, f"{where}[{i}]", depth + 1)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key not in FOLLOWED:
            raise ApiError(
                400, f"'{key[:60]}' in {where[:200]} is nothing that answers are held to.", param="response_format"
            )
        if key in NAMED and isinstance(value, dict):
            for name, part in value.items():
                _check(part, f"{where}.{name}", depth + 1)
        elif key not in ("enum", "const", "default", "examples", "required"):
            _check(value, f"{where}.{key}", depth + 1)


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class Schema:
    """A guide by a compiled schema."""

    def __init__(self, index: Any, ends: frozenset[int], width: int):
        from outlines_core import Guide

        self._guide, self._ends, self._width = Guide(index), sorted(ends), width
        self._mask = np.zeros((width + 31) // 32, dtype=np.int32)

    @property
    def done(self) -> bool:
        """Whether nothing can follow but the end."""
        return bool(self._guide.is_finished()) and not set(self._guide.get_tokens()) - set(self._ends)

    def allowed(self) -> Tensor | None:
        """[V] which tokens may follow."""
        self._guide.write_mask_into(self._mask.ctypes.data, self._mask.size, self._mask.itemsize)
        mask = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: self._width].astype(bool)
        if self._guide.is_finished():
            mask[self._ends] = True
        return torch.from_numpy(mask)

    def accepts(self, token: int) -> bool:
        return True

    def advance(self, token: int) -> None:
        """Go on by a token that is allowed."""
        self._guide.advance(token, False)


class AnyObject:
    """A guide to any JSON object. Which tokens may follow is asked one by one, the likeliest first."""

    def __init__(self, known: dict[int, bytes]):
        self._known, self._form = known, JsonObject()

    @property
    def done(self) -> bool:
        return self._form.done

    def allowed(self) -> Tensor | None:
        return None

    def accepts(self, token: int) -> bool:
        """Whether a token goes on with the object."""
        data = self._known.get(token)
        return data is not None and self._form.copy().takes(data)

    def advance(self, token: int) -> None:
        self._form.takes(self._known[token])
