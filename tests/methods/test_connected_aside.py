"""Connected aside modules: beside every block, reading what it reads; the trained path reaches the first block."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, logits
from tests.methods.reading import mask_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.connected_aside import ConnectedAside
from tunewright.methods.adapters.lora import LoRA
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.bottlenecks import Inserted


def run_of(make=tiny.llama, **fields) -> Run:
    more = {}
    if make is tiny.vit:
        more = {"task": "image-classification", "sources": {"new": image_rows()}}
    elif make is tiny.bert:
        more = {"task": "fill-mask", "sources": {"new": mask_rows()}}
    return Run({"aside": ConnectedAside(width=4, **fields)}, model=make(), steps=4, **more)


def filled(run: Run) -> Run:
    for i, (_, p) in enumerate(sorted(run.adapted.delta_parameters().items())):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.2
    return run


def modules(run: Run, kind: str) -> dict[str, Inserted]:
    blocks = {s.name for s in run.adapted.structure.whole}
    return {n: by["aside"] for n, by in run.adapted.deltas().items() if (n in blocks) == (kind == "beside")}


def a(d: Inserted, x: torch.Tensor) -> torch.Tensor:
    low = x @ d.down.T
    low = low if d.down_bias is None else torch.relu(low + d.down_bias)
    out = low @ d.up.T
    return d.factor * (out if d.up_bias is None else out + d.up_bias)


@pytest.mark.parametrize("inside", ["adapter", "low-rank", "none"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.bert])
def test_a_block_gives_its_own_output_and_what_is_beside_it(make, inside):
    run, fresh = filled(run_of(make, inside=inside, scale=2.0)), make()
    beside, within = modules(run, "beside"), modules(run, "inside")
    assert len(beside) == 2 and len(within) == (0 if inside == "none" else 2)
    for n, d in within.items():
        fresh.get_submodule(n).register_forward_hook(lambda _, x, y, d=d: y + a(d, x[0] if inside == "low-rank" else y))
    for n, d in beside.items():

        def add(_, given, named, y, d=d):
            x = given[0] if given else named["hidden_states"]
            h = y[0] if isinstance(y, tuple) else y
            h = h + a(d, x)
            return (h, *y[1:]) if isinstance(y, tuple) else h

        fresh.get_submodule(n).register_forward_hook(add, with_kwargs=True)
    torch.testing.assert_close(logits(run.adapted.model), logits(fresh), atol=2e-5, rtol=1e-4)
    assert {d.factor for d in beside.values()} == {2.0} and {d.factor for d in within.values()} <= {1.0}


def test_the_path_beside_reaches_the_first_block_where_frozen_layers_let_nothing_through():
    """What is beside block 0 has a gradient through what is beside block 1 alone, residual sums cut off."""

    def cut(run: Run) -> float:
        last = run.adapted.model.model.layers[1]
        own = type(last).__mro__[1] if hasattr(last, "delta") else type(last)
        forward = own.forward

        def stopped(self, hidden, *given, **named):
            y = forward(self, hidden, *given, **named)
            return y.detach() if self is last else y

        own.forward = stopped
        try:
            said = run.adapted.model(torch.arange(10, 24)[None]).logits
            if said.requires_grad:
                said.logsumexp(-1).sum().backward()
        finally:
            own.forward = forward
        grads = [p.grad for n, p in run.adapted.delta_parameters().items() if "layers.0." in n]
        return sum(float(g.abs().sum()) for g in grads if g is not None)

    connected, scattered = filled(run_of(inside="adapter")), filled(run_of(inside="adapter"))
    from tunewright.models.deltas import detach

    for n in modules(scattered, "beside"):
        detach(scattered.adapted.structure.site(n))
    assert cut(connected) > 1e-3 and cut(scattered) == 0.0


def test_it_starts_as_the_base_counts_and_trains_both():
    run = run_of()
    assert torch.equal(logits(run.adapted.model), logits(tiny.llama()))
    loop = run.train()
    each = 2 * 4 * 32 + 4 + 32
    assert loop.trained.count() == 4 * each
    assert all(bool(by["aside"].up.any()) for by in run.adapted.deltas().values())
    less = run_of(inside_width=2)
    assert {len(d.down) for d in modules(less, "inside").values()} == {2}
    assert {len(d.down) for d in modules(less, "beside").values()} == {4}
    assert {d.activation for d in modules(run_of(inside="low-rank"), "inside").values()} == {"identity"}


def test_it_resumes_beside_lora_and_is_read_back(tmp_path):
    assert_resumes(
        lambda listen: Run(
            {"aside": ConnectedAside(width=3, inside="none"), "lora": LoRA(rank=2)}, steps=4, listen=listen
        ),
        2,
    )
    for make in (tiny.vit, tiny.bert):
        run = run_of(make)
        run.train()
        delta_format.save_delta(run.adapted, tmp_path / make.__name__, "tiny")
        again = Adapted(make())
        delta_format.load_delta(again, tmp_path / make.__name__)
        if make is tiny.bert:
            assert agrees(logits(again.model), logits(run.adapted.model))


def test_convolutions_are_refused_by_name():
    with pytest.raises(MethodError, match="convolutions"):
        Run({"aside": ConnectedAside()}, model=tiny.efficientnet(), task="image-classification")
