"""A model that makes vectors of texts: `/v1/embeddings`."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tunewright.contract.batch import Row
from tunewright.contract.task import Task
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.serve.adapters import Library
from tunewright.serve.answers import Json
from tunewright.serve.errors import ApiError
from tunewright.serve.limits import Limits
from tunewright.serve.prompts import Prompts
from tunewright.serve.schemas import EmbeddingRequest
from tunewright.tasks.sentence_similarity import TEXT

MOST = 2048
"""Texts in one request, as OpenAI has it."""
ROWS = 32
"""Texts in one forward."""


class VectorServer:
    """One model of sentence-similarity. Requests take turns; a forward holds texts of about the same length."""

    kind = "vectors"

    def __init__(self, adapted: Adapted, tokenizer: Any, task: Task, name: str, limits: Limits | None = None):
        limits, config = limits or Limits(), adapted.model.config
        if tokenizer is None:
            raise ModelError("the model has no tokenizer", remedy="put one into its folder")
        known = min(getattr(config, "max_position_embeddings", None) or 1 << 30, tokenizer.model_max_length)
        self.limits = replace(limits, max_length=min(limits.max_length, int(known)))
        self.adapted, self.task, self.name, self.started = adapted, task, name, int(time.time())
        self.library = Library(adapted, name)
        embedding: Any = adapted.model.get_input_embeddings()  # type: ignore[operator]
        self.prompts = Prompts(tokenizer, embedding.num_embeddings)
        self._turn, self._waiting = threading.Lock(), threading.Semaphore(self.limits.queue)

    def __enter__(self) -> VectorServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Nothing runs between requests."""

    @property
    def load(self) -> dict[str, int]:
        """Nothing is counted of a model whose requests take turns."""
        return {}

    def embed(self, asked: EmbeddingRequest) -> Json:
        """Vectors of a request's texts, in their order. ApiError where they cannot be made."""
        self.library.find(asked.model)
        texts = self.prompts.plain(asked.input, "input")
        if len(texts) > MOST:
            raise ApiError(400, f"A request has at most {MOST} texts.", param="input")
        if longest := [len(t) for t in texts if len(t) > self.limits.max_length]:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.limits.max_length} tokens, and a text has {longest[0]}.",
                param="input",
                code="context_length_exceeded",
            )
        if not self._waiting.acquire(blocking=False):
            raise ApiError(429, f"{self.limits.queue} requests wait already. Try again in a while.", code="queue_full")
        try:
            with self._turn:
                vectors = self._vectors(texts)
        finally:
            self._waiting.release()
        if asked.dimensions is not None and asked.dimensions != vectors.shape[1]:
            raise ApiError(400, f"This model's vectors have {vectors.shape[1]} numbers.", param="dimensions")
        data = [
            {"object": "embedding", "index": i, "embedding": _written(v, asked.encoding_format)}
            for i, v in enumerate(vectors)
        ]
        tokens = sum(map(len, texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": asked.model, "usage": usage}

    def _vectors(self, texts: Sequence[list[int]]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts, task = [], self.task
        with torch.no_grad():
            for some in (order[k : k + ROWS] for k in range(0, len(order), ROWS)):
                batch = task.collate([_row(texts[i]) for i in some]).to(self.adapted.device)
                made = task.forward(self.adapted.model, batch).embeddings
                assert made is not None
                parts.append(made.float().cpu())
        vectors = torch.cat(parts).numpy()
        out = np.empty_like(vectors)
        out[order] = vectors
        return out


def _row(ids: list[int]) -> Row:
    """A text as a row of the task."""
    fields: dict[str, Any] = {"kind": TEXT, "lengths": [len(ids)], "keys": [0], "target": 0.0, "tail": 0}
    return Row("text", "text", ids, [1.0], fields={**fields, "text": "", "reference": ""})


def _written(vector: np.ndarray, how: str) -> list[float] | str:
    if how == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(x) for x in vector]
