"""FedAvg: rounds by hand with torch's own optimizers, whose rows are whose, what is counted, and what is refused."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.contract.batch import Row
from tunewright.errors import MethodError
from tunewright.methods.adapters.adalora import AdaLoRA
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.optimization.fedavg import FedAvg
from tunewright.methods.optimization.perp_grad import PerpGrad
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.pieces.clients import by_client, client_of, mean_change, shares

TASK = "text-classification"
CLASSES = 3


def rows(count: int = 24, source: str = "s") -> list[Row]:
    return [r.replace(weights=[1.0], label=i % CLASSES) for i, r in enumerate(text_rows(count, source, prompt=0))]


def net() -> Any:
    return tiny.bert_classifier(labels=CLASSES)


def make(listen=None, *, beside=None, sources=None, steps: int = 3, batch: int = 12, spec=None, **fields: Any) -> Run:
    return Run(
        {"fedavg": FedAvg(**{"clients": 3, "local_rows": 2, **fields}), **(beside or {})},
        model=Adapted(net()),
        task=TASK,
        sources=sources or {"s": rows()},
        steps=steps,
        batch=batch,
        listen=listen,
        **{"max_grad_norm": None, **(spec or {})},
    )


def loss_of(model: Any, some: list[Row]) -> torch.Tensor:
    """Mean cross-entropy, each row alone."""
    said = torch.cat([model(torch.tensor([r.input_ids])).logits for r in some])
    return torch.nn.functional.cross_entropy(said, torch.tensor([r.label for r in some]))


@pytest.mark.parametrize("local", ["adamw", "sgd"])
def test_rounds_are_those_of_clients_by_hand(local):
    run = make(local_optimizer=local, local_epochs=2, steps=2, beside={"full": FullFineTuning()}, clients=2)
    run.train()
    seed, by_id = run.state("fedavg").data["seed"], {r.id: r for r in rows()}
    model, kinds = net(), {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    for step in range(2):
        taken = [by_id[i] for i in run.cursor.seen[12 * step : 12 * step + 12]]
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        total = {n: torch.zeros_like(p) for n, p in start.items()}
        for client in ("0", "1"):
            own = [r for r in taken if client_of(r, 2, None, seed) == client]
            assert own, "the draw leaves a client without rows: the test says nothing of the mean"
            model.load_state_dict(start, strict=False)
            optimizer = kinds[local](model.parameters(), lr=1e-2, weight_decay=0.0)
            for epoch in range(2):
                order = list(own)
                random.Random(f"{seed}/{step}/{client}/rows/{epoch}").shuffle(order)
                for i in range(0, len(order), 2):
                    optimizer.zero_grad()
                    loss_of(model, order[i : i + 2]).backward()
                    optimizer.step()
            for n, p in model.named_parameters():
                total[n] += len(own) * p.detach() / len(taken)
        model.load_state_dict(total, strict=False)
    moved = dict(run.adapted.model.named_parameters())
    for n, p in model.named_parameters():
        if not n.endswith("key.bias"):  # no answer depends on it: its gradient is rounding, and Adam steps by its sign
            torch.testing.assert_close(moved[n], p, atol=5e-5, rtol=1e-3)


def test_one_client_with_one_step_a_round_is_plain_sgd():
    """A second oracle: the loop itself, without clients."""
    fields = {"clients": 1, "local_rows": 12, "local_optimizer": "sgd"}
    one = make(beside={"full": FullFineTuning()}, **fields)
    one.train()
    spec = {"max_grad_norm": None, "optimizer": type("O", (), {"name": "sgd"})}
    plain = Run({"full": FullFineTuning()}, model=Adapted(net()), task=TASK, sources={"s": rows()}, steps=3, batch=12,
                **spec)  # fmt: skip
    plain.train()
    for a, b in zip(one.adapted.model.parameters(), plain.adapted.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)
    assert [r["loss"] for r in one.records] == pytest.approx([r["loss"] for r in plain.records], rel=1e-4)


def test_a_rate_that_a_schedule_lowers_is_the_clients_too():
    still = make(spec={"lr_scheduler_type": "linear"}, steps=4, local_optimizer="sgd")
    before = {n: p.detach().clone() for n, p in still.adapted.model.named_parameters()}
    sizes: list[float] = []

    def note(loop: Any) -> None:
        sizes.append(sum(float((p.detach() - before[n]).norm()) for n, p in still.adapted.model.named_parameters()))
        before.update({n: p.detach().clone() for n, p in still.adapted.model.named_parameters()})

    still.stage.listen = lambda loop, record: note(loop)  # type: ignore[method-assign]
    still.train()
    assert sizes[-1] < 0.7 * sizes[0], "the last round moved as far as the first"


def test_rows_lie_with_one_client_each_whatever_is_read_beside_them():
    many = rows(600)
    at = {r.id: client_of(r, 5, None, 7) for r in many}
    assert at == {r.id: client_of(r, 5, None, 7) for r in reversed(many)}
    assert at != {r.id: client_of(r, 5, None, 8) for r in many}
    assert all(80 < c < 160 for c in Counter(at.values()).values())
    parts = by_client(many[:40], 5, None, 7)
    assert sorted(i for places in parts.values() for i in places) == list(range(40))
    assert list(by_client(many, 12, None, 7)) == [str(i) for i in range(12)]


def test_a_small_alpha_gives_classes_to_few_clients():
    many = rows(900)

    def top(alpha: float | None) -> float:
        counts = [Counter(client_of(r, 5, alpha, 3) for r in many if r.label == k) for k in range(CLASSES)]
        return sum(max(c.values()) / sum(c.values()) for c in counts) / CLASSES

    assert top(None) < 0.3 < 0.6 < top(0.05)
    assert sum(shares(4, 1e-9, "x")) == pytest.approx(1.0) and max(shares(4, 1e-9, "x")) == pytest.approx(1.0)


def test_sources_may_be_the_clients_and_rows_without_a_class_follow_theirs():
    both = [*rows(6, "a"), *rows(6, "b")]
    assert set(by_client(both, None, None, 0)) == {"a", "b"}
    plain = [*text_rows(200, "a"), *text_rows(200, "b")]
    named = {s: Counter(client_of(r, 4, 0.01, 1) for r in plain if r.source == s).most_common(1)[0] for s in "ab"}
    assert named["a"][0] != named["b"][0] and min(n for _, n in named.values()) > 120


def test_a_mean_is_by_rows():
    moved = mean_change(
        {"w": torch.ones(2)}, [{"w": torch.tensor([4.0, 1.0])}, {"w": torch.tensor([1.0, 9.0])}], [3, 1]
    )
    torch.testing.assert_close(moved["w"], torch.tensor([2.25, 2.0]))


def test_what_is_sent_is_what_trains_both_ways_for_each_client_of_each_round():
    run = make(steps=2, beside={"lora": LoRA(rank=2)})
    run.train()
    found = next(iter(run.methods)).method.found(run.state("fedavg"))
    lora = sum(p.numel() for n, p in run.adapted.model.named_parameters() if ".delta." in n)
    times = sum(int(r["clients"]) for r in run.records)
    assert found.values["bytes"] == 2 * 4 * lora * times and found.values["bytes of states"] == 0
    assert found.values["rounds"] == 2 and sum(r[1] for r in found.rows) == 24
    assert found.values["operations"] == pytest.approx(sum(r[3] for r in found.rows))


def test_operations_of_clients_are_those_of_plain_training_on_as_many_rows():
    run = make(steps=2, clients=1, local_rows=12, beside={"full": FullFineTuning()})
    loop = run.train()
    found = next(iter(run.methods)).method.found(run.state("fedavg"))
    assert found.values["operations"] == pytest.approx(loop.flops)


def test_a_stopped_run_goes_on_bit_for_bit():
    assert_resumes(lambda listen: make(listen, steps=4, alpha=0.5), 2)


def test_weights_are_the_rounds_when_a_client_fails():
    run, failed = make(beside={"full": FullFineTuning()}), []
    before = {n: p.detach().clone() for n, p in run.adapted.model.named_parameters()}
    own, calls = run.task.loss, iter(range(100))

    class Fails:
        def __getattr__(self, name: str) -> Any:
            return getattr(run.task, name)

        def loss(self, outputs: Any, batch: Any) -> Any:
            if next(calls) == 3:
                failed.append(1)
                raise RuntimeError("stopped")
            return own(outputs, batch)

    run.stage.task = Fails()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="stopped"):
        run.train()
    assert failed and all(torch.equal(p, before[n]) for n, p in run.adapted.model.named_parameters())
    assert run.state("fedavg").data["rounds"] == 0


@pytest.mark.parametrize("other", [PerpGrad(), AdaLoRA()])
def test_methods_that_speak_of_single_steps_are_refused(other):
    run = make(beside={"other": other})
    with pytest.raises(MethodError, match="a step is a round of clients"):
        run.train()


def test_one_round_is_cautioned_of():
    plan = make().plan
    method = FedAvg()
    assert method.caution(plan) is None
    assert "one round" in str(method.caution(type(plan)(**{**vars(plan), "steps": 1})))
