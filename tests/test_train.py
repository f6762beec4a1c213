"""The loop keeps its promises whatever methods are on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor

from tests import loop as L
from tests import tiny
from tunewright.contract.batch import Loss
from tunewright.contract.method import Choice, Method, torch_generator
from tunewright.errors import MethodError, NonFiniteError
from tunewright.models import sampled_gradients
from tunewright.models.agreement import agrees
from tunewright.models.deltas import LowRank
from tunewright.models.recompute import recomputing
from tunewright.models.sampled_gradients import Places
from tunewright.pieces.low_rank import kaiming
from tunewright.training.train import Loop, train


class Full(Method):
    def choose(self, candidates: Any) -> Choice:
        return Choice(tuple(candidates.base))


class Lora(Method):
    rank: int = Field(4, description="rank")
    dropout: float = Field(0.0, description="share dropped")

    def attach(self, site: Any, rng: Any) -> Any:
        if site.block is None or site.kind not in ("linear", "conv1d"):
            return None
        return LowRank(*kaiming(site, self.rank, torch_generator(rng)), 2.0, dropout=self.dropout)


class Few(Method):
    """Ten random entries of each linear, drawn again every second step."""

    moments: str = Field("preserve", description="preserve or drop")

    def choose(self, candidates: Any, rng: Any) -> Choice:
        entries = {
            n: torch.randperm(p.numel(), generator=torch_generator(rng))[:10].sort().values
            for n, p in candidates.linear_weights().items()
        }
        return Choice(entries=entries, redraw_every=2, moments=self.moments)  # type: ignore[arg-type]


class Unchanged(Method):
    def update(self, changes: dict[str, Tensor]) -> dict[str, Tensor]:
        return changes


class Doubled(Method):
    def gradient(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: 2 * g for n, g in gradients.items()}


class Mean(Method):
    """The running mean of all steps' weights."""

    def average(self, averaged: Any, parameters: Any, step: int) -> Any:
        return {n: averaged[n] + (p.detach() - averaged[n]) / (step + 2) for n, p in parameters.items()}


class Ahead(Method):
    """Gradient at a point one small step along the gradient (SAM's inner step)."""

    radius: float = Field(0.05, description="length of the inner step")

    def step(self, inner: Any) -> None:
        first = {n: g.clone() for n, g in inner.gradients().items()}
        norm = torch.stack([g.norm() for g in first.values()]).norm()
        with torch.no_grad():
            for n, p in inner.parameters.items():
                p.add_(first[n], alpha=float(self.radius / norm))
        inner.moved()
        inner.gradients()
        with torch.no_grad():
            for n, p in inner.parameters.items():
                p.sub_(first[n], alpha=float(self.radius / norm))
        inner.moved()


class Rates(Method):
    """Norms learn not at all, all else at a half."""

    def schedule(self, step: int) -> dict[str, float]:
        return {"": 0.5, **{n: 0.0 for n in ("model.norm.weight",)}}


class Held(Method):
    """Squared distance from the start."""

    def penalty(self, weights: Any) -> Tensor:
        return sum(t.change().pow(2).sum() for t in weights.values()) * 10.0  # type: ignore[return-value]


class WrongShape(Method):
    def objective(self, outputs: Any) -> Loss:
        return Loss(-outputs.log_probs()[:-1])


@pytest.mark.parametrize(
    "method", [Full(), Lora(), Lora(dropout=0.3), Few(), Few(moments="drop"), Ahead(), Mean(), Held()], ids=repr
)
@pytest.mark.parametrize("at", [1, 4])
def test_a_run_resumed_at_any_step_ends_in_the_same_bits(method: Method, at: int) -> None:
    saved: list[Any] = []

    def listen(loop: Loop, record: Any) -> None:
        if loop.step_number == at:
            state, tensors = loop.state()
            saved.append((state, {k: {n: t.clone() for n, t in v.items()} for k, v in tensors.items()}))

    first, _ = L.stage(method)
    first.listen = listen
    whole = L.values(train(first))
    again, _ = L.stage(method)
    torch.manual_seed(99)
    assert L.largest_difference(whole, L.values(train(again, saved[0]))) == 0.0


