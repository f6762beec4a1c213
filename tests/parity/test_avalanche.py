"""Continual methods beside Avalanche's (0.6), on one small network, the same rows in the same order and plain descent.

A ViT of two blocks learns three tasks of twelve pictures, four a step, at a rate of 0.1, here and there. Where both do
the same thing every weight is equal after the last step:

- `ewc` beside EWCPlugin (separate), `mas` beside MASPlugin: with their importances read row by row, of the weights that
  ours read, over their mean. (As they come: of whole batches' gradients, squared; of every parameter; not divided.)
- `a-gem` beside AGEMPlugin and `lwf` beside LwFPlugin (tasks that share their classes): as they come.
- `gem` beside GEMPlugin: with gradients a thousand times as large in its dual, which leaves the solution and takes its
  ridge of 0.001 on G G^T away (ours is 1e-6 of the mean diagonal); as it comes, it ends 0.008 apart (GEM moves 0.14).
- `si` beside SynapticIntelligencePlugin: the path integral of the first task; importances and the pull of the penalty
  from it, with weights copied where it reads them: as it comes, on a processor, what it calls the weights of before is
  a view of those of after, every path is 0, and it holds nothing. (Its own go on otherwise, too: the penalty's gradient
  counts in the path, and importances are cut at 0.001.)
- `icarl` beside ICaRL: which rows are kept of a class, in which order, on rows where theirs chooses none twice (it
  passes over a row that it has, and moves its target on all the same).

Not here: `er` and `der`, which keep and draw other rows here than there (a reservoir at every step; at a task's end).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.methods.driving import image_rows
from tests.methods.rehearsing import RATE, SGD
from tests.methods.sequences import Tasks
from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.methods.continual.a_gem import AGEM
from tunewright.methods.continual.ewc import EWC
from tunewright.methods.continual.gem import GEM, dual
from tunewright.methods.continual.lwf import LwF
from tunewright.methods.continual.mas import MAS
from tunewright.methods.continual.si import SI, importance
from tunewright.pieces.rehearsal import herded
from tunewright.tasks import get_task

avalanche = pytest.importorskip("avalanche", minversion="0.6", reason="needs avalanche-lib, which no extra brings")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

from avalanche.benchmarks import tensors_benchmark  # noqa: E402
from avalanche.training import Naive  # noqa: E402
from avalanche.training.plugins import (  # noqa: E402
    AGEMPlugin,
    EWCPlugin,
    GEMPlugin,
    LwFPlugin,
    MASPlugin,
    SynapticIntelligencePlugin,
)

TASK = get_task("image-classification")
PER_STEP = 4


def three_tasks() -> list[list[Row]]:
    """Twelve pictures a task; every class comes in every task, and is another colour in each."""
    return [[replace(r, label=((r.label or 0) + s) % 3) for r in image_rows(12, seed=s)] for s in range(3)]


class Logits(nn.Module):
    """The network as a peer wants it: pictures [R, C, H, W] to logits [R, V]."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def tensors(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    batch = TASK.collate(list(rows))
    return batch.inputs["pixel_values"], batch.labels


def theirs(plugin: Any, tasks: Sequence[Sequence[Row]]) -> dict[str, Tensor]:
    """The network's weights after a peer's loop over the tasks, by name."""
    random.seed(0)
    torch.manual_seed(0)
    network = Logits(tiny.vit())
    given = [tensors(rows) for rows in tasks]
    benchmark = tensors_benchmark(train_tensors=given, test_tensors=given, task_labels=[0] * len(given))
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=PER_STEP,
        train_epochs=1,
        plugins=[plugin],
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience, shuffle=False)
    return {n.removeprefix("model."): p.detach().clone() for n, p in network.named_parameters()}


def ours(method: Mapping[str, Method], tasks: Sequence[Sequence[Row]]) -> tuple[dict[str, Tensor], Tasks]:
    sequence = Tasks(tiny.vit(), TASK.name)
    for rows in tasks:
        sequence.stage(method, rows, **SGD)
    return {n: p.detach().clone() for n, p in sequence.adapted.base_parameters().items()}, sequence


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[n] - other[n]).abs().max()) for n in one)


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """What plain descent on the same rows ends at: a method that did nothing would, too."""
    return ours({}, three_tasks())[0]


def test_plain_descent_is_the_same(plain: dict[str, Tensor]) -> None:
    assert farthest(plain, theirs(EWCPlugin(0.0), three_tasks())) < 1e-5


