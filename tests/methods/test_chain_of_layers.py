"""CoLa's search against brute force, and the chain that it answers by."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import MODELS, rows_of
from tunewright.errors import MethodError
from tunewright.measure.adapting import Stream
from tunewright.methods.test_time.chain_of_layers import ChainOfLayers, moves, search
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

PICTURES, TEXT = "image-classification", "text-classification"


def stream(make: Any = deep, task: str = PICTURES, reset: Any = None, **fields: Any) -> Stream:
    return Stream("cola", ChainOfLayers(**fields), Adapted(make()), get_task(task), reset=reset)


def reached(blocks: int, most: int, longest: int) -> set[tuple[int, ...]]:
    """Every chain that moves lead to, by plain search in breadth."""
    found, edge = {tuple(range(blocks))}, {tuple(range(blocks))}
    while edge:
        edge = {c for chain in edge for c in moves(chain, most, longest)} - found
        found |= edge
    return found


def test_a_move_leaves_out_or_repeats_neighbours() -> None:
    assert set(moves((0, 1, 2), 1, 4)) == {(1, 2), (0, 2), (0, 1), (0, 0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2)}
    assert {(2,), (0,), (0, 1, 0, 1, 2), (0, 1, 2, 1, 2)} <= set(moves((0, 1, 2), 2, 5))
    assert all(len(c) <= 3 for c in moves((0, 1, 2), 2, 3)) and all(moves((0, 1), 2, 3)), "no chain is empty"


@pytest.mark.parametrize("seed", range(4))
def test_with_time_enough_the_best_of_all_chains_is_found(seed: int) -> None:
    rng = random.Random(seed)
    worth = {c: rng.random() for c in sorted(reached(3, 2, 4))}
    best = search(worth.__getitem__, 3, simulations=len(worth) - 1, longest=4 / 3, rng=random.Random(seed))
    assert best == max(worth, key=worth.__getitem__) and len(worth) > 40


def test_with_little_time_following_what_was_good_finds_more_than_trying_all_alike() -> None:
    """Worth that falls with the distance from a hidden chain, three moves away; the same search, with an exploration
    that does not look at what was found, is the control.
    """
    gains = []
    for seed in range(30):
        rng = random.Random(seed)
        hidden = tuple(range(8))
        for _ in range(3):
            hidden = rng.choice(list(moves(hidden, 2, 12)))

        def worth(chain: tuple[int, ...], hidden: tuple[int, ...] = hidden) -> float:
            return -sum(abs(chain.count(i) - hidden.count(i)) for i in range(8)) / 8

        found = [
            worth(search(worth, 8, simulations=100, exploration=c, rng=random.Random(seed))) for c in (0.2, 1000.0)
        ]
        gains.append(found[0] - found[1])
    assert sum(g > 0 for g in gains) > 2 * sum(g < 0 for g in gains) + 5


def test_every_chain_is_valued_once_and_the_models_own_first() -> None:
    asked: list[tuple[int, ...]] = []

    def worth(chain: tuple[int, ...]) -> float:
        asked.append(chain)
        return 0.0

    best = search(worth, 4, simulations=30, rng=random.Random(0))
    assert asked[0] == (0, 1, 2, 3) and len(asked) == len(set(asked)) == 31
    assert len(best) == min(map(len, asked)), "of equal ones the shortest"


def test_the_penalty_pays_for_short_chains_and_a_dear_one_for_a_single_block() -> None:
    lengths = [
        len(search(lambda c, p=p: len(set(c)) / 4 - p * len(c) / 4, 4, simulations=200, rng=random.Random(0)))
        for p in (0.5, 2.0)
    ]
    assert lengths == [4, 1]


def test_the_answer_is_that_of_the_best_chain_by_the_models_own_confidence() -> None:
    """Brute force over every chain of a model of four blocks, run by hand."""
    task = get_task(PICTURES)
    (row,) = rows_of(task, "stream", 1)
    model, inputs = deep(), task.collate([row]).inputs
    blocks = list(model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer)
    owner, name = (model.vit, "layers") if hasattr(model.vit, "layers") else (model.vit.encoder, "layer")

    def run(chain: tuple[int, ...]) -> torch.Tensor:
        setattr(owner, name, torch.nn.ModuleList([blocks[i] for i in chain]))
        with torch.no_grad():
            return model(**inputs).logits

    values = {c: float(run(c).softmax(-1).max()) - 0.1 * len(c) / 4 for c in sorted(reached(4, 1, 4))}
    best = max(values, key=lambda c: (values[c], -len(c)))
    with stream(simulations=400, most=1, longest=1.0) as s:
        given = s.answer([row])
        assert s.forward.calls <= len(values) + 1
    assert torch.allclose(given, run(best), atol=1e-5) and best != (0, 1, 2, 3)
    assert not torch.allclose(given, run((0, 1, 2, 3)), atol=1e-3)


def test_scores_lie_between_0_and_1_and_are_sure_of_one_class() -> None:
    for name in ("confidence", "entropy"):
        method = ChainOfLayers(score=name)
        flat, sure = method._score(torch.zeros(1, 4)), method._score(torch.tensor([[40.0, 0, 0, 0]]))
        assert float(flat) == pytest.approx({"confidence": 0.25, "entropy": 0.0}[name], abs=1e-6)
        assert float(sure) == pytest.approx(1.0, abs=1e-6)


def test_a_row_takes_a_forward_for_each_chain_and_one_for_the_models_own() -> None:
    with stream(simulations=3) as s:
        for k, row in enumerate(rows_of(s.task, "stream", 3), 1):
            s.answer([row])
            assert s.forward.calls == k * (3 + 1)


def test_nothing_is_moved_and_the_blocks_stand_as_before() -> None:
    for make, task in ((deep, PICTURES), (MODELS[TEXT], TEXT)):
        s = stream(make, task, simulations=10)
        names = [n for n, _ in s.adapted.model.named_modules()]
        before = {n: p.clone() for n, p in s.adapted.model.state_dict().items()}
        with s:
            for row in rows_of(s.task, "stream", 3):
                s.answer([row])
        assert [n for n, _ in s.adapted.model.named_modules()] == names and not s.moving.parameters
        assert all(torch.equal(before[n], p) for n, p in s.adapted.model.state_dict().items())


def test_the_rows_of_one_batch_share_a_chain() -> None:
    rows = rows_of(get_task(PICTURES), "stream", 3)
    with stream(reset="batch", simulations=12) as s:
        together = s.answer(rows)
    with stream(simulations=12) as s:
        apart = torch.cat([s.answer([r]) for r in rows])
    assert together.shape == apart.shape and not torch.allclose(together, apart, atol=1e-4)


def test_blocks_of_several_widths_and_two_stacks_are_refused() -> None:
    with pytest.raises(MethodError, match="differ in what they read"):
        stream(convolutional)


def test_every_chain_of_the_search_can_be_run() -> None:
    s = stream()
    with s:
        batch_row = rows_of(s.task, "stream", 1)
        from tunewright.contract.unlabelled import Unlabelled

        batch = Unlabelled.of(s.task.collate(batch_row))
        for chain in itertools.islice(sorted(reached(4, 2, 6)), 0, 200, 10):
            assert bool(torch.isfinite(s.forward(batch, path=chain).logits).all())