@pytest.mark.parametrize("at", [1, 2, 4])
def test_entries_of_half_precision_go_on_from_their_masters(at: int) -> None:
    saved: list[Any] = []

    def listen(loop: Loop, record: Any) -> None:
        if loop.step_number == at:
            state, tensors = loop.state()
            saved.append((state, {k: {n: t.clone() for n, t in v.items()} for k, v in tensors.items()}))

    def given() -> Any:
        # steps that are far smaller than what bfloat16 tells apart: only masters remember them
        return L.stage(Few(), model=tiny.llama().to(torch.bfloat16), learning_rate=1e-4)[0]

    first = given()
    first.listen = listen
    whole = train(first)
    again = train(given(), saved[0])
    assert any(leaf.indices is not None and leaf.apart for leaf in again.trained.leaves.values())
    for name, leaf in whole.trained.leaves.items():
        assert torch.equal(leaf.leaf, again.trained.leaves[name].leaf), name


@pytest.mark.parametrize("method", [Full(), Lora(), Few()], ids=repr)
def test_micro_steps_equal_one_batch_to_rounding(method: Method) -> None:
    # plain SGD: Adam turns rounding of near-zero gradients into whole steps
    sgd = {"optimizer": type("Use", (), {"name": "sgd", "params": {}})}
    whole, _ = L.run(method, **sgd)
    split, _ = L.run(method, micro_tokens=12, **sgd)
    assert L.largest_difference(L.values(whole), L.values(split)) < 1e-6


@pytest.mark.parametrize("method", [Full(), Lora(), Few()], ids=repr)
def test_the_base_comes_back_and_strength_one_is_the_tuned_model(method: Method) -> None:
    ids = torch.arange(5, 25)[None]
    base = tiny.llama()(ids).logits
    loop, _ = L.run(method)
    with torch.no_grad():
        tuned = loop.adapted.model(ids).logits
        with loop.adapted.base() as model:
            assert agrees(model(ids).logits, base)
        with loop.adapted.at_strength(1.0) as model:
            assert (model(ids).logits - tuned).abs().max() < 1e-4
        with loop.adapted.at_strength(0.5) as model:
            half = model(ids).logits
        assert torch.equal(loop.adapted.model(ids).logits, tuned)
    assert not agrees(half, tuned) and not agrees(half, base)
    loop.adapted.forget_changes()
    with torch.no_grad():
        assert agrees(loop.adapted.model(ids).logits, base)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_gradients_of_few_entries_are_computed_alone_and_steps_are_the_same(again: bool, monkeypatch: Any) -> None:
    # neither Adam's steps nor clipped ones tell a gradient's size
    sgd = {"optimizer": type("Use", (), {"name": "sgd", "params": {}}), "max_grad_norm": None}
    made = []
    product = Places.product
    monkeypatch.setattr(Places, "product", lambda self, *both: made.append(self.count) or product(self, *both))
    given, _ = L.stage(Few(), **sgd)
    with recomputing(given.adapted.model, again):
        few = train(given)
    asked = len(made)
    monkeypatch.setattr(Few, "takes_gradients", True)  # such a method is given whole ones
    given, _ = L.stage(Few(), **sgd)
    with recomputing(given.adapted.model, again):
        whole = train(given)
    assert set(made) == {10} and asked >= few.step_number and len(made) == asked
    assert few.flops < whole.flops
    assert L.largest_difference(L.values(few), L.values(whole)) < 1e-6
    monkeypatch.setattr(sampled_gradients, "MOST", 0.0)  # as where many entries train
    gathered, _ = L.run(Few(), **sgd)
    assert L.largest_difference(L.values(few), L.values(gathered)) < 1e-6


def test_only_what_is_chosen_has_optimizer_state() -> None:
    loop, _ = L.run(Few())
    state = loop.optimizers.state()
    assert {t.numel() for k, t in state.items() if k.endswith("exp_avg")} == {10}
    assert all(p.grad is None for p in loop.adapted.model.parameters())


