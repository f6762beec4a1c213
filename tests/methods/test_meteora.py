"""MeteoRA: gates choose as the formula says, learn the rows' tasks, and finished LoRAs stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.meteora import MeteoRA, gate_losses
from tunewright.models import context
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.peft_format import save_adapter
from tunewright.models.recompute import recomputing
from tunewright.models.routed import GATES, Routed
from tunewright.tasks import get_task

TASK = get_task("text-generation")
PLAN = {"plan": {"sources": {"a": 100, "b": 100}}}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def routed(top: int = 2, temperature: float = 1.0, n: int = 4) -> Routed:
    A, B = draw(n, 3, 8, seed=1), draw(n, 6, 3, seed=2)
    scales = torch.arange(1.0, n + 1)
    return Routed(draw(n, 8), A, B, scales, tuple("abcdef"[:n]), top=top, temperature=temperature, trained=False)


@pytest.mark.parametrize(("top", "temperature"), [(1, 1.0), (2, 1.0), (2, 7.0), (4, 0.5)])
def test_each_token_gets_the_weighted_sum_of_its_best_experts(top, temperature):
    delta, x, y = routed(top, temperature), draw(2, 5, 8, seed=3), draw(2, 5, 6, seed=4)
    delta.strength = 0.5
    out = delta(x, y)
    for i in range(2):
        for t in range(5):
            scores = delta.gate @ x[i, t]
            best = sorted(range(4), key=lambda k, s=scores: -float(s[k].detach()))[:top]
            share = [float(torch.exp(scores[k].detach() / temperature)) for k in best]
            parts = [delta.scales[k] * (delta.B[k] @ (delta.A[k] @ x[i, t])) for k in best]
            change = sum(w / sum(share) * part for w, part in zip(share, parts, strict=True))
            torch.testing.assert_close(out[i, t], y[i, t] + 0.5 * change, atol=1e-4, rtol=1e-4)


def test_top_k_then_softmax_is_softmax_then_top_k_made_to_sum_to_one():
    logits = draw(7, 4, seed=5)
    all_of_them = torch.softmax(logits, -1)
    best = all_of_them.topk(2, -1)
    expected = torch.zeros(7, 4).scatter(-1, best.indices, best.values / best.values.sum(-1, keepdim=True))
    torch.testing.assert_close(routed().weights(logits), expected)


def adapter(tmp_path: Path, name: str, rank: int, scale: float, seed: int) -> tuple[str, Adapted]:
    """A finished LoRA in PEFT's format, and a model with it."""
    adapted = Adapted(tiny.llama(), base_hash="tiny")
    for i, site in enumerate(adapted.structure.match(["q_proj", "up_proj"])):
        A, B = (
            draw(rank, site.in_features, seed=seed + i) * 0.2,
            draw(site.out_features, rank, seed=seed + 50 + i) * 0.2,
        )
        forms.attach(site, "adapter", forms.LowRank(A, B, scale))
    save_adapter(adapted, tmp_path / name, "tiny")
    return str(tmp_path / name), adapted


def two(tmp_path: Path) -> tuple[dict[str, str], list[Adapted]]:
    made = [adapter(tmp_path, "a", 2, 1.5, 1), adapter(tmp_path, "b", 5, 0.5, 100)]
    return {n: folder for n, (folder, _) in zip("ab", made, strict=True)}, [m for _, m in made]


def test_a_gate_that_knows_is_that_adapter_alone(tmp_path):
    folders, alone = two(tmp_path)
    run = Run({"meteora": MeteoRA(adapters=folders, top=1)}, model=Adapted(tiny.llama(), base_hash="tiny"), **PLAN)
    experts = [d["meteora"] for d in run.adapted.deltas().values()]
    assert len(experts) == 4 and all(isinstance(e, Routed) and not isinstance(e.A, torch.nn.Parameter) for e in experts)
    for k, other in enumerate(alone):
        for e in experts:
            e.weights = lambda logits, k=k: F.one_hot(torch.full(logits.shape[:-1], k), 2).float()
        torch.testing.assert_close(logits(run.adapted.model), logits(other.model), atol=1e-5, rtol=1e-5)


def sources(count: int = 16) -> dict[str, list[Row]]:
    """Two tasks told apart by their tokens."""
    made: dict[str, list[Row]] = {}
    for name, offset in (("a", 0), ("b", 100)):
        rows = text_rows(count, name)
        made[name] = [Row(r.id, name, [8 + offset + i % 12 for i in r.input_ids], r.weights) for r in rows]
    return made


def share_of_right(run: Run) -> float:
    """How often the likeliest expert is the row's task, over tokens and layers."""
    right = []
    for name, rows in sources().items():
        batch = TASK.collate(rows)
        present = TASK.forward(run.adapted.model, batch).present
        _, place = present.at(present.notes[GATES][0])
        for gates in present.notes[GATES]:
            right.append((gates.argmax(-1) == "ab".index(name))[place >= 0].float())
    return float(torch.cat(right).mean())


