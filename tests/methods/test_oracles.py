"""Methods through the slot that the loop calls, beside an oracle that uses nothing of theirs: plain loops, numpy."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.driving import Run
from tests.methods.test_preferences import rows
from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.method import Candidates, Needs, Plan, State
from tunewright.contract.pairs import PairRows
from tunewright.methods.adapters.corda import CorDA
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.objectives.asft import ASFT
from tunewright.methods.optimization.infinite_lr import InfiniteLR
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.parameter_selection.hft import HalfFineTuning
from tunewright.methods.parameter_selection.lift import LIFT
from tunewright.methods.preferences.dpo import DPO
from tunewright.methods.preferences.ipo import IPO
from tunewright.methods.preferences.kto_pair import KTOPair
from tunewright.methods.preferences.simpo import SimPO
from tunewright.methods.regularization.e2wm import ElasticLoRA
from tunewright.methods.reinforcement.exact_answer import ExactAnswer
from tunewright.methods.reinforcement.numeric_answer import NumericAnswer
from tunewright.tasks import get_task
from tunewright.training.rollouts import Sample


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- choose -----------------------------------------------------------------------------------------------------------


def beside_lora(**methods) -> Candidates:
    """What may be chosen of a model that carries LoRA's deltas."""
    return Candidates(Run({"lora": LoRA(rank=2), **methods}).adapted)


def test_full_chooses_every_parameter_of_base_and_deltas():
    candidates = beside_lora()
    assert len(candidates.deltas) == 28
    wanted = {n for n, _ in tiny.llama().named_parameters()} | set(candidates.deltas)
    assert set(FullFineTuning().choose(candidates).names) == wanted


def test_hft_chooses_deltas_and_what_stands_outside_of_blocks_in_every_round():
    candidates = beside_lora()
    chosen = HalfFineTuning(round_steps=3).choose(candidates, random.Random(0))
    outside = {n for n, _ in tiny.llama().named_parameters() if ".layers." not in n}
    assert outside and outside | set(candidates.deltas) <= set(chosen.names) and chosen.redraw_every == 3


def test_lift_chooses_the_largest_entries_of_each_matrix_cut_to_its_rank():
    rank, cut = 2, 3
    candidates = beside_lora()
    choice = LIFT(rank=rank, filter_rank=cut, refresh_steps=7).choose(candidates)
    assert choice.names == tuple(candidates.deltas) and (choice.redraw_every, choice.moments) == (7, "preserve")
    matrices = {n: p for n, p in tiny.llama().named_parameters() if ".layers." in n and p.dim() == 2}
    assert choice.entries.keys() == matrices.keys()
    other = 0
    for name, W in matrices.items():
        U, S, Vt = np.linalg.svd(W.detach().double().numpy(), full_matrices=False)
        R = np.abs((U[:, :cut] * S[:cut]) @ Vt[:cut]).ravel()
        count = rank * (W.shape[0] + W.shape[1])
        assert choice.entries[name].tolist() == sorted(np.argsort(-R, kind="stable")[:count].tolist()), name
        plain = np.argsort(-np.abs(W.detach().numpy().ravel()), kind="stable")[:count]
        other += set(plain.tolist()) != set(choice.entries[name].tolist())
    assert other == len(matrices), "the largest entries of the matrix itself are others"


# -- attach -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_rslora", [False, True])
def test_lora_adds_its_scaled_product_to_a_layers_output(use_rslora):
    run = Run({"lora": LoRA(rank=4, alpha=12, use_rslora=use_rslora, target_modules=["q_proj"])})
    name = "model.layers.1.self_attn.q_proj"
    delta = run.adapted.deltas()[name]["lora"]
    with torch.no_grad():
        delta.lora_B.copy_(normal(*delta.lora_B.shape))
    x, layer = normal(3, 32, seed=1), run.adapted.model.get_submodule(name)
    scale = 12 / math.sqrt(4) if use_rslora else 12 / 4
    wanted = x @ tiny.llama().get_submodule(name).weight.T + scale * x @ delta.lora_A.T @ delta.lora_B.T
    torch.testing.assert_close(layer(x), wanted)
    assert set(run.adapted.deltas()) == {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}