def test_kept_moments_belong_to_the_entries_that_stay() -> None:
    from tunewright.training.following import remap

    old, new = torch.tensor([1, 4, 6]), torch.tensor([0, 4, 6, 9])
    assert remap(torch.tensor([1.0, 2.0, 3.0]), old, new).tolist() == [0.0, 2.0, 3.0, 0.0]
    assert remap(torch.tensor(5.0), old, new).item() == 5.0


def test_entries_outside_the_choice_stay_and_the_changed_set_is_a_union() -> None:
    loop, _ = L.run(Few())
    start = dict(tiny.llama().named_parameters())
    for name, original in loop.adapted.originals.items():
        now = dict(loop.adapted.model.named_parameters())[name]
        changed = (now != start[name]).flatten().nonzero()[:, 0]
        assert original.indices is not None and torch.isin(changed, original.indices).all()
        assert 20 < original.indices.numel() <= 30


def test_an_update_that_changes_nothing_changes_nothing() -> None:
    plain, _ = L.run(Lora())
    passed, _ = L.run(Lora(), Unchanged())
    assert L.largest_difference(L.values(plain), L.values(passed)) < 1e-7


def test_gradient_methods_act_before_the_optimizer() -> None:
    sgd = {"optimizer": type("Use", (), {"name": "sgd", "params": {}}), "max_grad_norm": None, "weight_decay": 0.0}
    one, _ = L.run(Full(), steps=1, **sgd)
    two, _ = L.run(Full(), Doubled(), steps=1, **sgd)
    start = dict(tiny.llama().named_parameters())
    for n, p in one.adapted.base_parameters().items():
        assert torch.allclose(two.adapted.base_parameters()[n] - start[n], 2 * (p - start[n]), atol=1e-6)


def test_the_average_is_what_is_kept() -> None:
    steps: list[Any] = []
    made, _ = L.stage(Full(), Mean(), steps=3)
    name = "model.norm.weight"
    start = made.adapted.base_parameters()[name].detach().clone()
    made.listen = lambda loop, record: steps.append(loop.adapted.base_parameters()[name].detach().clone())
    loop = train(made)
    assert torch.allclose(loop.adapted.base_parameters()[name], torch.stack([start, *steps]).mean(0), atol=1e-6)


def test_a_rate_by_name_scales_that_parameter_alone() -> None:
    loop, records = L.run(Full(), Rates(), weight_decay=0.0)
    start = dict(tiny.llama().named_parameters())
    assert torch.equal(loop.adapted.base_parameters()["model.norm.weight"], start["model.norm.weight"])
    assert records[0]["learning_rate"] == pytest.approx(0.5e-2)
    moved = loop.adapted.base_parameters()["model.embed_tokens.weight"]
    assert not torch.equal(moved, start["model.embed_tokens.weight"])


def test_a_penalty_pulls_towards_the_start_and_is_logged() -> None:
    free, _ = L.run(Lora(), steps=20)
    held, records = L.run(Lora(), Held(), steps=20)

    def size(loop):
        return sum(float(d.change().detach().pow(2).sum()) for s in loop.adapted.deltas().values() for d in s.values())

    assert size(held) < size(free) and records[-1]["penalty/held"] > 0