def test_gates_alone_train_on_finished_adapters_and_learn_the_tasks(tmp_path):
    folders, _ = two(tmp_path)

    def make(weight: float) -> Run:
        model = Adapted(tiny.llama(), base_hash="tiny")
        method = MeteoRA(adapters=folders, gate_weight=weight)
        return Run({"meteora": method}, model=model, sources=sources(), steps=25, **PLAN)

    run = make(50.0)
    before = {n: t.clone() for n, t in run.adapted.model.state_dict().items()}
    start = share_of_right(run)
    loop = run.train()
    assert set(loop.trained.leaves) == {n for n in before if n.endswith(".gate")}
    moved = {n for n, t in run.adapted.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == set(loop.trained.leaves)
    assert share_of_right(run) > 0.85 > start + 0.2
    unled = make(0.0)
    unled.train()
    assert share_of_right(unled) < share_of_right(run) - 0.1
    assert run.records[-1]["gate_loss/meteora"] < 0.5 * run.records[0]["gate_loss/meteora"]


def test_the_loss_of_gates_is_the_mean_cross_entropy_of_a_rows_tokens():
    gates = [draw(2, 4, 3, seed=1), draw(2, 4, 3, seed=2)]
    row = torch.arange(2)[:, None].expand(2, 4)
    place = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]])
    got = gate_losses(gates, row, place, torch.tensor([2, 0]))
    for i, (task, count) in enumerate(((2, 4), (0, 2))):
        expected = sum(-torch.log_softmax(g[i, t], -1)[task] for g in gates for t in range(count)) / (2 * count)
        torch.testing.assert_close(got[i], expected)
    assert gate_losses(gates, row, place, torch.tensor([-1, -1])).tolist() == [0.0, 0.0]


def test_the_objective_adds_the_gates_loss_to_each_target_and_passes_strangers_over():
    run = Run({"meteora": MeteoRA(gate_weight=3.0)}, sources=sources(), **PLAN)
    rows = [sources()["a"][0], sources()["b"][1], Row("x", "elsewhere", [9, 8, 7], [0.0, 1.0, 1.0])]
    batch = TASK.collate(rows, True)
    outputs = TASK.forward(run.adapted.model, batch)
    (bound,) = run.methods
    loss = bound.method.objective(outputs, batch, bound.state)
    now = outputs.present
    row, place = now.at(now.notes[GATES][0])
    gates = gate_losses(now.notes[GATES], row, place, torch.tensor([0, 1, -1]))
    assert len(now.notes[GATES]) == 14 and float(gates[2].detach()) == 0.0 and float(gates[:2].detach().min()) > 0.1
    torch.testing.assert_close(loss.value, -outputs.log_probs() + 3.0 * gates[batch.rows])


def test_nothing_is_noted_without_gradients_and_once_more_in_a_recomputation():
    run = Run({"meteora": MeteoRA(gate_weight=1.0)}, sources=sources(), **PLAN)
    batch = TASK.collate(sources()["a"][:3])
    with torch.no_grad():
        assert not TASK.forward(run.adapted.model, batch).present.notes
    assert context.told() is None
    (bound,) = run.methods

    def gradients(on: bool) -> dict[str, torch.Tensor]:
        parameters = run.adapted.delta_parameters()
        for p in parameters.values():
            p.requires_grad_(True)
            p.grad = None
        run.adapted.model.train()
        with recomputing(run.adapted.model, on):
            bound.method.objective(TASK.forward(run.adapted.model, batch), batch, bound.state).value.sum().backward()
        return {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys() and plain
    for n, g in plain.items():
        torch.testing.assert_close(again[n], g, atol=1e-5, rtol=1e-4)


def test_new_experts_train_along_and_resume():
    def make(listen):
        return Run({"meteora": MeteoRA(rank=2, gate_weight=1.0)}, sources=sources(), steps=5, listen=listen, **PLAN)

    assert_resumes(make, 3)
    run = make(None)
    loop = run.train()
    assert {n.rsplit(".", 1)[1] for n in loop.trained.leaves} == {"gate", "A", "B"}


def test_what_cannot_be_is_refused(tmp_path):
    folders, _ = two(tmp_path)
    for fields, words in (
        ({"adapters": {"a": folders["a"]}}, "chooses between tasks, and there is one"),
        ({"top": 1, "gate_weight": 0.0}, "have no gradient"),
        ({"adapters": {"a": folders["a"], "b": "new"}}, "are not mixed"),
        ({"adapters": {"a": folders["a"], "b": str(tmp_path / "none")}}, "there is no LoRA in"),
    ):
        with pytest.raises(MethodError, match=words):
            Run({"meteora": MeteoRA(**fields)}, **PLAN)
    with pytest.raises(MethodError, match="there are none"):
        Run({"meteora": MeteoRA()})
    with pytest.raises(MethodError, match="fits no layer"):
        wide = Adapted(tiny.llama(hidden=64), base_hash="tiny")
        Run({"meteora": MeteoRA(adapters=folders)}, model=wide, **PLAN)