@pytest.mark.parametrize("mode", ["preview", "keep"])
def test_corda_starts_from_a_layers_components_under_its_inputs(mode):
    """The product taken off the weight, by numpy: the first or last r components of W C, times C^-1."""
    run = Run({"corda": CorDA(rank=4, mode=mode, data="train", samples=2)})
    site = run.adapted.structure.site("model.layers.0.mlp.up_proj")
    X = normal(200, site.in_features, seed=5) * torch.linspace(0.2, 3.0, site.in_features)  # inputs of unlike size
    C = X.T @ X
    needs, method = Needs({"input_covariance": {site.name: C}}), CorDA(rank=4, mode=mode)
    delta = method.attach(site, needs, run.state("corda"), random.Random(0))
    W = tiny.llama().get_submodule(site.name).weight.detach().double().numpy()
    raised = C.double().numpy() + 0.01 * float(C.diagonal().mean()) * np.eye(len(C))
    U, S, Vt = np.linalg.svd(W @ raised, full_matrices=False)
    part = slice(0, 4) if mode == "preview" else slice(len(S) - 4, len(S))
    wanted = (U[:, part] * S[part]) @ Vt[part] @ np.linalg.inv(raised)
    got = (delta.lora_B @ delta.lora_A).detach().double().numpy()
    np.testing.assert_allclose(got, wanted, atol=2e-4 * np.abs(wanted).max())


# -- reward -----------------------------------------------------------------------------------------------------------


def samples(reference: str, *said: str) -> list[Sample]:
    row = Row("r", "s", [1, 2], [0.0, 1.0], fields={"reference": reference})
    return [Sample(row, i, (3,), (-0.5,), text, True) for i, text in enumerate(said)]


def test_rewards_compare_what_was_said_with_the_rows_reference():
    exact = ExactAnswer(partial=0.5).reward(samples("blue sky", " blue  sky ", "blue", "green"))
    assert exact == pytest.approx([1.0, 0.5 * 4 / 8, 0.0])
    numeric = NumericAnswer(tolerance=0.5, near=0.4).reward(samples("it is 12", "3 or 12.5", "14", "none"))
    assert numeric == pytest.approx([1.0, 0.4 / 3, 0.0])


# -- objective --------------------------------------------------------------------------------------------------------


def pairs() -> tuple[Batch, Outputs, Tensor]:
    """A batch of six pairs, leaf logits of a vocabulary of 12, and the base's log-probabilities of the labels."""
    batch = get_task("text-generation").collate(PairRows(rows())[:])
    logits = normal(len(batch.labels), 12).requires_grad_()
    return batch, Outputs(logits, batch.labels % 12), -normal(len(batch.labels), seed=1).abs()


def answers(batch: Batch, values: Tensor, mean: bool = False) -> list[tuple[Tensor, Tensor]]:
    """(chosen, rejected) of each pair: the sum or mean of its own labels' values, label by label."""
    out = []
    for row in range(len(batch.row_ids)):
        places = list(zip(batch.rows.tolist(), batch.fields["pair"].tolist(), strict=True))
        sides = [[v for v, place in zip(values, places, strict=True) if place == (row, side)] for side in (0, 1)]
        out.append(tuple(sum(side) / (len(side) if mean else 1) for side in sides))
    return out


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log(1 + torch.exp(-x.double()))


def by_hand(name: str, batch: Batch, outputs: Outputs, reference: Tensor) -> list[Tensor]:
    """Each pair's loss as published; points of kto-pair are numbers, which carry no gradient."""
    own = torch.log_softmax(outputs.logits.double(), -1)[torch.arange(len(outputs.labels)), outputs.labels]
    ratios = own - reference.double()
    if name == "simpo":
        return [-log_sigmoid(2.5 * (c - r) - 0.7) for c, r in answers(batch, own, mean=True)]
    if name == "ipo":
        return [(c - r - 1 / 0.6) ** 2 for c, r in answers(batch, ratios)]
    if name == "ipo-average":
        return [(c - r - 1 / 0.6) ** 2 for c, r in answers(batch, ratios, mean=True)]
    if name == "dpo":
        return [-0.8 * log_sigmoid(0.3 * (c - r)) - 0.2 * log_sigmoid(0.3 * (r - c)) for c, r in answers(batch, ratios)]
    two = answers(batch, ratios)
    above, below = (max(0.0, sum(float(pair[side].detach()) for pair in two) / len(two)) for side in (0, 1))
    assert above > 0 and below > 0, "both points are at work"
    return [0.5 * (1 - torch.sigmoid(0.3 * (c - below))) + 0.5 * (1 - torch.sigmoid(0.3 * (above - r))) for c, r in two]


