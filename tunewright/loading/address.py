"""A writer behind an OpenAI-compatible address: `chat/completions` for questions, `completions` for a text to go on.

Each answer is one request, `AT_ONCE` of them at a time, and is in the journal when it comes. What may pass (a time
limit, 408, 409, 429, 5xx, a connection that breaks) is tried again, `TRIES` times in all, after 1, 2, 4 ... seconds or
as long as Retry-After says; what does not pass ends the run with one message, unless it is of one prompt alone (it is
too long, or kept back): that one gets no answer, and why. The key is read from the environment when it is sent, and
written nowhere.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import Record, lone_surrogate
from tunewright.contract.writer import Asked, Continue, Prompt, Reply, Writer
from tunewright.errors import ModelError
from tunewright.loading.address_faults import PASSING, fault_of, one_line
from tunewright.loading.at_once import Stopped, at_once
from tunewright.recipe import ModelSpec

AT_ONCE = 8
TRIES = 5
LONGEST_WAIT = 60.0
LARGEST = 16 * 2**20
"""Bytes of one response, at most: what an address sends is never kept without an end."""
LONGEST_TOKEN = 128
"""Characters of one token, at most: the longest of public vocabularies are runs of spaces. What is longer than the
tokens that were asked for can hold is cut: a server need not heed `max_tokens`.
"""


@dataclass(kw_only=True)
class RemoteWriter(Writer):
    """Writes by asking `spec.url` for the model `spec.name`. Prompts that are records are asked in their own words:
    their turns, or system turn and prompt; the recipe's `template` is not put around them.
    """

    spec: ModelSpec
    batch: int = AT_ONCE

    def identity(self) -> dict[str, Any]:
        return {"url": self.spec.url, "model": self.spec.name}

    def shown(self, prompt: Prompt) -> Any:
        if isinstance(prompt, Continue):
            return {"continue": prompt.text}
        return {"row": prompt.id, "ask": _turns(prompt)} if isinstance(prompt, Record) else {"ask": _turns(prompt)}

    def _entry(
        self, asked: Sequence[Asked], shown: Sequence[Any], max_new_tokens: int, temperature: float
    ) -> dict[str, Any]:
        """A batch, whose answers are in the journal one by one, each from the moment at which it came."""
        whole = self.journal.entries.get(self.key(asked, max_new_tokens, temperature))
        if whole is not None:  # a journal that was begun before answers were kept one by one
            return whole
        single = [(Asked(a.prompt, (d,)), told) for a, told in zip(asked, shown, strict=True) for d in a.draws]
        keys = [self.key([one], max_new_tokens, temperature) for one, _ in single]
        missing = [i for i, key in enumerate(keys) if key not in self.journal.entries]

        def keep(at: int, found: tuple[Reply, int]) -> None:
            one, told = single[missing[at]]
            self.journal.add(self.entry(keys[missing[at]], [one], [told], [[found[0]]], read=found[1], flops=0.0))

        def ask(at: int, stop: threading.Event) -> tuple[Reply, int]:
            one, _ = single[missing[at]]
            return self._one(one.prompt, one.draws[0], max_new_tokens, temperature, stop)

        if missing:
            with self.around():
                at_once(len(missing), ask, keep, most=AT_ONCE)
        found = [self.journal.entries[key] for key in keys]
        replies = iter(entry["replies"][0][0] for entry in found)
        return {
            "read": sum(entry["read"] for entry in found),
            "replies": [[next(replies) for _ in a.draws] for a in asked],
        }

    def _one(
        self, prompt: Prompt, draw: str, max_new_tokens: int, temperature: float, stop: threading.Event
    ) -> tuple[Reply, int]:
        """(the answer, tokens that the server says it read)."""
        seed = int(hashlib.sha256(draw.encode()).hexdigest()[:8], 16) >> 1  # 31 bits: what servers take
        body: dict[str, Any] = {"model": self.spec.name, "max_tokens": max_new_tokens, "temperature": temperature}
        body["seed"] = seed
        if isinstance(prompt, Continue):
            path, body = "completions", {**body, "prompt": prompt.text}
        else:
            path, body = "chat/completions", {**body, "messages": _turns(prompt)}
        try:
            return self._read(self._post(path, body, stop), max_new_tokens)
        except _Refused as e:
            return Reply("", True, 0, refused=str(e)), 0

    def _read(self, said: Any, max_new_tokens: int) -> tuple[Reply, int]:
        """An answer out of a response. ModelError where it has another shape."""
        try:
            choice = said["choices"][0]
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            content, reason = message["content"], choice.get("finish_reason")
            usage = said.get("usage")
            if not isinstance(content, str | None):
                raise TypeError(f"content is {type(content).__name__}")
            refused = one_line(str(message.get("refusal") or ""))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise ModelError(
                f"the address answered in another shape ({type(e).__name__}: {e}): {json.dumps(said)[:200]}",
                where=str(self.spec.url),
                remedy="name an OpenAI-compatible address, such as http://localhost:8000/v1",
            ) from None
        if reason == "content_filter":
            refused = refused or "the address's filter kept it back"
        refused = f"refused: {refused}" if refused else ""
        text, most = content or "", max_new_tokens * LONGEST_TOKEN
        ended, text = reason != "length" and len(text) <= most, text[:most]
        if problem := lone_surrogate(text):
            text, refused = "", refused or f"it is no text: {problem.reason}"
        read, tokens = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        return Reply(text, ended, tokens, refused=refused), read

    def _post(self, path: str, body: Mapping[str, Any], stop: threading.Event) -> Any:
        """The response to one request, in JSON values. ModelError where there is none after every try, _Refused where
        this prompt gets none and others may.
        """
        url = f"{str(self.spec.url).rstrip('/')}/{path}"
        headers = {"Content-Type": "application/json", "User-Agent": "tunewright"}
        if self.spec.api_key_env:
            headers["Authorization"] = f"Bearer {key_of(self.spec, self.name)}"
        why = ""
        for attempt in range(TRIES):
            if stop.is_set():
                raise Stopped
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            pause = float(2**attempt)
            try:
                status, after, data = self._sent(request, body["max_tokens"])
            except (TimeoutError, urllib.error.URLError, OSError, http.client.HTTPException) as e:
                reason = getattr(e, "reason", e)
                late = isinstance(reason, TimeoutError)
                why = f"no answer within {self.spec.timeout:g} s" if late else f"no connection: {reason}"
            else:
                said, no_json = _values(data)
                if status < 300 and no_json:
                    raise self._failed(f"it answered what is no JSON: {no_json}", "name an OpenAI-compatible address")
                fault = fault_of(status, said, data)
                if fault is None:
                    return said
                if fault.refuses:
                    raise _Refused(fault.refuses)
                why = f"it answered {fault.status or 'an error'}: {fault.message}"
                if fault.status not in PASSING:
                    raise self._failed(
                        why,
                        _REMEDIES.get(
                            fault.status, "look at what it says; the model's name or a parameter may not suit it"
                        ),
                    )
                pause = _asked_for(after, pause)
            if attempt + 1 < TRIES:
                _wait(stop, min(pause, LONGEST_WAIT))
        raise self._failed(
            f"{why} ({TRIES} times in a row)",
            f"see that the address is up, or raise models.{self.name}.timeout; then `tunewright resume` the run: "
            "what was written is kept",
        )

    def _sent(self, request: urllib.request.Request, max_new_tokens: int) -> tuple[int, str | None, bytes]:
        """(status, Retry-After, body) of one response, whatever its status."""
        try:
            with _OPENER.open(request, timeout=self.spec.timeout) as response:
                return response.status, response.headers.get("Retry-After"), self._whole(response, max_new_tokens)
        except urllib.error.HTTPError as e:
            try:
                body = self._whole(e.fp, max_new_tokens)
            except (OSError, http.client.HTTPException):
                body = b""
            return e.code, e.headers.get("Retry-After"), body or str(e.reason).encode()

    def _whole(self, response: Any, max_new_tokens: int) -> bytes:
        """A response's body. ModelError where it is larger than any answer, TimeoutError where it only trickles in."""
        ends, parts, size = time.monotonic() + self.spec.timeout, list[bytes](), 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise self._failed(
                    f"its answer is larger than {LARGEST >> 20} MiB, and max_new_tokens {max_new_tokens} was asked for",
                    "see that the server heeds max_tokens (max_new_tokens of the method), or name another address",
                )
            if time.monotonic() > ends:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)

    def _failed(self, why: str, remedy: str) -> ModelError:
        return ModelError(f"'{self.name}' cannot be asked: {why}", where=str(self.spec.url), remedy=remedy)


