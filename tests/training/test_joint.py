"""Steps of several loops in one forward and backward: gradients, counts and refusals are each loop's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.loop import Rows, stage
from tunewright.catalogue import load_method
from tunewright.errors import MethodError, NonFiniteError
from tunewright.models.adapted import Adapted
from tunewright.models.attention import prepare_attention
from tunewright.models.lowrank import Part, low_rank_parts, low_rank_plain
from tunewright.models.side_by_side import Parts
from tunewright.runs.shared import twin
from tunewright.training.joint import Joint, joined, why_not
from tunewright.training.train import Loop

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"rank": 4}),
    ("lora", {"rank": 2, "alpha": 7}),
    ("dora", {"rank": 4}),
    ("ia3", {}),
    ("vera", {}),
    ("oft", {}),
    ("ssf", {}),
    ("loreft", {"rank": 2}),
    ("bottleneck-adapters", {}),
    ("loha", {"rank": 2}),
)


def loops_of(
    *kinds: tuple[str, dict[str, Any]], packed: bool = True, model: Any = None, changes: dict[str, Any] | None = None
) -> tuple[Adapted, list[Loop]]:
    """A twin that runs all, and a loop of each kind over the same base, with rows of its own: more for each next."""
    base = model if model is not None else tiny.llama()
    body = Adapted(twin(base))
    loops = []
    for i, (name, values) in enumerate(kinds):
        own = twin(base)
        packs = packed and prepare_attention(own)  # before anything hangs on it, as in a run
        given, _ = stage(
            load_method(name)(**values),
            model=own,
            rows=Rows(seed=i, per_step=2 + i % 3),
            **{"seed": i, "activation_checkpointing": False, **(changes or {})},
        )
        given.packed = packs
        loops.append(Loop(given))
    if packed:
        assert prepare_attention(body.model)
    for loop in loops:  # zeros and ones would hide what is missing
        torch.manual_seed(0)
        for leaf in loop.trained.leaves.values():
            leaf.leaf.data.add_(torch.randn_like(leaf.leaf) * 0.02)
    return body, loops


def gradients(loop: Loop) -> dict[str, Tensor]:
    return {n: g.clone() for n, g in loop.trained.gradients().items()}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_gradients_are_those_of_each_alone(packed: bool) -> None:
    body, loops = loops_of(*KINDS, packed=packed)
    assert [why_not(loop, body) for loop in loops] == [""] * len(loops)
    joint = Joint(body, loops)
    dues = [loop.begin_step() for loop in loops]
    found = joint.gradients(dues)
    assert found is not None
    ours = [(loop.told(*one), gradients(loop)) for loop, one in zip(loops, found, strict=True)]
    for loop, due, (record, mine) in zip(loops, dues, ours, strict=True):
        alone = loop.gradients(due.rows)
        theirs = gradients(loop)
        assert record["loss"] == pytest.approx(alone["loss"], rel=1e-5) and record["labels"] == alone["labels"]
        assert mine.keys() == theirs.keys() and any(bool(g.any()) for g in mine.values())
        for name, g in theirs.items():
            torch.testing.assert_close(mine[name], g, rtol=1e-4, atol=1e-6)


def test_the_twin_is_the_base_again_afterwards() -> None:
    body, loops = loops_of(*KINDS[:4])
    names = {n: type(m) for n, m in body.model.named_modules()}
    joint = Joint(body, loops)
    assert joint.gradients([loop.begin_step() for loop in loops]) is not None
    joint.close()
    assert {n: type(m) for n, m in body.model.named_modules()} == names
    assert not any(hasattr(m, "tunewright_route") for m in body.model.modules())


def test_operations_and_seconds_are_shared_out() -> None:
    body, loops = loops_of(("lora", {"rank": 4}), ("ia3", {}))
    _, others = loops_of(("lora", {"rank": 4}), ("ia3", {}))
    dues = [loop.begin_step() for loop in loops]
    assert Joint(body, loops).gradients(dues) is not None and all(due.seconds > 0 for due in dues)
    for loop, other in zip(loops, others, strict=True):
        other.one_step()
        assert loop.flops == pytest.approx(other.flops, rel=0.25)


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("prefix-tuning", {}, "its methods fill"),
        ("lora", {"dropout": 0.1}, "draws random numbers"),
        ("full", {}, "trains more than deltas"),
    ],
)
def test_what_has_forwards_of_its_own(name: str, values: dict[str, Any], why: str) -> None:
    body, (loop,) = loops_of((name, values))
    assert why in why_not(loop, body)


def test_a_base_that_drops_has_forwards_of_its_own() -> None:
    model = tiny.gpt2()
    model.config.attn_pdrop = 0.1
    body, (loop,) = loops_of(("lora", {"rank": 2}), model=model)
    assert "draws random numbers" in why_not(loop, body)


def test_changes_of_what_a_block_reads_have_forwards_of_their_own() -> None:
    body, (loop,) = loops_of(("l2m", {"size": 2, "rank": 2}))
    assert "what a block reads" in why_not(loop, body)


def test_another_memory_or_another_module_is_another_base() -> None:
    body, (loop,) = loops_of(("lora", {"rank": 2}))
    assert why_not(loop, body) == ""
    assert "not the plain base" in why_not(loop, Adapted(tiny.llama()))
    loop.adapted.model.model.norm.register_forward_hook(lambda *given: None)
    assert "not the plain base" in why_not(loop, body)


def test_a_step_that_is_split_is_done_loop_by_loop() -> None:
    body, loops = loops_of(("lora", {"rank": 2}), ("ia3", {}), changes={"micro_tokens": 12})
    assert Joint(body, loops).gradients([loop.begin_step() for loop in loops]) is None
    assert not any(loop.trained.gradients() for loop in loops)


def test_memory_that_runs_out_leaves_the_step_to_each_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    body, loops = loops_of(("lora", {"rank": 2}), ("ia3", {}))
    joint = Joint(body, loops)

    def out(*given: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(joint, "_losses", out)
    assert joint.gradients([loop.begin_step() for loop in loops]) is None


def test_what_is_not_finite_is_found_by_its_own_loop() -> None:
    body, loops = loops_of(("lora", {"rank": 2}), ("ia3", {}))
    next(iter(loops[0].trained.leaves.values())).leaf.data.fill_(float("nan"))
    dues = [loop.begin_step() for loop in loops]
    assert Joint(body, loops).gradients(dues) is None
    with pytest.raises(NonFiniteError):
        loops[0].gradients(dues[0].rows)
    assert loops[1].gradients(dues[1].rows)["loss"] > 0


def test_batches_of_another_kind_are_not_joined() -> None:
    _, (packed,) = loops_of(("lora", {"rank": 2}))
    _, (padded,) = loops_of(("lora", {"rank": 2}), packed=False)
    batches = [loop.micro_batches(loop.begin_step().rows)[0] for loop in (packed, padded)]
    assert joined(batches) is None and joined([batches[0]] * 2) is not None
    strange = batches[0].replace(inputs={**batches[0].inputs, "pixel_values": torch.zeros(1)})
    assert joined([strange, strange]) is None


def test_a_layer_of_other_rows_is_named() -> None:
    parts = Parts([3, 4], True, [1, 2], [None, None])
    assert parts.of(torch.zeros(1, 7, 2)) == (1, [3, 4]) and parts.of(torch.zeros(1, 3, 2)) == (1, [1, 2])
    assert Parts([2, 1], False, [1, 2], [None, None]).of(torch.zeros(3, 5, 2)) == (0, [2, 1])
    with pytest.raises(MethodError, match="adds or leaves out"):
        parts.of(torch.zeros(1, 8, 2))


@pytest.mark.parametrize("transposed", [False, True])
def test_low_rank_parts_are_each_its_own_rows(transposed: bool) -> None:
    torch.manual_seed(0)
    W, bias = torch.randn(5, 4), torch.randn(5)
    stored = W.t().contiguous() if transposed else W
    x = torch.randn(1, 9, 4, requires_grad=True)
    pairs = [[torch.randn(r, 4, requires_grad=True), torch.randn(5, r, requires_grad=True)] for r in (2, 3)]
    spans = ((0, 3, 0.5), (5, 9, 2.0))
    y = low_rank_parts(
        x, stored, bias, [Part(a, b, *p, s) for (a, b, s), p in zip(spans, pairs, strict=True)], transposed
    )
    plain = torch.cat(
        [
            low_rank_plain(x[:, :3], W, bias, *pairs[0], 0.5),
            torch.nn.functional.linear(x[:, 3:5], W, bias),
            low_rank_plain(x[:, 5:], W, bias, *pairs[1], 2.0),
        ],
        1,
    )
    torch.testing.assert_close(y, plain)
    wanted = [x, *pairs[0], *pairs[1]]
    g = torch.randn_like(y)
    for ours, theirs in zip(torch.autograd.grad(y, wanted, g), torch.autograd.grad(plain, wanted, g), strict=True):
        torch.testing.assert_close(ours, theirs)