PREFERENCES = {
    "dpo": DPO(beta=0.3, label_smoothing=0.2),
    "ipo": IPO(tau=0.3),
    "ipo-average": IPO(tau=0.3, average=True),
    "kto-pair": KTOPair(beta=0.3),
    "simpo": SimPO(beta=2.5, gamma=0.7),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_are_the_published_losses_with_the_published_gradients(name):
    batch, outputs, reference = pairs()
    if name == "kto-pair":
        reference = reference - 3.0  # both answers likelier than under the base: both points are above 0
    method = PREFERENCES[name]
    offered = {} if name == "simpo" else {"needs": Needs({"reference_log_probs": reference})}
    got = method.objective(outputs, batch, **offered).value
    wanted = torch.stack(by_hand(name, batch, outputs, reference))
    wanted = wanted.mean() if name == "kto-pair" else wanted
    torch.testing.assert_close(got.double(), wanted, atol=1e-4, rtol=1e-4)
    (mine,) = torch.autograd.grad(got.sum(), outputs.logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(wanted.sum(), outputs.logits)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("anchor", [0.0, 0.3])
def test_asft_weighs_tokens_by_their_probability_and_holds_to_the_base(anchor):
    logits, base, labels = normal(5, 7).requires_grad_(), normal(5, 7, seed=1), torch.tensor([0, 3, 6, 2, 2])
    method = ASFT(anchor=anchor)
    got = method.objective(Outputs(logits, labels), Needs({"base_logits": base} if anchor else {})).value
    p, q = logits.detach().double().softmax(-1).tolist(), base.double().softmax(-1).tolist()
    wanted = [
        -p[i][y] * math.log(p[i][y]) + anchor * sum(b * math.log(b / a) for a, b in zip(p[i], q[i], strict=True))
        for i, y in enumerate(labels.tolist())
    ]
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)
    (grad,) = torch.autograd.grad(got.sum(), logits)
    for i, y in enumerate(labels.tolist()):
        by_formula = [p[i][y] * (p[i][v] - (v == y)) + anchor * (p[i][v] - q[i][v]) for v in range(7)]
        assert grad[i].tolist() == pytest.approx(by_formula, abs=1e-5)


# -- penalty, schedule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficient", [0.7, None])
def test_e2wm_sums_the_squared_changes_weighted_by_the_fisher_information(coefficient):
    changes = {"a": normal(3, 4), "b": normal(2, 5, seed=1), "elsewhere": normal(2, 2, seed=2)}
    fisher = {n: normal(*changes[n].shape, seed=3).square() for n in "ab"}
    weights = {
        f"{n}.weight": SimpleNamespace(site=SimpleNamespace(name=n), change=lambda c=c: c, foldable=True)
        for n, c in changes.items()
    }
    method, state, needs = ElasticLoRA(coefficient=coefficient), State(), Needs({"fisher": fisher})
    method.begin_task(needs, state)
    got = method.penalty(weights, needs, state)
    flat = [(fisher[n].flatten().tolist(), changes[n].flatten().tolist()) for n in "ab"]
    pairs = [pair for two in flat for pair in zip(*two, strict=True)]
    scale = 0.7 if coefficient is not None else 0.01 / (sum(f for f, _ in pairs) / len(pairs))
    assert float(got) == pytest.approx(scale * sum(f * d * d for f, d in pairs), rel=1e-5)


def test_e2wm_holds_alike_whatever_the_size_of_the_fisher_information():
    """Ten times the rows' sensitivity is no stronger hold by default; none at all holds nothing."""
    change = normal(3, 4)
    weights = {"a.weight": SimpleNamespace(site=SimpleNamespace(name="a"), change=lambda: change, foldable=True)}
    told = []
    for scale in (1e-5, 1e-4, 0.0):
        method, state = ElasticLoRA(), State()
        needs = Needs({"fisher": {"a": scale * normal(3, 4, seed=1).square()}})
        method.begin_task(needs, state)
        told.append(float(method.penalty(weights, needs, state)))
    assert told[0] == pytest.approx(told[1], rel=1e-4) and told[0] > 0.001 * float(change.square().sum())
    assert told[2] == 0.0


def test_infinite_lr_through_its_phases():
    method = InfiniteLR(warmup_steps=4, cooldown_steps=8, constant=0.4, anneal_steps=5, anneal_from=20, final=0.1)
    plan = Plan(40, 0, "s", 0, 1.0, 0)
    for t in range(1, 41):
        if t <= 4:
            wanted = t / 4
        elif t <= 12:
            wanted = 0.4 + 0.6 * (1 + math.cos(math.pi * (t - 4) / 8)) / 2
        elif t <= 20:
            wanted = 0.4
        else:
            wanted = 0.4 * (0.1 / 0.4) ** min(1.0, (t - 20) / 5)
        assert method.schedule(t - 1, plan) == pytest.approx(wanted), t
