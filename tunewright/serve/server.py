"""One base, its adapters and its engine, and what a request becomes for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunewright.errors import MethodError, ModelError
from tunewright.loading.load import Loaded
from tunewright.measure import _kv
from tunewright.measure.calls import Form
from tunewright.measure.generate import stop_ids
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.serve.adapters import Library, Variant
from tunewright.serve.engine import Engine
from tunewright.serve.errors import ApiError
from tunewright.serve.guided import Guides
from tunewright.serve.limits import Limits
from tunewright.serve.prompts import Prompts
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.schemas import ChatRequest, CompletionRequest

UNASKED = 1024
"""Most tokens of a chat's answer where the request does not say."""


@dataclass
class Asked:
    """Requests to the engine that answer one of a client's; `form`: how calls of tools are written, `calls`: at most so
    many of them (None: all).
    """

    requests: list[Request]
    form: Form | None = None
    calls: int | None = None


class Server:
    """`name` is what the base is called by; `adapted`: the model, where it is not as it was loaded. A context: the
    engine runs inside. `engine` makes another one than ours, of the limits and of what gives an adapter's folder.
    """

    kind = "text"

    def __init__(
        self,
        loaded: Loaded,
        name: str,
        root: Path | None = None,
        limits: Limits | None = None,
        *,
        adapted: Adapted | None = None,
        engine: Callable[[Limits, Callable[[str], Path]], Any] | None = None,
    ):
        model: Any = loaded.model
        if engine is None and not _kv.caches_plainly(model):
            raise ModelError(
                f"a {type(model).__name__} keeps more than keys and values of its tokens, or reads a window of them, "
                "so that many rows cannot share a step here",
                remedy="ask it with `tunewright chat`, or serve it with another engine",
            )
        if loaded.tokenizer is None:
            raise ModelError("the model has no tokenizer", remedy="put one into its folder")
        limits = limits or Limits()
        known = getattr(model.config, "max_position_embeddings", None)
        self.limits = replace(limits, max_length=min(limits.max_length, int(known))) if known else limits
        self.name, self.started, self.tokenizer = name, int(time.time()), loaded.tokenizer
        self.prompts = Prompts(loaded.tokenizer, model.get_input_embeddings().num_embeddings)
        self.ends = frozenset(stop_ids(model, loaded.tokenizer))
        self.guides = Guides(loaded.tokenizer, self.ends, model.get_output_embeddings().weight.shape[0])
        adapted = adapted or loaded.adapted()
        expected = _alone(model) if engine is None else None
        self.library = Library(adapted, name, root, limit=self.limits.adapter_bytes)
        self.engine: Any = (engine or _ours(adapted))(self.limits, self.library.folder_of)
        if expected is not None:
            self._check(expected)

    def _check(self, expected: torch.Tensor) -> None:
        """MethodError where a step says otherwise than the model alone does."""
        model = self.engine.model.model
        if not agrees(self.engine.probe(_probe(model)), expected, next(model.parameters()).dtype):
            raise MethodError(
                f"a {type(model).__name__} answers otherwise when rows share a step",
                remedy="ask it with `tunewright chat`, or serve it with another engine",
            )

    def __enter__(self) -> Server:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more requests, and tell those who wait; again is nothing."""
        self.engine.stop()

    @property
    def load(self) -> dict[str, int]:
        """How much there is to do."""
        return self.engine.load

    def chat(self, asked: ChatRequest) -> Asked:
        """Read a request for a chat completion. ApiError where it cannot be served."""
        variant = self.library.find(asked.model)
        tools = asked.tools if asked.tools and asked.tool_choice != "none" else None
        prompt, form = self.prompts.chat(asked.messages, tools)
        room = self.limits.max_length - len(prompt) - (0 if variant is None else variant.ahead)
        most = asked.most or max(1, min(UNASKED, room))
        shown = (asked.top_logprobs or 0) if asked.logprobs else None
        if tools and asked.response_format is not None and asked.response_format.type != "text":
            raise ApiError(400, "response_format and tools cannot be served together.", param="response_format")
        request = self._request(asked, prompt, variant, most, shown, special=form is not None)
        calls = 1 if asked.parallel_tool_calls is False else None
        return Asked([replace(request, guide=self.guides.make(asked.response_format))], form, calls)

    def completion(self, asked: CompletionRequest) -> Asked:
        """Read a request for completions of one prompt or several. ApiError where it cannot be served."""
        variant = self.library.find(asked.model)
        prompts = self.prompts.plain(asked.prompt, "prompt")
        return Asked([self._request(asked, p, variant, asked.max_tokens, asked.logprobs) for p in prompts])

    def _request(
        self,
        asked: ChatRequest | CompletionRequest,
        prompt: Sequence[int],
        variant: Variant | None,
        most: int,
        logprobs: int | None,
        *,
        special: bool = False,
    ) -> Request:
        bias = asked.logit_bias or {}
        if bad := [t for t in bias if not 0 <= t < self.prompts.vocabulary]:
            raise ApiError(400, f"{bad[0]} is no token: there are {self.prompts.vocabulary}.", param="logit_bias")
        sampling = Sampling(
            most,
            asked.temperature,
            asked.top_p,
            asked.seed,
            asked.stops,
            self.ends,
            logprobs,
            asked.presence_penalty,
            asked.frequency_penalty,
            bias,
        )
        field = "messages" if isinstance(asked, ChatRequest) else "prompt"
        return Request(prompt, sampling, variant, asked.n, special, self.limits.seconds, field=field)


def _ours(adapted: Adapted) -> Callable[[Limits, Callable[[str], Path]], Engine]:
    return lambda limits, _: Engine(adapted, limits)


def _probe(model: Any) -> list[int]:
    """A few tokens of any vocabulary."""
    return [i % model.get_input_embeddings().num_embeddings for i in range(5, 16)]


def _alone(model: Any) -> torch.Tensor:
    """The logits [V] after a few tokens, by the model itself."""
    with torch.no_grad():
        ids = torch.tensor([_probe(model)], device=next(model.parameters()).device)
        return model(input_ids=ids, use_cache=False).logits[0, -1].float()  # type: ignore[no-any-return]