def of_linear_weights(values: Any, sites: Sequence[str]) -> None:
    """Importances of ours' weights alone, over their mean; the others are 0."""
    known = {f"model.{s}.weight" for s in sites}
    mean = sum(float(v.data.sum()) for n, v in values.items() if n in known)
    mean /= sum(v.data.numel() for n, v in values.items() if n in known)
    for n, v in values.items():
        v.data = v.data / mean if n in known else torch.zeros_like(v.data)


def test_ewc_ends_at_the_same_weights(plain: dict[str, Tensor]) -> None:
    coefficient = 0.05
    mine, sequence = ours({"ewc": EWC(coefficient=coefficient, samples=12)}, three_tasks())
    sites = sequence.left.latest("ewc").values["fisher"]

    class RowByRow(EWCPlugin):
        def compute_importances(self, *given: Any, **_: Any) -> Any:
            found = super().compute_importances(*given[:5], 1)  # the sixth: rows a batch
            of_linear_weights(found, list(sites))
            return found

    assert farthest(mine, theirs(RowByRow(coefficient / 2), three_tasks())) < 2e-5
    assert farthest(mine, plain) > 1e-3


def test_mas_ends_at_the_same_weights(plain: dict[str, Tensor]) -> None:
    coefficient = 0.03
    mine, sequence = ours({"mas": MAS(coefficient=coefficient, samples=12)}, three_tasks()[:2])
    sites = sequence.left.latest("mas").values["importance"]

    class RowByRow(MASPlugin):
        def _get_importance(self, strategy: Any) -> Any:
            strategy.train_mb_size = 1
            found = super()._get_importance(strategy)
            strategy.train_mb_size = PER_STEP
            of_linear_weights(found, list(sites))
            return found

    assert farthest(mine, theirs(RowByRow(coefficient), three_tasks()[:2])) < 2e-5
    assert farthest(mine, ours({}, three_tasks()[:2])[0]) > 1e-3


def test_a_gem_takes_the_same_steps(plain: dict[str, Tensor]) -> None:
    """Every row is kept and all of them are the reference, so that nothing is drawn."""
    mine, _ = ours({"a-gem": AGEM(buffer_size=36, minibatch_size=24)}, three_tasks())
    assert farthest(mine, theirs(AGEMPlugin(patterns_per_experience=12, sample_size=24), three_tasks())) < 2e-5
    assert farthest(mine, plain) > 1e-3


def test_gem_takes_the_same_steps_where_the_peers_ridge_is_small(plain: dict[str, Tensor]) -> None:
    mine, _ = ours({"gem": GEM(buffer_size=36)}, three_tasks())

    class LargeGradients(GEMPlugin):
        def solve_quadprog(self, g: Tensor) -> Tensor:
            self.G = 1000 * self.G
            return super().solve_quadprog(1000 * g) / 1000

    assert farthest(mine, theirs(LargeGradients(12, 0.5), three_tasks())) < 1e-4
    assert 1e-3 < farthest(mine, theirs(GEMPlugin(12, 0.5), three_tasks())) < 0.02
    assert farthest(mine, plain) > 0.1


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gems_dual_is_the_peers_where_its_ridge_is_small(margin: float) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        gradients = 100 * torch.randn(4, 30, generator=generator)
        g = 100 * torch.randn(30, generator=generator) - gradients[0]
        peer = GEMPlugin(1, margin)
        peer.G = gradients
        found = dual((gradients @ gradients.T).double().numpy(), (gradients @ g).double().numpy(), margin)
        mine = g + torch.from_numpy(found).float() @ gradients
        assert torch.allclose(mine, peer.solve_quadprog(g), rtol=1e-3, atol=0.05), seed


def test_lwf_ends_at_the_same_weights(plain: dict[str, Tensor]) -> None:
    mine, _ = ours({"lwf": LwF(coefficient=2.0, temperature=3.0)}, three_tasks())
    assert farthest(mine, theirs(LwFPlugin(alpha=2.0, temperature=3.0), three_tasks())) < 2e-5
    assert farthest(mine, plain) > 1e-3


