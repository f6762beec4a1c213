"""SFPrompt: a round by hand with the cut model, which rows are kept, what crosses the cuts, files, and refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.class_tasks import PICTURES, TEXT
from tests.methods.driving import Run, assert_resumes, image_rows, text_rows
from tests.methods.prompt_tasks import embedded, features
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.sfprompt import SFPrompt, alone, el2n, hardest
from tunewright.models.adapted import Adapted
from tunewright.pieces.clients import client_of
from tunewright.tasks import get_task

CLASSES, RATE, HEADS = 3, 1e-2, 4
SMALL: dict[str, Any] = {"clients": 2, "local_rows": 3, "length": 2, "client_blocks": (1, 1)}


def rows(task: str = TEXT, count: int = 16) -> list[Row]:
    if task == PICTURES:
        return image_rows(count, CLASSES)
    return [r.replace(weights=[1.0], label=i % CLASSES) for i, r in enumerate(text_rows(count, "s", prompt=0))]


def net(task: str = TEXT) -> Any:
    """Three blocks, so that either end and the body have one."""
    if task == PICTURES:
        return tiny.vit(labels=CLASSES, layers=3)
    return tiny.bert_classifier(labels=CLASSES, layers=3)


def make(listen=None, *, task: str = TEXT, steps: int = 2, beside=None, **fields: Any) -> Run:
    return Run(
        {"sfprompt": SFPrompt(**{**SMALL, **fields}), **(beside or {})},
        model=Adapted(net(task)),
        task=task,
        sources={"s": rows(task)},
        steps=steps,
        batch=8,
        listen=listen,
        max_grad_norm=None,
    )


def blocks_of(model: Any, task: str) -> Any:
    return model.bert.encoder.layer if task == TEXT else model.vit.layers


def said(model: Any, prompt: Tensor, row: Row, task: str, path: list[int]) -> Tensor:
    """[V] a row's logits through some blocks behind a prompt, attention by hand."""
    states = torch.cat([prompt, embedded(model, row, task)])
    for i in path:
        block = blocks_of(model, task)[i]
        read = states if task == TEXT else block.layernorm_before(states)
        own = block.attention.self if task == TEXT else block.attention
        names = ("query", "key", "value") if task == TEXT else ("q_proj", "k_proj", "v_proj")
        parts = [
            (a @ b.T / a.shape[1] ** 0.5).softmax(-1) @ c
            for a, b, c in zip(*(getattr(own, n)(read).chunk(HEADS, -1) for n in names), strict=True)
        ]
        mixed = torch.cat(parts, -1)
        if task == TEXT:
            states = block.attention.output(mixed, states)
            states = block.output(block.intermediate(states), states)
        else:
            states = states + block.attention.o_proj(mixed)
            states = states + block.mlp(block.layernorm_after(states))
    states = states if task == TEXT else model.vit.layernorm(states)
    return model.classifier(features(model, states[len(prompt)], task))  # type: ignore[no-any-return]


