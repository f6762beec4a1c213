"""ID3: entries unmasked as a plain loop with torch's Adam finds them, so many a step, and nothing else moves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Cursor, Run, assert_resumes, text_rows
from tests.methods.selecting import BASES, rows_for, stayed
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.optimization.lion import Lion
from tunewright.methods.parameter_selection.id3 import ID3, best, unmasked_at
from tunewright.models.adapted import Adapted
from tunewright.pieces.growing_adam import GrowingAdam
from tunewright.runs.run import run
from tunewright.tasks import get_task


def places(r: Run) -> dict[str, set[int]]:
    held = {n.replace("/", "."): t for n, t in r.state("id3").named_buffers()}
    return {n.removeprefix("places."): set(t.tolist()) for n, t in held.items()}


def by_hand(model, rows, *, density, p, eps, steps, decay=0.0, rate=1e-2):
    """The same with dense masks and a dictionary of scalars: Adam by its formula, entry by entry that is unmasked."""
    task, cursor = get_task("text-generation"), Cursor({"new": rows})
    names = sorted(n for n, _ in model.named_parameters())
    weights = dict(model.named_parameters())
    budget = round(density * sum(w.numel() for w in weights.values()))
    mask = {n: np.zeros(weights[n].numel(), bool) for n in names}
    m, v, age = ({n: np.zeros(weights[n].numel()) for n in names} for _ in range(3))
    counts = []
    for t in range(steps):
        batch = task.collate([row for row, _ in cursor.next_batch()], False, seed=0)
        loss = task.loss(task.forward(model, batch), batch)
        model.zero_grad()
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        g = {n: weights[n].grad.double().numpy().ravel() for n in names}
        values = {n: weights[n].detach().double().numpy().ravel() for n in names}
        D = {n: np.where(mask[n], -1, np.abs(g[n]) / (np.abs(values[n]) + eps) ** p) for n in names}
        flat = np.concatenate([D[n] for n in names])
        take = budget // steps + (t < budget % steps)
        chosen = np.zeros(len(flat), bool)
        chosen[np.argsort(-flat, kind="stable")[:take]] = True
        at = 0
        for n in names:
            mask[n] |= chosen[at : at + len(mask[n])]
            at += len(mask[n])
        norm = np.sqrt(sum((g[n][mask[n]] ** 2).sum() for n in names))
        for n in names:
            k = mask[n]
            clipped = g[n][k] * min(1.0, 1.0 / (norm + 1e-6))
            m[n][k] = 0.9 * m[n][k] + 0.1 * clipped
            v[n][k] = 0.999 * v[n][k] + 0.001 * clipped**2
            age[n][k] += 1
            step = (m[n][k] / (1 - 0.9 ** age[n][k])) / (np.sqrt(v[n][k] / (1 - 0.999 ** age[n][k])) + 1e-8)
            values[n][k] = values[n][k] * (1 - rate * decay) - rate * step
            with torch.no_grad():
                weights[n].copy_(torch.from_numpy(values[n]).view(weights[n].shape))
        counts.append(sum(int(k.sum()) for k in mask.values()))
    return {n: set(np.flatnonzero(k).tolist()) for n, k in mask.items() if k.any()}, counts


@pytest.mark.parametrize("p, eps", [(0.0, 1e-3), (1.0, 0.05)])
def test_steps_are_those_of_a_plain_loop(p, eps):
    rows, model = text_rows(), tiny.llama()
    r = Run({"id3": ID3(density=0.003, p=p, eps=eps)}, sources={"new": rows}, steps=4, weight_decay=0.5)
    loop = r.train()
    wanted, counts = by_hand(model, rows, density=0.003, p=p, eps=eps, steps=4, decay=0.5)
    assert places(r) == wanted
    assert counts[-1] == sum(map(len, wanted.values())) == round(0.003 * sum(x.numel() for x in model.parameters()))
    for name, w in model.named_parameters():
        torch.testing.assert_close(r.adapted.base_parameters()[name], w, atol=2e-5, rtol=1e-3)
    for name, same in stayed(r.adapted.model, tiny.llama()).items():
        moved = set((~same).flatten().nonzero()[:, 0].tolist())
        assert moved == wanted.get(name, set()), "what is masked keeps its bits, decay or not"
    moments = {n: t for n, t in loop.optimizers.state().items() if n.endswith(("|exp_avg", "|exp_avg_sq"))}
    assert sum(t.numel() for t in moments.values()) == 2 * counts[-1], "moments of what is unmasked alone"
    assert r.state("id3").data["updates"] == sum(counts)


def test_the_size_counts_against_an_entry_by_the_power():
    chosen = []
    for p in (0.0, 2.0):
        r = Run({"id3": ID3(density=0.001, p=p, until=0)}, steps=1)
        r.train()
        base = dict(tiny.llama().named_parameters())
        chosen.append(
            float(torch.cat([base[n].flatten()[sorted(i)].detach().abs() for n, i in places(r).items()]).mean())
        )
    assert chosen[1] < 0.5 * chosen[0]


def test_the_budget_is_spent_evenly_to_the_last_entry():
    for budget, steps in ((10, 4), (3, 7), (12, 3), (1, 1)):
        each = [unmasked_at(t, budget, steps) for t in range(steps + 2)]
        assert sum(each) == budget and max(each[:steps]) - min(each[:steps]) <= 1 and each[steps:] == [0, 0]
        assert each == sorted(each, reverse=True)


def test_masks_only_grow_and_at_once_is_a_fixed_mask():
    seen = []
    r = Run({"id3": ID3(density=0.01)}, steps=5, listen=lambda loop: seen.append(places(r)))
    r.train()
    for a, b in zip(seen, seen[1:], strict=False):
        assert all(a[n] <= b[n] for n in a) and sum(map(len, b.values())) > sum(map(len, a.values()))
    at_once = []
    fixed = Run({"id3": ID3(density=0.01, until=0)}, steps=5, listen=lambda loop: at_once.append(places(fixed)))
    fixed.train()
    assert all(a == at_once[0] for a in at_once)
    ratio = r.state("id3").data["updates"] / fixed.state("id3").data["updates"]
    assert ratio == pytest.approx((5 + 1) / (2 * 5), rel=0.01), "about half of the updates"


def test_equal_scores_are_taken_in_order_and_never_twice():
    scores = {"a": torch.tensor([[1.0, -1.0], [1.0, 1.0]]), "b": torch.tensor([1.0, 2.0])}
    few = {n: i.tolist() for n, i in best(scores, 3).items()}
    assert few["b"] == [1] and len(few["a"]) == 2 and set(few["a"]) < {0, 2, 3}, "the earlier tensor's first"
    assert {n: i.tolist() for n, i in best(scores, 9).items()} == {"a": [0, 2, 3], "b": [0, 1]}


@pytest.mark.parametrize("kind", BASES)
def test_every_base_and_a_new_head_that_is_not_counted(kind):
    make, task = BASES[kind]
    adapted = Adapted(make())
    adapted.new = tuple(n for n, _ in make().named_parameters() if n.startswith("classifier"))
    r = Run({"id3": ID3(density=0.02)}, model=adapted, task=task, sources={"new": rows_for(task)}, steps=3)
    r.train()
    head = sum(p.numel() for n, p in make().named_parameters() if n in adapted.new)
    entries = sum(p.numel() for p in make().parameters()) - head
    assert sum(map(len, places(r).values())) == round(0.02 * entries)
    same = stayed(r.adapted.model, make())
    assert all(float(same[n].float().mean()) < 0.1 for n in adapted.new), "the head trains whole"


def test_among_deltas_where_there_are_some():
    r = Run({"lora": LoRA(rank=2), "id3": ID3(density=0.2)}, steps=3)
    r.train()
    deltas = r.adapted.delta_parameters()
    assert places(r).keys() <= deltas.keys()
    assert sum(map(len, places(r).values())) == round(0.2 * sum(p.numel() for p in deltas.values()))
    assert not r.adapted.originals


def test_a_late_entrys_first_step_is_a_first_step():
    weight = torch.nn.Parameter(torch.zeros(3))
    where = [torch.tensor([1])]
    optimizer = GrowingAdam({"w": weight}, lambda name: where[0], 0.1, 0.0)
    for t in range(4):
        if t == 3:
            where[0] = torch.tensor([0, 1])
        weight.grad = torch.tensor([2.0, 1.0, 5.0])
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.1, -0.4, 0.0]))
    assert optimizer.state[weight]["age"].tolist() == [1, 4]


@pytest.mark.parametrize("at", [1, 3])
def test_resumes(at):
    assert_resumes(lambda listen: Run({"id3": ID3(density=0.01)}, steps=5, listen=listen), at)


def test_beside_another_optimizer_it_is_refused():
    with pytest.raises(MethodError, match="both make the optimizer"):
        Run({"id3": ID3(), "lion": Lion()}, steps=1).train()


def test_a_report_says_how_many_updates_were_made(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0}
    recipe = small.write_recipe(tmp_path, "r", measurement=quick, stages__0__methods=[{"id3": {"density": 0.01}}])
    done = run(recipe, out=tmp_path / "out", quiet=True)
    probes = json.loads((done.folder / "report.json").read_text())["probes"]
    assert '"updates"' in json.dumps(probes)
