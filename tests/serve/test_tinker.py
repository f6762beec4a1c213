"""Tinker's protocol through its real client: three steps are PEFT's, clients do not disturb one another, weights come
back.
"""

from __future__ import annotations

import threading

import numpy as np
import peft
import pytest
import tinker
import torch
from tinker import types

from tests import tiny
from tests.serve.loops import ADAM, client, client_of, data, datum, loops, own, running, trains, weights
from tests.serve.serving import BASE, loaded
from tunewright.measure.generate import greedy
from tunewright.models import deltas as forms
from tunewright.models.agreement import agrees
from tunewright.serve.errors import ApiError
from tunewright.serve.tinker.learner import Learner, Shape

__all__ = ["client", "loops"]


def test_three_steps_are_pefts(loops, client):
    training = trains(client, train_unembed=False)
    change = own(loops, training)
    config = peft.LoraConfig(r=3, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    model = peft.get_peft_model(tiny.llama(), config)
    theirs = dict(model.named_parameters())
    for name, value in weights(change).items():
        site, _, part = name.partition("/")
        theirs[f"base_model.model.{site}.{part}.default.weight"].data.copy_(value)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    for step in range(3):
        result = training.forward_backward(data(step), "cross_entropy").result()
        total = 0.0
        for d, said in zip(data(step), result.loss_fn_outputs, strict=True):
            ids = torch.tensor([d.model_input.to_ints()])
            shares = model(input_ids=ids).logits[0].log_softmax(-1)
            own_shares = shares.gather(-1, torch.tensor(d.loss_fn_inputs["target_tokens"].tolist())[:, None])[:, 0]
            assert agrees(torch.tensor(said["logprobs"].tolist()), own_shares.detach())
            total = total - (own_shares * torch.tensor(d.loss_fn_inputs["weights"].tolist())).sum()
        assert result.metrics["loss:sum"] == pytest.approx(float(total), rel=1e-4)
        total.backward()
        gradients = {
            n: p.grad for s, d in change.deltas.items() for n, p in ((f"{s}/{k}", p) for k, p in d.named_parameters())
        }
        for name, g in gradients.items():
            site, _, part = name.partition("/")
            torch.testing.assert_close(
                g, theirs[f"base_model.model.{site}.{part}.default.weight"].grad, rtol=1e-3, atol=1e-4
            )
        norm = torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        optimizer.zero_grad()
        told = training.optim_step(types.AdamParams(**ADAM)).result()
        assert told.metrics["grad_norm:mean"] == pytest.approx(float(norm), rel=1e-3)
    for name, value in weights(change).items():
        site, _, part = name.partition("/")
        torch.testing.assert_close(
            value, theirs[f"base_model.model.{site}.{part}.default.weight"].detach(), rtol=1e-3, atol=1e-4
        )


def alone(loops, client, seed):
    training = trains(client, seed=seed, rank=2 + seed)
    for step in range(3):
        training.forward_backward(data(step + seed), "cross_entropy").result()
        training.optim_step(types.AdamParams(**ADAM)).result()
    return weights(own(loops, training))


def test_two_clients_at_once_do_not_disturb_each_other(loops):
    clients = [client_of(loops[1]) for _ in range(2)]
    wanted = [alone(loops, clients[0], seed) for seed in (1, 2)]
    got: dict[int, dict] = {}
    threads = [
        threading.Thread(target=lambda c=c, s=s: got.update({s: alone(loops, c, s)}))
        for c, s in zip(clients, (1, 2))  # noqa: B905
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(600)
    for seed, before in zip((1, 2), wanted, strict=True):
        assert all(torch.equal(before[n], got[seed][n]) for n in before)


def test_the_base_that_answers_is_never_touched(loops, client):
    before = {n: p.clone() for n, p in loops[0].server.engine.model.model.named_parameters()}
    alone(loops, client, 1)
    model = loops[0].server.engine.model.model
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    shared = {p.data_ptr() for p in loops[0].learner.adapted.model.parameters()}
    assert {p.data_ptr() for p in model.parameters()} == shared  # in memory once
    assert not loops[0].learner.adapted.deltas()


def test_gradients_add_up_and_forward_alone_adds_none(loops, client):
    training = trains(client)
    training.forward(data(0), "cross_entropy").result()
    assert all(p.grad is None for p in own(loops, training).parameters)
    training.forward_backward(data(0)[:1], "cross_entropy").result()
    training.forward_backward(data(0)[1:], "cross_entropy").result()
    split = [p.grad.clone() for p in own(loops, training).parameters]
    other = trains(client)
    other.forward_backward(data(0), "cross_entropy").result()
    for a, b in zip(split, (p.grad for p in own(loops, other).parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(tinker.RequestFailedError, match="no gradient"):
        trains(client).optim_step(types.AdamParams()).result()


def policy(loss: str, training, config=None):
    d = datum(3, 6)
    targets = d.loss_fn_inputs["target_tokens"]
    old, gain = np.linspace(-6, -3, 6).astype(np.float32), np.array([1, -1, 2, 0.5, -2, 1], dtype=np.float32)
    given = {"target_tokens": targets, "logprobs": old.tolist(), "advantages": gain.tolist()}
    one = types.Datum(model_input=d.model_input, loss_fn_inputs=given)
    result = training.forward_backward([one], loss, config).result()
    return result, np.array(result.loss_fn_outputs[0]["logprobs"].tolist()), old, gain


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo"])
def test_losses_of_a_policy_by_hand(loops, client, loss):
    training = trains(client)
    config = {"clip_low_threshold": 0.7, "clip_high_threshold": 1.5}
    result, new, old, gain = policy(loss, training, config)
    r = np.exp(new - old)
    clipped = r.clip(0.7, 1.5)
    wanted = {
        "importance_sampling": -(r * gain),
        "ppo": -np.minimum(r * gain, clipped * gain),
        "cispo": -(clipped * gain * new),
    }[loss].sum()
    assert result.metrics["loss:sum"] == pytest.approx(float(wanted), rel=1e-4)
    # d loss / d log p, as weights of the plain loss
    slope = {
        "importance_sampling": r * gain,
        "ppo": np.where(r * gain <= clipped * gain, r * gain, 0.0),
        "cispo": clipped * gain,
    }[loss]
    other = trains(client)
    plain = datum(3, 6, weights=slope.astype(np.float32).tolist())
    other.forward_backward([plain], "cross_entropy").result()
    for a, b in zip(own(loops, training).parameters, own(loops, other).parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    far = policy(loss, trains(client))[0].metrics["loss:sum"]  # the usual bounds
    assert loss == "importance_sampling" or far != result.metrics["loss:sum"]


def test_a_loss_of_the_clients_own(loops, client):
    training = trains(client)

    def square(data, logprobs):
        total = sum((x**2).sum() for x in logprobs)
        return total, {"own:sum": float(total)}

    result = training.forward_backward_custom(data(0), square).result()
    assert result.metrics["own:sum"] > 0
    assert any(float(p.grad.abs().max()) > 0 for p in own(loops, training).parameters)


def test_what_is_sampled_is_what_the_tuned_model_says(loops, client):
    training = trains(client)
    for _ in range(3):
        training.forward_backward(data(0), "cross_entropy").result()
        training.optim_step(types.AdamParams(learning_rate=0.05)).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    saved = own(loops, training).copied()
    training.forward_backward(data(1), "cross_entropy").result()
    training.optim_step(types.AdamParams(learning_rate=0.5)).result()  # the sampler stays as it was
    prompt = [1, 20, 33, 47]
    params = types.SamplingParams(max_tokens=8, temperature=0.0)
    out = sampler.sample(types.ModelInput.from_ints(prompt), 2, params).result()
    adapted = loaded().adapted()
    for site, delta in saved.items():
        forms.attach(adapted.structure.site(site), "a", delta)
    with adapted.at_strength(1.0) as model:
        wanted = greedy(model, tiny.tokenizer(), [prompt], 8)[0]
        ids = torch.tensor([[*prompt, *wanted]])
        shares = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].detach()
    assert [list(s.tokens) for s in out.sequences] == [wanted, wanted]
    assert out.sequences[0].logprobs == pytest.approx(shares[len(prompt) - 1 :].tolist(), abs=1e-3)
    told = sampler.compute_logprobs(types.ModelInput.from_ints([*prompt, *wanted])).result()
    assert told[0] is None and told[1:] == pytest.approx(shares.tolist(), abs=1e-3)
    plain = client.create_sampling_client(base_model=BASE).result()
    base = plain.sample(types.ModelInput.from_ints(prompt), 1, params).result().sequences[0].tokens
    assert list(base) == greedy(tiny.llama(), tiny.tokenizer(), [prompt], 8)[0] != wanted
    short = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[wanted[1]])
    ended = sampler.sample(types.ModelInput.from_ints(prompt), 1, short).result().sequences[0]
    assert list(ended.tokens) == wanted[: wanted.index(wanted[1]) + 1] and ended.stop_reason == "stop"


def test_weights_come_back_with_their_optimizer_and_without(loops, client):
    training = trains(client)

    def step(t, i):
        t.forward_backward(data(i), "cross_entropy").result()
        t.optim_step(types.AdamParams(**ADAM)).result()

    step(training, 0)
    path = training.save_state("first").result().path
    assert path == f"tinker://{training.model_id}/weights/first"
    step(training, 1)
    whole = weights(own(loops, training))
    again = client.create_training_client_from_state_with_optimizer(path).result()
    step(again, 1)
    assert all(torch.equal(whole[n], t) for n, t in weights(own(loops, again)).items())
    fresh = client.create_training_client_from_state(path).result()
    step(fresh, 1)
    assert not all(torch.equal(whole[n], t) for n, t in weights(own(loops, fresh)).items())
    with pytest.raises(tinker.RequestFailedError, match="give another name, or overwrite"):
        training.save_state("first").result()
    training.save_state("first", overwrite=True).result()
    sampler = training.save_weights_for_sampler("s").result().path
    found = client.create_sampling_client(model_path=sampler).result()
    params = types.SamplingParams(max_tokens=4, temperature=0.0)
    tokens = found.sample(types.ModelInput.from_ints([1, 9]), 1, params).result().sequences[0].tokens
    direct = training.save_weights_and_get_sampling_client().result()
    assert list(tokens) == list(
        direct.sample(types.ModelInput.from_ints([1, 9]), 1, params).result().sequences[0].tokens
    )


def test_which_layers_train(tmp_path):
    sites = {}
    for tied in (False, True):
        learner = Learner(tiny.llama(tied=tied))
        for name, shape in {
            "all": Shape(7),
            "mlp": Shape(7, True, False, False),
            "attention": Shape(7, False, True, False),
        }.items():
            change = learner.begin(shape, 0)
            sites[tied, name] = set(change.deltas)
            assert all(d.state_dict()["lora_A"].shape[0] == 7 for d in change.deltas.values())
        with pytest.raises(ApiError, match="No layer"):
            learner.begin(Shape(2, False, False, False), 0)
    inside = sites[False, "mlp"] | sites[False, "attention"]
    assert (
        sites[False, "all"] - inside == {"lm_head"} and sites[True, "all"] == inside
    )  # a tied head has no weight of its own
    assert not sites[False, "mlp"] & sites[False, "attention"] and all("mlp" in s for s in sites[False, "mlp"])


def test_a_head_of_its_own_is_trained_and_served(tmp_path):
    with running(tmp_path, model=tiny.llama(tied=False)) as given:
        client = client_of(given[1])
        training = trains(client)
        training.forward_backward(data(0), "cross_entropy").result()
        training.optim_step(types.AdamParams(learning_rate=0.1)).result()
        sampler = training.save_weights_and_get_sampling_client().result()
        params = types.SamplingParams(max_tokens=6, temperature=0.0)
        said = list(sampler.sample(types.ModelInput.from_ints([1, 20]), 1, params).result().sequences[0].tokens)
        told = sampler.compute_logprobs(types.ModelInput.from_ints([1, 20, *said])).result()
        deltas = own(given, training).copied()
        assert "lm_head" in deltas
        adapted = loaded(tiny.llama(tied=False)).adapted()
        for site, delta in deltas.items():
            forms.attach(adapted.structure.site(site), "a", delta)
        with adapted.at_strength(1.0) as model:
            assert said == greedy(model, tiny.tokenizer(), [[1, 20]], 6)[0]
        assert told[0] is None
    with pytest.raises(tinker.APIError), running(tmp_path / "other") as given:
        client_of(given[1]).create_lora_training_client(base_model="other", rank=2).result()