_REMEDIES = {
    **dict.fromkeys((301, 302, 303, 307, 308), "write the address itself: none that it leads to is followed"),
    401: "set the environment variable that models' `api_key_env` names to a key that the address takes",
    403: "set the environment variable that models' `api_key_env` names to a key that may use this model",
    404: "see that url ends where /chat/completions begins (often /v1) and that it knows the model's name",
}
_wait = threading.Event.wait
"""A pause that ends when what is waited for is no longer wanted."""


class _Refused(Exception):
    """An address gives no answer to this prompt; others may get one."""


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key would go along to wherever it leads."""

    def redirect_request(self, *given: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stays)


def key_of(spec: ModelSpec, name: str) -> str:
    """The key that is sent to an address; "" where it asks for none. ModelError where the environment has none."""
    if spec.api_key_env is None:
        return ""
    key = os.environ.get(spec.api_key_env, "").strip()
    if not key:
        raise ModelError(
            f"the environment has no {spec.api_key_env}, which holds the key to '{name}'",
            where=f"models.{name}.api_key_env",
            remedy=f"export {spec.api_key_env}=...",
        )
    return key


def _turns(prompt: Prompt) -> list[dict[str, Any]]:
    """What is asked, as turns."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Record):
        return [dict(turn) for turn in prompt]  # type: ignore[union-attr]
    if "messages" in prompt:
        turns = [dict(turn) for turn in prompt["messages"]]
        return turns[:-1] if turns and turns[-1].get("role") == "assistant" else turns
    asked = prompt.get("prompt", prompt.get("text"))
    turns = [dict(t) for t in asked] if isinstance(asked, list) else [{"role": "user", "content": str(asked)}]
    system = prompt.get("system")
    return [{"role": "system", "content": system}, *turns] if isinstance(system, str) and system else turns


def _asked_for(header: str | None, otherwise: float) -> float:
    """Seconds that a server asks to wait, where it says a number."""
    try:
        return max(0.0, float(header)) if header else otherwise
    except ValueError:
        return otherwise


def _count(usage: Any, name: str) -> int:
    """Tokens that a server counted; 0 where it says no number."""
    value = usage.get(name) if isinstance(usage, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return 0
    return int(value)


def _values(data: bytes) -> tuple[Any, str]:
    """(a body's JSON values, "") or (None, why it has none)."""
    try:
        return json.loads(data), ""
    except (ValueError, RecursionError) as e:
        return None, str(e)