@pytest.mark.parametrize("task", [TEXT, PICTURES])
@torch.no_grad()
def test_the_model_is_read_behind_its_prompt_with_its_body_and_without(task):
    run, batch = make(task=task), get_task(task).collate(rows(task)[:4])
    run.adapted.outer.eval()
    model, prompt = net(task), run.state("sfprompt").get_parameter("prompt")
    for path in ([0, 1, 2], [0, 2]):
        wanted = torch.stack([said(model, prompt, r, task, path) for r in rows(task)[:4]])
        if len(path) == 3:
            got = run.task.forward(run.adapted.outer, batch).logits
        else:
            with alone():
                got = run.task.forward(run.adapted.outer, batch).logits
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cut", [(1, 0), (0, 1)])
@torch.no_grad()
def test_ends_of_one_block_read_the_prompt_too(cut):
    run, task = make(client_blocks=cut), TEXT
    run.adapted.outer.eval()
    with alone():
        got = run.task.forward(run.adapted.outer, run.task.collate(rows()[:4])).logits
    prompt, path = run.state("sfprompt").get_parameter("prompt"), [0] if cut[0] else [2]
    wanted = torch.stack([said(net(), prompt, r, task, path) for r in rows()[:4]])
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_a_round_is_that_of_clients_by_hand(task):
    """Written from the docstring's four steps: no hooks, no batches, torch's own AdamW."""
    run = make(task=task, steps=1, local_epochs=2)
    data, model = run.state("sfprompt").data, net(task)
    start_prompt = run.state("sfprompt").get_parameter("prompt").detach().clone()
    run.train()
    by_id = {r.id: r for r in rows(task)}
    taken, seed = [by_id[i] for i in run.cursor.seen[:8]], data["seed"]
    ends = [*blocks_of(model, task)[2].parameters(), *model.classifier.parameters()]
    ends += [*(model.bert.pooler.parameters() if task == TEXT else model.vit.layernorm.parameters())]
    starts, total, kept_rows = [p.detach().clone() for p in ends], [torch.zeros_like(p) for p in ends], 0
    total_prompt = torch.zeros_like(start_prompt)
    for client in ("0", "1"):
        own = [i for i, r in enumerate(taken) if client_of(r, 2, None, seed) == client]
        assert len(own) > 1
        for p, value in zip(ends, starts, strict=True):
            p.data.copy_(value)
        prompt = torch.nn.Parameter(start_prompt.clone())
        optimizer = torch.optim.AdamW([*ends, prompt], lr=RATE, weight_decay=0.0)

        def go(some, draw, path):
            order = list(some)
            random.Random(f"{seed}/0/{client}/{draw}").shuffle(order)  # noqa: B023 - called at once
            for i in range(0, len(order), 3):
                part = [taken[j] for j in order[i : i + 3]]
                logits = torch.stack([said(model, prompt, r, task, path) for r in part])  # noqa: B023
                optimizer.zero_grad()  # noqa: B023
                torch.nn.functional.cross_entropy(logits, torch.tensor([r.label for r in part])).backward()
                optimizer.step()  # noqa: B023

        for epoch in range(2):
            go(own, f"alone/{epoch}", [0, 2])
        with torch.no_grad():
            away = []
            for i in own:
                wrong = said(model, prompt, taken[i], task, [0, 2]).softmax(-1)
                wrong[taken[i].label] -= 1
                away.append(float(wrong.square().sum().sqrt()))
        cut = sorted(away, reverse=True)[: -(-len(own) // 2)]
        kept = [i for i, a in zip(own, away, strict=True) if a >= cut[-1]]
        kept_rows += len(kept)
        go(kept, "together/0", [0, 1, 2])
        for t, p in zip(total, ends, strict=True):
            t += len(own) / 8 * p.detach()
        total_prompt += len(own) / 8 * prompt.detach()
    assert kept_rows < 8
    got = [*blocks_of(run.adapted.model, task)[2].parameters(), *run.adapted.model.classifier.parameters()]
    more = run.adapted.model.bert.pooler if task == TEXT else run.adapted.model.vit.layernorm
    keys = blocks_of(run.adapted.model, task)[2].attention
    idle = (keys.self.key if task == TEXT else keys.k_proj).bias  # no answer depends on it: Adam steps by rounding
    for p, wanted in zip([*got, *more.parameters()], total, strict=True):
        if p is not idle:
            torch.testing.assert_close(p, wanted, atol=5e-5, rtol=1e-3)
    torch.testing.assert_close(run.state("sfprompt").get_parameter("prompt"), total_prompt, atol=5e-5, rtol=1e-3)
    untouched = dict(net(task).named_parameters())
    stays = [n for n, p in run.adapted.model.named_parameters() if torch.equal(p, untouched[n])]
    assert any("0." in n for n in stays) and any("embeddings" in n for n in stays)
    assert len(stays) == len(untouched) - len(ends)


def test_scores_are_lengths_and_the_largest_are_kept():
    scores = el2n(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 0, 1]))
    p = 1 / (1 + torch.tensor(-2.0).exp())
    torch.testing.assert_close(scores, torch.stack([(1 - p), p, torch.tensor(0.5)]) * 2**0.5)
    assert hardest(scores.tolist(), 1 / 3) == [1] and hardest([1.0, 1.0, 0.5], 0.4) == [0, 1]
    assert hardest([0.1], 0.01) == [0]


