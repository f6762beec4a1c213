"""A writer behind an OpenAI-compatible address: `chat/completions` for questions, `completions` for a text to go on.

Each answer is one request, `AT_ONCE` of them at a time. What may pass (a time limit, 408, 409, 429, 5xx, a connection
that breaks) is tried again, `TRIES` times in all, after 1, 2, 4 ... seconds or as long as Retry-After says; what does
not pass ends the run with one message, and what was written before is in the journal. The key is read from the
environment when it is sent, and written nowhere.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tunewright.contract.records import Record
from tunewright.contract.writer import Asked, Continue, Prompt, Reply, Writer
from tunewright.errors import ModelError
from tunewright.recipe import ModelSpec

AT_ONCE = 8
TRIES = 5
LONGEST_WAIT = 60.0
LARGEST = 16 * 2**20
"""Bytes of one response, at most: what an address sends is never kept without an end."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers of a server that may be others a little later."""


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

    def _write(self, asked: Sequence[Asked], max_new_tokens: int, temperature: float) -> tuple[list[list[Reply]], int]:
        wanted = [(a.prompt, draw) for a in asked for draw in a.draws]
        with ThreadPoolExecutor(min(AT_ONCE, len(wanted))) as pool:
            found = list(pool.map(lambda one: self._one(one[0], one[1], max_new_tokens, temperature), wanted))
        replies = iter(reply for reply, _ in found)
        return [[next(replies) for _ in a.draws] for a in asked], sum(read for _, read in found)

    def _one(self, prompt: Prompt, draw: str, max_new_tokens: int, temperature: float) -> tuple[Reply, int]:
        """(the answer, tokens that the server says it read)."""
        seed = int(hashlib.sha256(draw.encode()).hexdigest()[:8], 16) >> 1  # 31 bits: what servers take
        body: dict[str, Any] = {"model": self.spec.name, "max_tokens": max_new_tokens, "temperature": temperature}
        body["seed"] = seed
        if isinstance(prompt, Continue):
            return self._read(self._post("completions", {**body, "prompt": prompt.text}))
        return self._read(self._post("chat/completions", {**body, "messages": _turns(prompt)}))

    def _read(self, said: Any) -> tuple[Reply, int]:
        """An answer out of a response. ModelError where it has another shape."""
        try:
            choice = said["choices"][0]
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            content, reason = message["content"], choice.get("finish_reason")
            usage = said.get("usage") or {}
            read, tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            if not isinstance(content, str | None):
                raise TypeError(f"content is {type(content).__name__}")
            refused = str(message.get("refusal") or "")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
            raise ModelError(
                f"the address answered in another shape ({type(e).__name__}: {e}): {json.dumps(said)[:200]}",
                where=str(self.spec.url),
                remedy="name an OpenAI-compatible address, such as http://localhost:8000/v1",
            ) from None
        if reason == "content_filter":
            refused = refused or "the address's filter kept it back"
        return Reply(content or "", reason != "length", tokens, refused=f"refused: {refused}" if refused else ""), read

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The response to one request, in JSON values. ModelError where there is none after every try."""
        url = f"{str(self.spec.url).rstrip('/')}/{path}"
        headers = {"Content-Type": "application/json", "User-Agent": "tunewright"}
        if self.spec.api_key_env:
            headers["Authorization"] = f"Bearer {key_of(self.spec, self.name)}"
        why = ""
        for attempt in range(TRIES):
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            pause = float(2**attempt)
            try:
                with _OPENER.open(request, timeout=self.spec.timeout) as response:
                    return json.loads(self._whole(response))
            except urllib.error.HTTPError as e:
                why = f"it answered {e.code}: {_said(e)}"
                if e.code not in PASSING:
                    raise self._failed(
                        why,
                        _REMEDIES.get(e.code, "look at what it says; the model's name or a parameter may not suit it"),
                    ) from None
                pause = _asked_for(e.headers.get("Retry-After"), pause)
            except (ValueError, RecursionError) as e:  # a body that is no JSON
                raise self._failed(f"it answered what is no JSON: {e}", "name an OpenAI-compatible address") from None
            except (TimeoutError, urllib.error.URLError, OSError, http.client.HTTPException) as e:
                reason = getattr(e, "reason", e)
                late = isinstance(reason, TimeoutError)
                why = f"no answer within {self.spec.timeout:g} s" if late else f"no connection: {reason}"
            if attempt + 1 < TRIES:
                _wait(min(pause, LONGEST_WAIT))
        raise self._failed(
            f"{why} ({TRIES} times in a row)",
            f"see that the address is up, or raise models.{self.name}.timeout; then `tunewright resume` the run: "
            "what was written is kept",
        )

    def _whole(self, response: Any) -> bytes:
        """A response's body. ModelError where it is larger than any answer, TimeoutError where it only trickles in."""
        ends, parts, size = time.monotonic() + self.spec.timeout, list[bytes](), 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise self._failed(
                    f"its answer is larger than {LARGEST >> 20} MiB", "name an OpenAI-compatible address"
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
_wait = time.sleep


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


def _said(error: urllib.error.HTTPError) -> str:
    """The first words of what came with an error."""
    try:
        text = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    return " ".join(text.split())[:200] or str(error.reason)