def test_si_adds_up_the_same_path_and_pulls_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    read = SynapticIntelligencePlugin.extract_weights

    def copied(model: Any, target: Any, excluded: Any) -> None:
        read(model, target, excluded)
        for name in target:
            target[name].data = target[name].data.clone()

    monkeypatch.setattr(SynapticIntelligencePlugin, "extract_weights", staticmethod(copied))
    damping, c = 0.1, 0.7
    sequence = Tasks(tiny.vit(), TASK.name)
    run = sequence.begin({"si": SI(coefficient=c, damping=damping)}, three_tasks()[0], **SGD)
    run.train()
    held = dict(run.state("si").named_buffers())
    share = {n.replace("/", ".").removeprefix("share."): t for n, t in held.items() if n.startswith("share")}
    peer = SynapticIntelligencePlugin(si_lambda=2 * c)
    theirs(peer, three_tasks()[:1])
    walked = {n.removeprefix("model."): -p.data.flatten() for n, p in peer.syn_data["trajectory"].items()}
    assert set(walked) == set(share)
    assert farthest(walked, {n: t.flatten() for n, t in share.items()}) < 1e-6
    assert max(float(t.abs().max()) for t in walked.values()) > 1e-3

    way = {n: held[_now(n, held)] - held[_now(n, held, "begun")] for n in share}
    mean = sum(float(d.square().sum()) for d in way.values()) / sum(d.numel() for d in way.values())
    mine = importance(share, way, damping)
    begun = {n: SimpleNamespace(data=held[_now(n, held, "begun")].flatten()) for n in share}
    fresh = {n: SimpleNamespace(data=torch.zeros_like(v)) for n, v in walked.items()}
    model = _Named({n: held[_now(n, held)] for n in share})
    synaptic = {
        "trajectory": {n: SimpleNamespace(data=-v) for n, v in walked.items()},
        "cum_trajectory": fresh,
        "new_theta": {n: SimpleNamespace(data=None) for n in walked},
    }
    data = (begun, {n: SimpleNamespace(data=None) for n in walked})
    SynapticIntelligencePlugin.update_ewc_data(model, data, synaptic, 1e9, set(), 1, eps=damping * mean)
    raw = {n: v.data.clamp_min(0) for n, v in data[1].items()}
    scale = sum(float(v.sum()) for v in raw.values()) / sum(v.numel() for v in raw.values())
    for n, values in mine.items():
        assert torch.allclose(values.flatten(), raw[n] / scale, rtol=1e-3, atol=1e-4), n

    for n, values in mine.items():
        data[1][n].data = values.flatten()
        data[0][n].data = data[0][n].data - 0.01 * torch.arange(values.numel())
    loss = SynapticIntelligencePlugin.compute_ewc_loss(model, data, set(), "cpu", 2 * c)
    loss.backward()
    for n, p in model.named_parameters():
        pull = 2 * c * mine[n].flatten() * 0.01 * torch.arange(p.numel())
        assert torch.allclose(p.grad.flatten(), pull, rtol=1e-3, atol=1e-4)


def _now(name: str, held: Mapping[str, Tensor], kind: str = "now") -> str:
    return next(k for k in held if k.replace("/", ".") == f"{kind}.{name}")


class _Named(nn.Module):
    """Tensors under given names, dots and all, as a peer walks them."""

    def __init__(self, values: Mapping[str, Tensor]):
        super().__init__()
        self._values = {n: nn.Parameter(t.clone()) for n, t in values.items()}

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self._values.items())


def test_icarl_keeps_the_same_rows_in_the_same_order() -> None:
    """Features are the pictures themselves; the peer's classifier is not trained."""
    from avalanche.training import ICaRL

    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(size=(180, 16)) + 0.4).float()
    y = torch.arange(180) % 3
    benchmark = tensors_benchmark(train_tensors=[(x, y)], test_tensors=[(x, y)], task_labels=[0])
    benchmark.n_classes_per_exp, benchmark.classes_order = [3], [0, 1, 2]
    classifier = nn.Linear(16, 3)
    strategy = ICaRL(
        feature_extractor=nn.Flatten(),
        classifier=classifier,
        optimizer=torch.optim.SGD(classifier.parameters(), lr=0.0),
        memory_size=30,
        buffer_transform=None,
        fixed_memory=True,
        train_mb_size=180,
        train_epochs=1,
        eval_mb_size=60,
        evaluator=None,
    )
    strategy.train(benchmark.train_stream[0], shuffle=False)
    plugin = next(p for p in strategy.plugins if hasattr(p, "x_memory"))
    for c, kept, order in zip((0, 1, 2), plugin.x_memory, plugin.order, strict=True):
        mine = x[y == c][herded(x[y == c], 10)]
        assert torch.equal(mine, kept[order.argsort()]), c
