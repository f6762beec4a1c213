"""`/v1/embeddings`: vectors of a sentence-similarity model, as the task itself makes them."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
import torch
from transformers import BertModel

from tests import tiny
from tests.serve import serving
from tunewright.models.adapted import Adapted
from tunewright.models.pooling import pooled
from tunewright.serve.limits import Limits
from tunewright.serve.vectors import VectorServer
from tunewright.tasks import get_task

TEXTS = ["the river rose", "a user and an assistant talk", "In 1999"]


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(tiny._bert(2, 32)).eval()


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    server = VectorServer(
        Adapted(bert()), tiny.tokenizer(), get_task("sentence-similarity"), "tiny", Limits(max_length=40)
    )
    with serving.serving(server) as address:
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def alone(text: str) -> torch.Tensor:
    ids = torch.tensor([tiny.tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        states = bert()(ids).last_hidden_state
    return pooled(states, torch.ones_like(ids), {"pooling": "mean", "normalize": True})[0]


def test_vectors_are_those_of_each_text_alone(client: openai.OpenAI) -> None:
    for form in ("float", "base64"):
        got = client.embeddings.create(model="tiny", input=TEXTS, encoding_format=form)  # type: ignore[call-overload]
        assert [e.index for e in got.data] == [0, 1, 2]
        for text, one in zip(TEXTS, got.data, strict=True):
            if form == "float":
                vector = torch.tensor(one.embedding)
            else:
                import base64

                import numpy as np

                vector = torch.from_numpy(np.frombuffer(base64.b64decode(one.embedding), "<f4").copy())
            torch.testing.assert_close(vector, alone(text), rtol=1e-4, atol=1e-5)
    lengths = [len(tiny.tokenizer()(t)["input_ids"]) for t in TEXTS]
    assert got.usage.prompt_tokens == sum(lengths)
    ids = tiny.tokenizer()(TEXTS[0])["input_ids"]
    by_ids = client.embeddings.create(model="tiny", input=ids).data[0].embedding
    torch.testing.assert_close(torch.tensor(by_ids), alone(TEXTS[0]), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_made_is_refused(client: openai.OpenAI) -> None:
    for how, says in (
        ({"input": "river " * 60}, "maximum context length is 40"),
        ({"input": []}, "nothing in 'input'"),
        ({"input": "a", "dimensions": 7}, "have 32 numbers"),
        ({"input": [99999]}, "is no token"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            client.embeddings.create(model="tiny", **how)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="makes vectors of texts"):
        client.completions.create(model="tiny", prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")
    assert [m.id for m in client.models.list()] == ["tiny"]


def test_a_model_that_writes_makes_no_vectors() -> None:
    with serving.served() as (_, address):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="writes text"):
            client.embeddings.create(model="tiny", input="a")