def test_what_is_sent_is_parameters_and_the_states_of_kept_rows_at_the_cuts():
    run = make(task=PICTURES, steps=2, keep=0.5)
    run.train()
    found = next(iter(run.methods)).method.found(run.state("sfprompt"))
    model = run.adapted.model
    ends = [model.vit.layers[2], model.vit.layernorm, model.classifier]
    trained = sum(p.numel() for m in ends for p in m.parameters()) + 2 * model.config.hidden_size
    times = sum(int(r["clients"]) for r in run.records)
    assert found.values["bytes of parameters"] == 2 * 4 * trained * times
    by_id, seed, kept = {r.id: r for r in rows(PICTURES)}, run.state("sfprompt").data["seed"], 0
    for step in range(2):
        taken = [by_id[i] for i in run.cursor.seen[8 * step : 8 * step + 8]]
        counts = [sum(client_of(r, 2, None, seed) == c for r in taken) for c in ("0", "1")]
        kept += sum(-(-n // 2) for n in counts)
    patches = (model.config.image_size // model.config.patch_size) ** 2 + 1
    # states there and back, and the gradients of both
    assert found.values["bytes of states"] == 4 * kept * (patches + 2) * model.config.hidden_size * 4
    assert found.values["bytes"] == found.values["bytes of parameters"] + found.values["bytes of states"]


def test_the_body_is_no_work_of_the_clients():
    """Blocks are equal: of three, a client's two cost it two thirds of a whole model's pass."""

    def operations(blocks: tuple[int, int]) -> float:
        run = make(task=PICTURES, steps=1, client_blocks=blocks, keep=1.0)
        run.train()
        value = next(iter(run.methods)).method.found(run.state("sfprompt")).values["operations"]
        return float(value)  # type: ignore[arg-type]

    one = sum(p.numel() for p in net(PICTURES).vit.layers[0].parameters() if p.dim() == 2)
    more = operations((2, 0)) - operations((1, 0))
    assert more > 0
    model = net(PICTURES)
    tokens = (model.config.image_size // model.config.patch_size) ** 2 + 1 + 2
    # a frozen block more on the client: forward and its input's gradient, for 8 rows, alone and together
    assert more == pytest.approx(2 * 2 * one * tokens * 8 * 2, rel=0.01)


def test_deltas_in_the_body_are_the_servers_and_train():
    run = make(beside={"lora": LoRA(rank=2)})
    before = {n: p.detach().clone() for n, p in run.adapted.model.named_parameters()}
    run.train()
    moved = {n for n, p in run.adapted.model.named_parameters() if not torch.equal(p, before[n])}
    body = [n for n in moved if "layer.1." in n]
    assert body and all(".delta." in n for n in body)
    now = dict(run.adapted.model.named_parameters())
    own = sum(now[n].numel() for n in now if ".delta." in n and "layer.1." not in n)
    own += sum(
        p.numel()
        for n, p in now.items()
        if ".delta." not in n and ("layer.2." in n or n.startswith(("bert.pooler", "classifier")))
    )
    own += run.state("sfprompt").get_parameter("prompt").numel()
    sent = next(iter(run.methods)).method.found(run.state("sfprompt")).values["bytes of parameters"]
    assert sent == 2 * 4 * own * sum(int(r["clients"]) for r in run.records)


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_a_stopped_run_goes_on_bit_for_bit(task):
    assert_resumes(lambda listen: make(listen, task=task, steps=4, alpha=0.5), 2)


@pytest.mark.parametrize(("cut", "bare"), [((2, 1), "server"), ((0, 0), "client")])
def test_both_sides_need_a_block(cut, bare):
    with pytest.raises(MethodError, match=f"leave the {bare} none"):
        make(client_blocks=cut)
