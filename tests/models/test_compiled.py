"""Blocks that run compiled: the same losses, the same operations counted, nothing forgotten that hangs on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests import small, tiny
from tests.loop import Rows, largest_difference, stage, values
from tunewright.contract.method import Choice, Method
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.models import compiled as module
from tunewright.models.compiled import Compiled, compiling
from tunewright.models.deltas import FORMS
from tunewright.training.train import Loop


class Turns(Method):
    """Trains one block's weights, another one every two steps."""

    def choose(self, candidates, step):
        layers = sorted(n for n in candidates.adapted.base_parameters() if ".layers." in n and n.endswith("weight"))
        half = len(layers) // 2
        return Choice(tuple(layers[half:] if (step // 2) % 2 else layers[:half]), redraw_every=2)


def trained(*methods: Method, asked: bool | str = "eager", steps: int = 4, **more) -> tuple[Loop, list]:
    made, records = stage(*methods, steps=steps, **more)
    with compiling(made.adapted, asked) as blocks:
        made.compiled = blocks
        loop = Loop(made)
        loop.run()
    return loop, records


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts forwards that run compiled."""
    made: list[int] = []
    plain = Compiled._run
    monkeypatch.setattr(Compiled, "_run", lambda self, *given: (made.append(1), plain(self, *given))[1])
    return made


KINDS = {
    "low-rank adapters": lambda: [LoRA(target_modules="all-linear", dropout=0.2)],
    "all weights": list,
    "weights by turns": lambda: [Turns()],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_operations_are_those_of_blocks_as_they_are_written(kind: str, calls: list[int]) -> None:
    ours, told = trained(*KINDS[kind](), steps=6)
    assert len(calls) >= 4
    theirs, plain = trained(*KINDS[kind](), asked=False, steps=6)
    assert [r["loss"] for r in told] == pytest.approx([r["loss"] for r in plain], abs=1e-6)
    assert [r["grad_norm"] for r in told] == pytest.approx([r["grad_norm"] for r in plain], rel=1e-5)
    assert ours.flops == pytest.approx(theirs.flops, rel=1e-9)
    assert largest_difference(values(ours), values(theirs)) < 1e-5


@pytest.mark.slow
def test_a_block_is_as_before_once_the_stage_ends() -> None:
    loop, _ = trained(LoRA())
    blocks = [loop.adapted.model.get_submodule(b.name) for b in loop.adapted.structure.blocks]
    assert all("forward" not in vars(b) for b in blocks)


@pytest.mark.slow
def test_what_hooks_a_block_still_sees_it(calls: list[int]) -> None:
    made, _ = stage(LoRA(), steps=3)
    first = made.adapted.model.get_submodule(made.adapted.structure.blocks[0].name)
    seen: list[int] = []
    with compiling(made.adapted, "eager") as blocks:
        made.compiled = blocks
        loop = Loop(made)
        loop.one_step()
        before = len(calls)
        hook = first.register_forward_hook(lambda *_: seen.append(1))
        loop.one_step()
        hook.remove()
    assert before and seen == [1]


def test_forwards_without_gradients_are_not_compiled(calls: list[int]) -> None:
    made, _ = stage(steps=2)
    with compiling(made.adapted, "eager") as blocks:
        made.compiled = blocks
        loop = Loop(made)
        loop.one_step()
        before = len(calls)
        with torch.no_grad(), made.adapted.evaluating():
            loop.forward(loop.micro_batches(loop.take()[0])[0])
    assert before and len(calls) == before


def resumed_after(steps: int, asked: bool | str) -> Loop:
    """A stage of four steps, stopped after so many and gone on with by a loop of its own, in code compiled afresh."""
    made, _ = stage(LoRA(dropout=0.3), steps=4)
    with compiling(made.adapted, asked) as blocks:
        made.compiled = blocks
        first = Loop(made)
        with first.randomness.lent():
            for _ in range(steps):
                first.one_step()
                first.randomness.remember()
        saved, tensors = first.state()
    torch._dynamo.reset()
    again, _ = stage(LoRA(dropout=0.3), steps=4)
    with compiling(again.adapted, asked) as blocks:
        again.compiled = blocks
        loop = Loop(again)
        loop.restore(saved, tensors)
        loop.run()
    return loop


@pytest.mark.slow
def test_a_resumed_stage_goes_on_to_the_same_bits() -> None:
    straight, again = (resumed_after(n, "eager") for n in (0, 2))
    assert largest_difference(values(again), values(straight)) == 0.0 and again.flops == straight.flops


def test_a_form_that_is_not_known_to_compile_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FORMS["low-rank"], "compiles", False)
    with pytest.raises(MethodError, match="a low-rank delta hangs on '.+', which is not known") as caught:
        trained(LoRA())
    assert caught.value.where == "train.compile"


@pytest.mark.slow
def test_what_torch_cannot_compile_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph, given):
        raise RuntimeError("no compiler")

    torch._dynamo.reset()
    plain = torch.compile
    monkeypatch.setattr(module.torch, "compile", lambda f, backend, dynamic: plain(f, backend=broken, dynamic=dynamic))
    with pytest.raises(MethodError, match=r"cannot be compiled by 'eager': .*") as caught:
        trained(LoRA())
    assert "C++ compiler" in str(caught.value.remedy)


def test_a_model_whose_blocks_run_otherwise_is_refused() -> None:
    made, _ = stage()
    block: nn.Module = made.adapted.model.get_submodule(made.adapted.structure.blocks[0].name)
    block.forward = block.forward  # type: ignore[method-assign]
    with pytest.raises(MethodError, match="has a forward of its own"), compiling(made.adapted, "eager"):
        pass


@pytest.mark.slow
def test_packed_rows_end_where_they_do() -> None:
    from tunewright.models.attention import prepare_attention

    found = []
    for asked in (False, "eager"):
        model = tiny.llama()
        assert prepare_attention(model)
        made, records = stage(LoRA(dropout=0.0), model=model, rows=Rows(12), steps=3)
        made.packed = True
        with compiling(made.adapted, asked) as blocks:
            made.compiled = blocks
            Loop(made).run()
        found.append([r["loss"] for r in records])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize(
    "train, said",
    [
        ({"compile": True, "offload_param": "disk"}, "train.offload_param"),
        ({"compile": "eager", "fsdp": "full_shard"}, "train.fsdp"),
        ({"compile": True, "activation_checkpointing": True}, "train.activation_checkpointing"),
    ],
)
def test_what_compiled_blocks_rule_out_is_refused_before_anything_is_loaded(train, said: str) -> None:
    from tunewright.recipe import Recipe
    from tunewright.runs.compiled import check_compiled

    tree = {"model": "tiny", "task": "text-generation", "data": {"train": "t.jsonl"}, "methods": ["lora"]}
    with pytest.raises(MethodError, match=said) as caught:
        check_compiled(Recipe.model_validate({**tree, "train": train}))
    assert caught.value.where == "train.compile" and said in str(caught.value.remedy)
    for key in train:
        check_compiled(Recipe.model_validate({**tree, "train": {key: train[key]}}))


@pytest.mark.slow
def test_a_recipe_says_whether_blocks_run_compiled(tmp_path: Path, calls: list[int]) -> None:
    from tunewright.runs.run import run

    small.write_inputs(tmp_path)
    found = {}
    for asked in (False, "eager"):
        file = small.write_recipe(tmp_path, str(asked), train__compile=asked)
        done = run(file, tmp_path / f"out-{asked}", quiet=True)
        found[asked] = (len(calls), done.report.cost.flops)
        calls.clear()
    assert found[False][0] == 0 < found["eager"][0] and found[False][1] == found["eager"][1]


@pytest.mark.slow
def test_inductors_blocks_learn_the_same_and_resume_to_the_same_bits() -> None:
    _, told = trained(LoRA(dropout=0.0), asked=True, steps=4)
    _, plain = trained(LoRA(dropout=0.0), asked=False, steps=4)
    assert [r["loss"] for r in told] == pytest.approx([r["loss"] for r in plain], abs=1e-5)
    straight, again = (resumed_after(n, True) for n in (0, 2))
    assert largest_difference(values(again), values(straight)) == 0.0


BY_FORM = ["adalora", "ia3"] + [
    pytest.param(name, marks=pytest.mark.slow)
    for name in "bayesian-lora boft bottleneck-adapters dsee ease flora-tucker lofit loha lokr lora-fa".split()
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_FORM)
def test_every_form_that_says_so_compiles_in_one_piece_and_learns_the_same(name: str, calls: list[int]) -> None:
    from torch._dynamo.utils import counters

    from tunewright.conformance.bench import Tiny
    from tunewright.conformance.case import Case

    torch._dynamo.reset()
    counters.clear()
    plain = Tiny(Case.of(name).named, steps=3).run()
    ours = Tiny(Case.of(name).named, steps=3)
    forms = {d.form for deltas in ours.loop.adapted.deltas().values() for d in deltas.values()}
    with compiling(ours.loop.adapted, "eager") as blocks:
        ours.loop.stage.compiled = blocks
        ours.run()
    assert calls and forms and not counters["graph_break"]
    assert [r["loss"] for r in ours.records] == pytest.approx([r["loss"] for r in plain.records], abs=1e-6)


def test_every_form_that_says_so_is_tried() -> None:
    from tunewright.conformance.bench import Tiny
    from tunewright.conformance.case import Case

    names = ["lora", *(p if isinstance(p, str) else str(p.values[0]) for p in BY_FORM)]
    adapted = [Tiny(Case.of(n).named, steps=1).loop.adapted for n in names]
    tried = {d.form for a in adapted for deltas in a.deltas().values() for d in deltas.values()}
    assert tried == {f.form for f in FORMS.values() if f.compiles}


def test_a_check_refuses_what_a_run_would(tmp_path: Path) -> None:
    from tunewright.planning.check import check_recipe
    from tunewright.recipe import Recipe

    small.write_inputs(tmp_path)
    for name, found in (("dora", 1), ("lora", 0)):
        file = small.write_recipe(tmp_path, train__compile="eager", stages__0__methods=[name])
        assert sum("a dora delta hangs on" in str(r) for r in check_recipe(Recipe.load(file)).report.refusals) == found