@pytest.mark.parametrize("method", [Full(), Lora()], ids=repr)
def test_out_of_memory_splits_the_step_and_is_replayed(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    task = L.stage(method)[0].task

    class Small(type(task)):  # type: ignore[misc]
        limit = 10**9

        def forward(self, model: Any, batch: Any, *, hidden: bool = False) -> Any:
            if batch.tokens > self.limit:
                raise torch.OutOfMemoryError("injected")
            return super().forward(model, batch, hidden=hidden)

    noted: list[tuple[int, int]] = []
    made, _ = L.stage(method)
    made.task = Small()

    def listen(loop: Loop, record: Any) -> None:
        Small.limit = 20 if loop.step_number >= 2 else 10**9

    made.listen, made.on_split = listen, lambda step, tokens: noted.append((step, tokens))
    split = L.values(train(made))
    assert noted and noted[0][0] == 2 and noted[-1][1] <= 20
    # a run killed later repeats the recorded splits, and ends in the same bits without meeting the error
    replay, _ = L.stage(method)
    replay.splits = dict(noted)
    assert L.largest_difference(split, L.values(train(replay))) == 0.0


def test_a_row_that_does_not_fit_alone_says_so() -> None:
    made, _ = L.stage(Full())

    class Never(type(made.task)):  # type: ignore[misc]
        def forward(self, model: Any, batch: Any, *, hidden: bool = False) -> Any:
            raise torch.OutOfMemoryError("injected")

    made.task = Never()
    with pytest.raises(torch.OutOfMemoryError):
        train(made)


def test_the_first_value_that_is_not_finite_names_layer_and_rows() -> None:
    made, _ = L.stage(Full())
    dict(made.adapted.model.named_parameters())["model.layers.1.mlp.up_proj.weight"].data[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"layer 'model\.layers\.1\.mlp\.up_proj', rows r0") as e:
        train(made)
    assert "step 1" in str(e.value)


def test_a_row_with_a_bad_weight_is_named() -> None:
    rows = L.Rows()
    bad = rows.rows[5]
    rows.rows[5] = type(bad)(bad.id, bad.source, bad.input_ids, [*bad.weights[:-1], float("nan")])
    made, records = L.stage(Full(), rows=rows)
    with pytest.raises(NonFiniteError, match="rows r5"):
        train(made)
    assert len(records) == 1  # the step before was fine


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    L.run(Lora(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(MethodError, match="one value for each of"):
        L.run(Full(), WrongShape())


def test_with_no_choice_and_no_delta_everything_trains() -> None:
    loop, _ = L.run(steps=1)
    assert set(loop.trained.leaves) == set(loop.adapted.base_parameters())


def test_half_precision_weights_have_masters_that_are_saved() -> None:
    half = tiny.llama().to(torch.bfloat16)
    loop, _ = L.run(Full(), model=half, learning_rate=1e-5)
    leaf = loop.trained.leaves["model.norm.weight"]
    assert leaf.leaf.dtype == torch.float32 and leaf.parameter.dtype == torch.bfloat16
    # six steps of 1e-5 are lost in bf16 near 1, and are there in the master
    assert torch.equal(leaf.parameter, torch.ones_like(leaf.parameter)) and not torch.equal(
        leaf.leaf, torch.ones_like(leaf.leaf)
    )
    again, _ = L.stage(Full(), model=tiny.llama().to(torch.bfloat16), learning_rate=1e-5, steps=6)
    state, tensors = loop.state()
    resumed = Loop(again)
    resumed.restore(state, tensors)
    assert torch.equal(resumed.trained.leaves["model.norm.weight"].leaf, leaf.leaf)


def test_rows_of_added_tokens_train_beside_any_choice() -> None:
    made, _ = L.stage(Lora())
    name = "model.embed_tokens.weight"
    width = made.adapted.base_parameters()[name].shape[1]
    places = torch.arange(40 * width, 41 * width)
    made.adapted.always = {name: places}
    rows = L.Rows()
    rows.rows[0] = type(rows.rows[0])("new", "s", [40, 41, 40, 42, 40, 43], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    made.rows = rows
    start = made.adapted.base_parameters()[name].detach().clone()
    loop = train(made)
    moved = (loop.adapted.base_parameters()[name] != start).any(1).nonzero()[:, 0].tolist()
    assert moved == [40]
    assert any(n.endswith("lora_B") for n in loop.trained.leaves)


def test_a_listener_may_draw_without_changing_what_is_trained() -> None:
    ends = []
    for listen in (lambda loop, record: None, lambda loop, record: torch.rand(3)):
        made, _ = L.stage(Lora(dropout=0.3), steps=4)
        made.listen = listen
        ends.append(L.values(train(made)))
    assert all(torch.equal(t, ends[1][n]) for n, t in ends[0].items())


def test_a_new_head_trains_beside_deltas() -> None:
    made, _ = L.stage(Lora())
    made.adapted.new = ("model.norm.weight",)
    loop = train(made)
    assert not torch.equal(
        loop.adapted.base_parameters()["model.norm.weight"],
        torch.ones_like(loop.adapted.base_parameters()["model.norm.weight"]),
    )
    assert {leaf.group for leaf in loop.trained.leaves.values()} == {"base", "delta"}
