"""JEI-DNN: shares that sum to 1, gates told by the cheapest exit, blocks not run, the same answers in any batch.

Not compared with the authors' code, whose backbone and data differ; its rules are written out by loops here.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows
from tests.methods.test_unipt import class_rows
from tunewright.contract.method import Plan
from tunewright.errors import MethodError
from tunewright.measure.early_exits import EarlyExits as Probe
from tunewright.measure.probe import Side
from tunewright.measure.target import evaluate
from tunewright.methods.adapters.jei_dnn import JEIDNN, best_exits, exit_shares, sureness
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.pieces.means import token_means
from tunewright.tasks import get_task
from tunewright.training import carry


def make(listen=None, *, model=None, steps=8, beside=None, plan=None, **fields) -> Run:
    return Run(
        {**(beside or {}), "jei-dnn": JEIDNN(**{"warmup": 0.25, **fields})},
        model=model or tiny.bert_classifier(layers=4),
        task="text-classification",
        sources={"c": class_rows()},
        steps=steps,
        listen=listen,
        plan=plan,
    )


def opened(run: Run, biases) -> None:
    """Gates that are open or shut whatever they read: `biases` one a gate."""
    for e, bias in zip(run.state("jei-dnn").exits, biases, strict=True):
        torch.nn.init.zeros_(e.gate.weight)
        torch.nn.init.constant_(e.gate.bias, bias)


def forward(run: Run, rows):
    batch = run.task.collate(rows)
    with torch.no_grad():
        return run.task.forward(run.adapted.outer.eval(), batch)


def states_of(run: Run, rows, block: int):
    """Mean over real tokens of what block `block` (from 1) gives, each row alone, by transformers itself."""
    out = []
    for row in rows:
        batch = run.task.collate([row])
        with torch.no_grad():
            hidden = run.adapted.model(**batch.inputs, output_hidden_states=True).hidden_states[block]
        out.append(token_means(hidden, batch.inputs["attention_mask"]))
    return torch.cat(out)


def test_shares_are_the_papers_rule_row_by_row():
    gates = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    got = exit_shares(gates)
    for row, said in zip(gates.tolist(), got.tolist(), strict=True):
        wanted, before = [], 0.0
        for g in row:
            wanted.append(max(0.0, min(g, 1 - before)))
            before += g
        assert said == pytest.approx([*wanted, 1 - sum(wanted)], abs=1e-6)
    torch.testing.assert_close(got.sum(1), torch.ones(40))


def test_the_cheapest_exit_is_that_of_least_loss_and_cost():
    losses = torch.tensor([[1.0, 0.9, 0.3], [0.2, 0.2, 0.2], [2.0, 1.0, 0.0]])
    assert best_exits(losses, 0.0).tolist() == [2, 0, 2]
    assert best_exits(losses, 1.5).tolist() == [0, 0, 2]  # 1.5, 1.9, 1.8 / - / 2.5, 2.0, 1.5
    assert best_exits(losses, 30.0).tolist() == [0, 0, 0]


def test_what_gates_read_by_hand():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]])
    p = logits[0].exp() / logits[0].exp().sum()
    q = p**2 / (p**2).sum()
    h = [-(x * x.log()).sum() / torch.tensor(3.0).log() for x in (p, q)]
    torch.testing.assert_close(sureness(logits)[0], torch.stack([p[0], h[0], p[0] - p[1], h[1]]))
    torch.testing.assert_close(sureness(logits)[1], torch.tensor([1 / 3, 1.0, 0.0, 1.0]))
    assert not sureness(logits.requires_grad_()).requires_grad


@pytest.mark.parametrize("balance", [1.0, 3.0])
def test_the_loss_is_the_papers_by_loops(balance):
    run = make(cost=0.4)
    state, wrapper = run.state("jei-dnn"), run.adapted.outer.train()
    state.data |= {"opened": 5.0, "shut": 5.0 * balance}
    rows = class_rows(6)
    batch = run.task.collate(rows)
    outputs = run.task.forward(wrapper, batch)
    method = JEIDNN(cost=0.4)
    got = method.objective(outputs, batch, 5, run.plan, state).value
    logits = [e(states_of(run, rows, i + 1)) for i, e in enumerate(state.exits)]
    with torch.no_grad():
        logits.append(run.adapted.model(**batch.inputs).logits)
    wanted = []
    for r, label in enumerate(batch.labels.tolist()):
        ce = [-float(c[r].detach().log_softmax(-1)[label]) for c in logits]
        paid = [x + 0.4 * (i + 1) / 4 for i, x in enumerate(ce)]
        best, g = (
            paid.index(min(paid)),
            [float(e.open(c)[r].detach()) for e, c in zip(state.exits, logits[:-1], strict=True)],
        )
        share, before, total = [], 0.0, 0.0
        for x in g:
            s = 1 / (1 + 2.718281828459045**-x)
            share.append(max(0.0, min(s, 1 - before)))
            before += s
        share.append(1 - sum(share))
        for i, x in enumerate(g):
            target = float(i >= best)
            one = F.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(target)).item()
            total += one * (balance if target else 1.0) / 3
        wanted.append(total + sum(p * c for p, c in zip(share, ce, strict=True)))
    assert got.tolist() == pytest.approx(wanted, rel=1e-3)


def test_answers_and_gates_hold_still_for_one_another():
    run = make()
    state, batch = run.state("jei-dnn"), run.task.collate(class_rows(6))
    outputs = run.task.forward(run.adapted.outer.train(), batch)
    for p in state.parameters():
        p.requires_grad_(True)
    loss = JEIDNN().objective(run.task.forward(run.adapted.outer, batch), batch, 7, run.plan, state)
    gates = [p for n, p in state.named_parameters() if ".gate." in n]
    rest = [p for n, p in state.named_parameters() if ".gate." not in n]
    to_gates = torch.autograd.grad(loss.logs["answers"].sum() + loss.value.sum() * 0, gates, retain_graph=True)
    to_rest = torch.autograd.grad(loss.logs["gates"].sum() + loss.value.sum() * 0, rest)
    assert all(float(g.abs().max()) == 0 for g in (*to_gates, *to_rest)) and outputs is not None


def test_warm_up_counts_exits_alike_and_leaves_gates():
    seen = {}
    run = make(listen=lambda loop: seen.setdefault(loop.step_number, gates_of(loop)))

    def gates_of(loop):
        return [p.detach().clone() for n, p in run.state("jei-dnn").named_parameters() if ".gate." in n]

    before = gates_of(None)
    run.train()
    assert all(torch.equal(a, b) for a, b in zip(before, seen[2], strict=True))  # a quarter of 8 steps
    assert not any(torch.equal(a, b) for a, b in zip(before, seen[8], strict=True))
    batch = run.task.collate(class_rows(5))
    outputs = run.task.forward(run.adapted.outer.train(), batch)
    value = JEIDNN().objective(outputs, batch, 0, run.plan, run.state("jei-dnn")).value
    every = [*outputs.present.notes["exits"][-1].unbind(1), outputs.logits]
    torch.testing.assert_close(value, sum(F.cross_entropy(x, batch.labels, reduction="none") for x in every) / 4)


def test_only_exits_and_a_new_head_train_and_a_trained_head_stays():
    model = Adapted(tiny.bert_classifier(layers=3))
    model.new = ("classifier.weight", "classifier.bias")
    run = make(model=model)
    loop = run.train()
    assert {n.split(".")[0] for n in loop.trained.leaves} == {"jei-dnn", "classifier"}
    later = Adapted(tiny.bert_classifier(layers=3))
    later.new = ("classifier.weight", "classifier.bias")
    run = make(model=later, plan={"index": 1})
    assert {n.split(".")[0] for n in run.train().trained.leaves} == {"jei-dnn"}


def test_open_gates_stop_the_model_and_shut_ones_do_not():
    run, rows, calls = make(), class_rows(5), []
    for i, layer in enumerate(run.adapted.model.bert.encoder.layer):
        layer.attention.register_forward_pre_hook(lambda m, a, i=i: calls.append((i, len(a[0]))))
    opened(run, [-30.0, -30.0, -30.0])
    whole = forward(run, rows)
    with torch.no_grad():
        plain = get_task("text-classification").forward(run.adapted.model, run.task.collate(rows)).logits
    assert torch.equal(whole.logits, plain) and whole.present.notes["blocks"][0].tolist() == [4] * 5
    assert [i for i, _ in calls[:4]] == [0, 1, 2, 3]
    calls.clear()
    opened(run, [-30.0, 30.0, -30.0])
    early = forward(run, rows)
    assert [i for i, _ in calls] == [0, 1] and early.present.notes["blocks"][0].tolist() == [2] * 5
    wanted = run.state("jei-dnn").exits[1](states_of(run, rows, 2))
    assert agrees(early.logits, wanted.detach())
    assert early.features is not None and early.features.shape == (5, 32)


def test_gates_that_are_half_open_share_what_is_left():
    run = make()
    opened(run, [-0.5, -0.5, -0.5])  # g = 0.378: first left 1, then 0.622 of which 0.378 is more than half
    assert forward(run, class_rows(3)).present.notes["blocks"][0].tolist() == [2, 2, 2]


def torn(run: Run, rows) -> list[int]:
    """Gates by which about half of the rows leave at the second exit."""
    opened(run, [-30.0, 0.0, -30.0])
    gate = run.state("jei-dnn").exits[1].gate
    said = sureness(run.state("jei-dnn").exits[1](states_of(run, rows, 2)))[:, 0]
    with torch.no_grad():
        gate.weight[0, 0] = 400.0
        gate.bias.fill_(-400.0 * float(said.median()) - 1e-3)
    return forward(run, rows).present.notes["blocks"][0].tolist()


def test_rows_that_left_are_not_computed_and_every_row_answers_as_alone():
    run, rows, sizes = make(), class_rows(13), []
    run.adapted.model.bert.encoder.layer[3].register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    run.adapted.model.bert.encoder.layer[3].attention.register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    blocks = torn(run, rows)
    assert set(blocks) == {2, 4}
    sizes.clear()
    together = forward(run, rows).logits
    assert sizes[-1] == blocks.count(4)  # rows that left ran neither block 3 nor 4
    alone = torch.cat([forward(run, [r]).logits for r in rows])
    assert agrees(together, alone)
    watched = run.adapted.outer.eval()
    batch = run.task.collate(rows)
    with torch.no_grad():
        whole = get_task("text-classification").forward(watched, batch, hidden=True)
    assert agrees(whole.logits, together) and all(len(h) == 13 for h in whole.hidden)


def test_a_batch_as_long_as_its_rows_is_not_cut_apart():
    rows = [r.replace(input_ids=list(r.input_ids)[:5]) for r in class_rows(5)]
    run = make()
    blocks = torn(run, rows)
    assert len(set(blocks)) == 2
    assert agrees(forward(run, rows).logits, torch.cat([forward(run, [r]).logits for r in rows]))


def test_the_model_is_as_it_was_afterwards():
    run = make()
    layers = run.adapted.model.bert.encoder.layer
    before = [vars(m).get("forward") for m in layers]
    forward(run, class_rows(3))
    assert [vars(m).get("forward") for m in layers] == before


def test_evaluated_rows_say_where_they_were_answered_and_the_probe_counts():
    run, rows = make(), class_rows(12)
    blocks = torn(run, rows)
    answers = evaluate(run.adapted.outer, tiny.tokenizer(encoder=True), run.task, rows, "accuracy")
    assert [int(a.notes["blocks"]) for a in answers] == blocks
    result = Probe().probe(Side(answers={"target": answers}), run.adapted.structure)
    assert result.values["share_of_blocks"].value == pytest.approx(sum(blocks) / 48)
    assert result.values["answered_early"].value == pytest.approx(blocks.count(2) / 12)
    assert [(r[0], r[1]) for r in result.rows] == [(2, blocks.count(2)), (4, blocks.count(4))]
    assert result.rows[0][3] == pytest.approx(
        sum(a.score for a, b in zip(answers, blocks, strict=True) if b == 2) / blocks.count(2)
    )
    with pytest.raises(MethodError, match="notes of no row"):
        Probe().probe(Side(answers={"target": [a.model_copy(update={"notes": {}}) for a in answers]}), None)


def test_training_falls_and_a_higher_cost_answers_earlier():
    cheap, dear = make(steps=60, cost=0.0), make(steps=60, cost=8.0)
    first = cheap.train()
    dear.train()
    assert cheap.records[14]["loss"] < cheap.records[0]["loss"] and first is not None
    rows = class_rows(24)
    means = [float(forward(r, rows).present.notes["blocks"][0].float().mean()) for r in (cheap, dear)]
    assert means[1] < means[0]
    found = JEIDNN().found(dear.state("jei-dnn"))
    assert found is not None and sum(r[1] for r in found.rows) == pytest.approx(1)
    assert found.values["share_of_blocks"] == pytest.approx(sum(r[0] * r[1] for r in found.rows) / 4)
    assert JEIDNN().found(make().state("jei-dnn")) is None


def test_the_balance_is_that_of_earlier_steps():
    run = make(steps=3, warmup=0.0)
    run.train()
    data = run.state("jei-dnn").data
    assert not data["now"] and data["rows"] == pytest.approx(4 * (1 + 0.9 + 0.81))
    assert data["opened"] + data["shut"] == pytest.approx(3 * data["rows"])


def test_gates_have_a_rate_of_their_own():
    names = {"jei-dnn.exits.0.gate.weight": torch.zeros(1), "jei-dnn.exits.0.answer.weight": torch.zeros(1)}
    assert JEIDNN(gate_rate=4).rates({**names, "model.moe.gate.weight": torch.zeros(1)}) == {
        "jei-dnn.exits.0.gate.weight": 4
    }


def test_lora_beside_it_trains_by_all_exits():
    run = make(beside={"lora": LoRA(rank=2)})
    loop = run.train()
    firsts = [n for n in loop.trained.leaves if ".layer.0." in n and ".delta." in n]
    assert firsts and any(n.startswith("jei-dnn.") for n in loop.trained.leaves)
    blocks = torn(run, class_rows(13))
    rows = class_rows(13)
    assert len(set(blocks)) == 2
    assert agrees(forward(run, rows).logits, torch.cat([forward(run, [r]).logits for r in rows]))


def test_resumes_bit_for_bit():
    assert_resumes(make, 5)


def test_pictures_and_decoders():
    run = Run(
        {"jei-dnn": JEIDNN(warmup=0.2)},
        model=tiny.vit(layers=3),
        task="image-classification",
        sources={"i": image_rows()},
        steps=5,
    )
    run.train()
    opened(run, [30.0, -30.0])
    rows = image_rows(6)
    outputs = forward(run, rows)
    assert outputs.present.notes["blocks"][0].tolist() == [1] * 6


def test_a_stage_gives_its_exits_back(tmp_path):
    run = make()
    run.train()
    rows = class_rows(7)
    torn(run, rows)
    tuned = forward(run, rows)
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    again = Adapted(tiny.bert_classifier(layers=4))
    carry.begin(again, "stages.first", "frozen", tmp_path, "recipe.yaml")
    with torch.no_grad():
        got = run.task.forward(again.wrapper.eval(), run.task.collate(rows))
    assert torch.equal(got.present.notes["blocks"][0], tuned.present.notes["blocks"][0])
    assert agrees(got.logits, tuned.logits)


def test_what_cannot_have_exits_is_refused():
    with pytest.raises(MethodError, match="one block"):
        make(model=tiny.bert_classifier(layers=1))


def test_few_steps_are_cautioned():
    plan = Plan(steps=60, tokens=1, stage="main", index=0, learning_rate=1e-3, warmup_steps=0)
    assert "45 steps" in JEIDNN().caution(plan) and JEIDNN(warmup=0.1).caution(plan) is None
