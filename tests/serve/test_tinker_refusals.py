"""What training loops may not ask, what is asked twice, and how much of it there may be."""

from __future__ import annotations

import copy
import threading

import httpx
import pytest
import tinker
import torch
from tinker import types

from tests import tiny
from tests.serve.loops import client, client_of, data, datum, loops, own, running, trains, weights
from tunewright.serve.errors import ApiError
from tunewright.serve.tinker import service

__all__ = ["client", "loops"]


def post(address, path, **how):
    return httpx.post(f"{address}/api/v1/{path}", timeout=300, **how)


def bad_datum(**given):
    d = datum(0, 4)
    inputs = {k: v for k, v in d.loss_fn_inputs.items() if given.get(k, 0) is not None}
    return types.Datum(
        model_input=d.model_input, loss_fn_inputs={**inputs, **{k: v for k, v in given.items() if v is not None}}
    )


@pytest.mark.parametrize(
    ("one", "loss", "said"),
    [
        (bad_datum(target_tokens=[1, 2, 3, 4000]), "cross_entropy", "no token"),
        (bad_datum(target_tokens=[1, 2, 3]), "cross_entropy", "3"),
        (bad_datum(target_tokens=None), "cross_entropy", "no 'target_tokens'"),
        (bad_datum(weights=[1.0, float("nan"), 1.0, 1.0]), "cross_entropy", "not finite"),
        (bad_datum(), "ppo", "no 'logprobs'"),
        (bad_datum(), "gspo", "loss_fn is one of"),
        (types.Datum(types.ModelInput.from_ints([]), {}), "cross_entropy", "0 tokens"),
        (types.Datum(types.ModelInput.from_ints([5000]), {}), "cross_entropy", "no token"),
        (types.Datum(types.ModelInput.from_ints([9] * 300), {}), "cross_entropy", "300 tokens"),
    ],
)
def test_data_that_cannot_be_learnt_from(loops, client, one, loss, said):
    training = trains(client)
    with pytest.raises(tinker.APIStatusError, match=said):
        training.forward_backward([one], loss).result()
    assert all(p.grad is None for p in own(loops, training).parameters)


def test_a_request_that_is_sent_again_is_done_once(loops, client):
    from tinker.proto.request_conv import forward_backward_request_to_proto
    from tinker.types.forward_backward_input import ForwardBackwardInput
    from tinker.types.forward_backward_request import ForwardBackwardRequest

    training = trains(client)
    asked = ForwardBackwardRequest(ForwardBackwardInput(data(0), "cross_entropy"), training.model_id, 1)
    body = forward_backward_request_to_proto(asked).SerializeToString()
    numbers = {post(loops[1], "forward_backward", content=body).json()["request_id"] for _ in range(3)}
    (number,) = numbers
    assert post(loops[1], "retrieve_future", json={"request_id": number}).status_code == 200
    once = [p.grad.clone() for p in own(loops, training).parameters]
    other = trains(client)
    other.forward_backward(data(0), "cross_entropy").result()
    assert all(torch.equal(a, p.grad) for a, p in zip(once, own(loops, other).parameters, strict=True))


def test_paths_and_bodies_that_nobody_gave(loops, client):
    address, training = loops[1], trains(client)
    model = training.model_id
    for path in (
        "tinker://../weights/x",
        f"tinker://{model}/weights/../../x",
        f"tinker://{model}/other/x",
        "/etc/passwd",
    ):
        body = {"model_id": model, "path": path, "optimizer": False}
        assert post(address, "load_weights", json=body).status_code == 400
        body = {"session_id": model.partition(":")[0], "sampling_session_seq_id": 0, "model_path": path}
        assert post(address, "create_sampling_session", json=body).status_code == 400
    for name in ("../x", "a/b", "", ".", "x" * 200):
        assert post(address, "save_weights", json={"model_id": model, "path": name}).status_code == 400
    with pytest.raises(tinker.RequestFailedError, match="no such weights"):
        client.create_training_client_from_state(f"tinker://{model}/weights/never").result()
    for path in ("create_model", "optim_step", "asample", "retrieve_future", "load_weights", "get_info"):
        for body in (b"", b"{", b"[]", b'{"model_id": 1}', b"[" * 50_000):
            assert post(address, path, content=body).status_code == 400
    for body in (b"\xff\xff\xff", b"", b"\x0a\x03abc"):
        assert post(address, "forward_backward", content=body).status_code in (400, 404)
    assert post(address, "retrieve_future", json={"request_id": "req-1"}).status_code == 404
    adam = {"learning_rate": -1.0}
    assert post(address, "optim_step", json={"model_id": model, "adam_params": adam}).status_code == 400


def test_what_is_not_finite_leaves_the_change_as_it_was(loops, client):
    training = trains(client)
    before = weights(own(loops, training))
    with pytest.raises(tinker.RequestFailedError, match="not finite"):
        training.forward_backward([datum(1, weights=[3e38] * 9)], "cross_entropy").result()
    assert all(p.grad is None for p in own(loops, training).parameters)
    assert all(torch.equal(before[n], t) for n, t in weights(own(loops, training)).items())
    training.forward_backward(data(0), "cross_entropy").result()


def test_models_and_samplers_are_bounded_and_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "MOST_MODELS", 2)
    monkeypatch.setattr(service, "MOST_SAMPLERS", 2)
    with running(tmp_path) as given:
        client = client_of(given[1])
        kept = [trains(client), trains(client)]
        with pytest.raises(tinker.RequestFailedError, match="train already"):
            trains(client)
        for _ in range(4):
            kept[0].save_weights_and_get_sampling_client().result()
        assert len(given[0]._samplers) == 2 and len(given[0].server.library.names()) == 2
        session = kept[0].model_id.partition(":")[0]
        assert post(given[1], f"sessions/{session}/finish", json={}).status_code == 200
        assert not given[0]._models
        assert post(given[1], "session_heartbeat", json={"session_id": session}).status_code == 410
        trains(client_of(given[1]))


def test_what_waits_at_the_end_is_told(tmp_path):
    with running(tmp_path) as given:
        began, go = threading.Event(), threading.Event()

        def slow():
            began.set()
            go.wait(300)
            return {}

        first, *others = [given[0]._later(slow) for _ in range(4)]
        assert began.wait(300)
        futures = [given[0].result(n) for n in (first, *others)]
        stops = given[0]._stopping
        threading.Thread(target=lambda: stops.wait(300) and go.set()).start()
    assert futures[0].result(60) == {}
    for f in futures[1:]:
        with pytest.raises(ApiError, match="shutting down"):
            f.result(60)


def test_the_servers_key_is_asked_for(tmp_path):
    with running(tmp_path, api_key="tml-a-long-key") as (_, address):
        assert post(address, "create_session", json={}).status_code == 401
        assert post(address, "create_session", json={}, headers={"X-API-Key": "tml-a-long-keX"}).status_code == 401
        found = tinker.ServiceClient(base_url=address, api_key="tml-a-long-key")
        assert trains(found).model_id


def test_a_copy_of_modules_holds_no_copy_of_weights():
    from tunewright.serve.tinker.learner import shared

    model = tiny.llama()
    other = shared(model)
    assert other is not model and all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert copy.deepcopy(model).lm_head.weight is not model.lm_head.weight
