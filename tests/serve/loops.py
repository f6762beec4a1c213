"""A server of Tinker's protocol over a tiny base, and what its clients learn from."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path

import pytest
import tinker
import torch
from tinker import types

from tests.serve.jobs_serving import serving
from tests.serve.serving import BASE, loaded
from tunewright.serve.app import build
from tunewright.serve.server import Server
from tunewright.serve.tinker import pieces
from tunewright.serve.tinker.routes import BODY, TRAIN, routes
from tunewright.serve.tinker.service import Tinker

# its clients tell that their server is gone from threads that outlive the test, into whatever another one reads
logging.getLogger("tinker").propagate = False

ADAM = {"learning_rate": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.1, "grad_clip_norm": 5.0}


@contextmanager
def running(folder: Path, model=None, **how):
    server = Server(loaded(model), BASE, None)
    loops = Tinker(server, folder)
    app = build(server, extra_routes=routes(loops), beside=[loops], bodies={TRAIN: BODY}, **how)
    with serving(app) as address:
        yield loops, address


def client_of(address: str) -> tinker.ServiceClient:
    return tinker.ServiceClient(base_url=address, api_key="tml-nothing")


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Chunks of one size, so that gradients repeat to the bit: how long others are hangs on the clock."""
    with pytest.MonkeyPatch.context() as patch, running(tmp_path_factory.mktemp("tinker")) as given:
        patch.setattr(pieces, "MOST", pieces.LEAST)
        yield given


@pytest.fixture
def client(loops):
    return client_of(loops[1])


def trains(client, **how):
    return client.create_lora_training_client(base_model=BASE, **{"rank": 3, "seed": 1, **how}).result()


def datum(seed: int, length: int = 9, **given) -> types.Datum:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 200, (length + 1,), generator=g).tolist()
    inputs = {"target_tokens": ids[1:], "weights": [0.0, 0.0] + [1.0] * (length - 2), **given}
    return types.Datum(model_input=types.ModelInput.from_ints(ids[:-1]), loss_fn_inputs=inputs)


def data(step: int) -> list[types.Datum]:
    return [datum(10 * step + i, 5 + 2 * i) for i in range(3)]


def own(loops, training):
    """The server's own change behind a training client."""
    return loops[0]._models[training.model_id].change


def weights(change):
    return {f"{s}/{n}": t.detach().clone() for s, d in change.deltas.items() for n, t in d.state_dict().items()}
