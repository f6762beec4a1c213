"""EK-FAC influence: against kronfluence's numbers, against training anew without a record, and against dense matrices.

kronfluence 1.0.1 (github.com/pomonam/kronfluence) was run on the conformance suite's tiny model and rows (strategy
ekfac, empirical Fisher, damping left out, sums of losses): its pairwise scores, summed over the four queries and
divided by their 77.318 nats, are `KRONFLUENCE`; ours were within 2e-7 of the largest.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select import procedural_knowledge_influence as module
from tunewright.data.select.procedural_knowledge_influence import ProceduralKnowledgeInfluence
from tunewright.errors import DataError, MethodError
from tunewright.pieces import ekfac

SITE = "model.layers.1.mlp.down_proj"
KRONFLUENCE = {
    "mlp": """85.029869 70.510979 115.325607 57.537014 0.820051 -1.056586 -0.200921 0.152706 -1.692382 -0.583407
        -0.181293 1.55568""",
    "all-linear": """136.690964 100.288834 174.638962 82.958649 -0.216745 -0.70923 -0.524243 -1.380106 -4.461097
        -1.32755 -0.205617 1.40553""",
}


def chosen(reads: Reads, **settings: Any) -> Any:
    return call(
        ProceduralKnowledgeInfluence.model_validate({"keep": 3, **settings}),
        "select",
        **reads.offered,
        rng=random.Random(0),
    )


@pytest.mark.parametrize("layers", KRONFLUENCE)
def test_influences_are_kronfluences(layers: str) -> None:
    theirs = np.array(KRONFLUENCE[layers].split(), float)
    found = chosen(Reads(ProceduralKnowledgeInfluence()), target_modules=layers, labels="given")
    np.testing.assert_allclose(found.scores["influence"], theirs, atol=1e-4 * theirs.max(), rtol=1e-3)
    assert list(found.indices) == np.argsort(-theirs)[:3].tolist()
    assert [bool(r) for r in found.reasons] == [i not in found.indices for i in range(12)]


def test_the_matrix_is_exact_where_inputs_and_gradients_are_independent() -> None:
    rng = torch.Generator().manual_seed(0)
    a, d = torch.randn(6, 4, generator=rng), torch.randn(5, 3, generator=rng)
    rows = [{"x": (x[None], y[None])} for x in a for y in d]
    G = torch.stack([torch.outer(y, x).reshape(-1) for x in a for y in d]).double()
    G = G.T @ G / len(rows)
    factors = ekfac.corrected(ekfac.bases(rows), rows)["x"]
    g = torch.randn(3, 4, generator=rng)
    damping = 0.3 * float(G.diagonal().mean())
    expected = torch.linalg.solve(G + damping * torch.eye(12), g.reshape(-1).double())
    torch.testing.assert_close(factors.solved(g, 0.3).reshape(-1).double(), expected, rtol=1e-4, atol=1e-4)


def last_layer(reads: Reads) -> tuple[Any, Tensor]:
    """(losses [n] of the rows by the last feed-forward matrix, where it starts), in float64."""
    reader = reads.readers["start"]
    rows = [reader.rows_of(r)[0] for r in reads.records]
    body = copy.deepcopy(reader.adapted.model).double()
    held: list[Tensor] = []
    body.get_submodule(SITE).register_forward_hook(lambda _, given, out: held.extend([given[0][0], out[0]]))
    body.model.norm.register_forward_pre_hook(lambda _, given: held.append(given[0][0]))
    inputs, rest, right, owner = [], [], [], []
    for i, row in enumerate(rows):
        held.clear()
        with torch.no_grad():
            body(input_ids=torch.tensor([list(row.input_ids)]))
        for t in range(1, len(row.input_ids)):
            if row.weights[t] > 0:
                inputs.append(held[0][t - 1])
                rest.append((held[2] - held[1])[t - 1])
                right.append(row.input_ids[t])
                owner.append(i)
    A, R, Y, own = torch.stack(inputs), torch.stack(rest), torch.tensor(right), torch.tensor(owner)
    scale, head = body.model.norm.weight.detach(), body.lm_head.weight.detach()

    def losses(W: Tensor) -> Tensor:
        x = R + A @ W.T
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + body.config.rms_norm_eps) * scale
        found = (x @ head.T).log_softmax(-1)[torch.arange(len(Y)), Y]
        return torch.zeros(len(rows)).double().index_add(0, own, -found)

    return losses, body.get_parameter(f"{SITE}.weight").detach().clone()


def trained(losses: Any, start: Tensor, W: Tensor, weights: Tensor, decay: float) -> Tensor:
    """Where the mean of the weighted losses and decay / 2 |W - start|^2 is least."""
    W = W.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([W], max_iter=300, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = losses(W) @ weights / len(weights) + decay / 2 * (W - start).square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return W.detach()


def solved(losses: Any, start: Tensor, best: Tensor, v: Tensor, decay: float) -> Tensor:
    """The inverse Hessian of what is trained, times v, by conjugate gradients."""
    W = best.clone().requires_grad_()
    value = losses(W).mean() + decay / 2 * (W - start).square().sum()
    (g,) = torch.autograd.grad(value, W, create_graph=True)
    x, r = torch.zeros_like(v), v.clone()
    p = r.clone()
    while float(r.norm()) > 1e-6 * float(v.norm()):
        (h,) = torch.autograd.grad(g, W, p.view_as(W), retain_graph=True)
        step = (r @ r) / (p @ h.flatten())
        x, after = x + step * p, r - step * h.flatten()
        p, r = after + (after @ after) / (r @ r) * p, after
    return x


def test_influences_foretell_what_training_without_a_record_does() -> None:
    """A layer is trained to its optimum with all records and without each; the target are the first four. The inverse
    of the exact Hessian is beside it, from which plain gradients are further off.
    """
    decay, n, reads = 0.7, 12, Reads(ProceduralKnowledgeInfluence())
    losses, start = last_layer(reads)
    every = torch.ones(n).double()
    best = trained(losses, start, start, every, decay)
    before = losses(best)
    rises = []
    for i in range(n):
        without = every.clone()
        without[i] = 0
        rises.append(float((losses(trained(losses, start, best, without, decay)) - before)[:4].sum()))
    J = torch.autograd.functional.jacobian(losses, best).flatten(1)
    plain = (J @ J[:4].sum(0) / n / decay).numpy()

    reader = reads.readers["start"]
    with torch.no_grad():
        reader.adapted.model.get_parameter(f"{SITE}.weight").copy_(best)
    method = ProceduralKnowledgeInfluence(target_modules=(SITE,), labels="given")
    with ekfac.watching(method._sites(reader)) as watch:
        bases = ekfac.bases(module._read(reads.records, reader, watch, None))
        values = ekfac.corrected(bases, module._read(reads.records, reader, watch, None))[SITE].values
    settings = {"target_modules": (SITE,), "labels": "given", "damping": decay / float(values.mean())}
    found = np.array(chosen(reads, **settings).scores["influence"]) * float(before[:4].sum()) / n
    off = [np.linalg.norm(x - rises) / np.linalg.norm(rises) for x in (found, plain)]
    assert off[0] < 0.1 and np.corrcoef(found, rises)[0, 1] > 0.99 and np.corrcoef(found[4:], rises[4:])[0, 1] > 0.8
    exact = (J @ solved(losses, start, best, J[:4].sum(0), decay) / n).numpy()
    off = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (found, plain)]
    assert np.corrcoef(exact, rises)[0, 1] > 0.99 and off[0] < 0.6 * off[1]


def test_gradients_with_a_bias_are_those_of_the_weights() -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2, bias=False))
    watch = ekfac.Watch()
    for name in ("0", "2"):
        linear[int(name)].register_forward_hook(lambda m, given, out, n=name: watch.note(n, m, given, out))
    linear(torch.randn(2, 5, 3))  # a try, of which nothing is asked
    loss = linear(torch.randn(2, 5, 3)).square().sum()
    first, bias, last = torch.autograd.grad(loss, linear.parameters(), retain_graph=True)
    found = ekfac.gradients(watch.sides(loss))
    torch.testing.assert_close(found["0"], torch.cat([first, bias[:, None]], 1))
    torch.testing.assert_close(found["2"], last)


def test_each_option_moves_the_influences_and_drawn_labels_are_the_models_own() -> None:
    reads = Reads(ProceduralKnowledgeInfluence())
    changes = [{}, {"fit": 4}, {"labels": "given"}, {"damping": 1.0}, {"by": "token"}, {"target_modules": [SITE]}]
    found = [chosen(reads, **c).scores["influence"] for c in changes]
    assert len({tuple(f) for f in found}) == len(changes)
    sizes = reads.readers["start"].sizes(reads.records)
    np.testing.assert_allclose(found[4], np.array(found[0]) / sizes, rtol=1e-5)
    logits, generator = torch.tensor([[0.0, 3.0, 1.0]]).repeat(4000, 1), torch.Generator().manual_seed(0)
    share = module._by_itself(logits, generator).exp().round(decimals=3).unique(return_counts=True)[1] / 4000
    torch.testing.assert_close(share, logits[0].softmax(-1).sort().values, atol=0.02, rtol=0)


def test_kinds_count_per_nat_and_each_has_its_score() -> None:
    reads = Reads(ProceduralKnowledgeInfluence())
    kinds = [Record({**r}, id=r.id, source=f"kind {i % 2}") for i, r in enumerate(reads.records[:4])]
    method = ProceduralKnowledgeInfluence(keep=3)
    found = call(method, "select", **{**reads.offered, "target": kinds}, rng=random.Random(0)).scores
    alone = call(method, "select", **{**reads.offered, "target": kinds[0::2]}, rng=random.Random(0)).scores
    np.testing.assert_allclose(found["on kind 0"], alone["influence"], rtol=1e-5)
    np.testing.assert_allclose(found["influence"], np.mean([found["on kind 0"], found["on kind 1"]], 0), rtol=1e-4)


def test_a_head_that_is_new_is_not_read() -> None:
    from tests.contract.test_reader import reader_of

    reader, records = reader_of("text-classification", count=5)
    reader.adapted.new = ("classifier.weight",)
    offered = {"records": records, "target": records[:2], "readers": {"start": reader}}
    with pytest.raises(MethodError, match="the head of 'start' is new"):
        call(ProceduralKnowledgeInfluence(), "select", **offered, rng=random.Random(0))


def test_what_cannot_be_read_is_one_message() -> None:
    reads = Reads(ProceduralKnowledgeInfluence())
    with pytest.raises(MethodError, match="target 'nowhere' is no module"):
        chosen(reads, target_modules=["nowhere"])
    with pytest.raises(MethodError, match="has no such linear layer"):
        chosen(reads, target_modules=["norm"])
    reader = reads.readers["start"]
    known = reader.rows_of
    silent = known(reads.records[0])[0]
    reader.rows_of = lambda r: (
        [silent.replace(weights=[0.0] * len(silent.weights))] if r.source == "blank" else known(r)
    )
    blank = [Record({}, id="b", source="blank")]
    with pytest.raises(DataError, match="the blank rows have nothing that is learnt"):
        call(ProceduralKnowledgeInfluence(), "select", **{**reads.offered, "target": blank}, rng=random.Random(0))
    with torch.no_grad():
        reader.adapted.model.get_parameter(f"{SITE}.weight")[0, 0] = float("nan")
    with pytest.raises(MethodError, match="the gradient of this row is no finite number"):
        chosen(reads)
