"""LoRA-GA: directions against an exact SVD of the gradient, the first step's best approximation, one gradient at a
time."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora_ga import LoRAGA, parts
from tunewright.methods.needs import gradient_directions
from tunewright.methods.needs.gradient_directions import directions
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.tasks import get_task

TASK = get_task("text-generation")
ROWS = text_rows(16)
SITES = ["q_proj", "up_proj"]


def loss_of(model, batch) -> torch.Tensor:
    made = TASK.loss(TASK.forward(model, batch), batch)
    return (made.value * batch.weights).sum()


def gradients(model, rows=ROWS) -> dict[str, torch.Tensor]:
    """The whole gradient [out, in] of each weight, of all rows in one batch."""
    adapted = Adapted(model)
    sites = adapted.structure.linear_sites()
    for s in sites:
        s.weight.requires_grad_(True)
    found = torch.autograd.grad(loss_of(adapted.model, TASK.collate(rows)), [s.weight for s in sites])
    turned = {"conv1d": lambda g: g.t()}
    return {s.name: turned.get(s.kind, lambda g: g)(g) for s, g in zip(sites, found, strict=True)}


def made(model=None, **fields) -> Run:
    method = LoRAGA(**{"rank": 4, "alpha": 8.0, "samples": 16, **fields})
    return Run({"lora-ga": method}, model=model, sources={"new": ROWS})


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_the_directions_are_those_of_the_whole_gradient(make):
    """Met in products over three batches, six passes; the oracle is the exact SVD of the gradient of all rows."""
    exact, adapted = gradients(make()), Adapted(make())
    batches = [TASK.collate(ROWS[i : i + 6]) for i in range(0, 16, 6)]
    found = directions(
        adapted.structure.linear_sites(), lambda b: loss_of(adapted.model, b), lambda: batches, rank=8, iterations=2
    )
    assert set(exact) == {n.removeprefix("left.") for n in found if n.startswith("left.")}
    for name, G in exact.items():
        U, S, Vt = (found[f"{side}.{name}"] for side in ("left", "values", "right"))
        S_exact = torch.linalg.svdvals(G)
        torch.testing.assert_close(S, S_exact[:8], rtol=2e-2, atol=1e-4 * float(S_exact[0]))
        left, least = (G - (U * S) @ Vt).square().sum(), S_exact[8:].square().sum()
        assert float(left) <= 1.02 * float(least) + 1e-6 * float(G.square().sum())


def test_a_step_of_descent_moves_the_product_along_the_best_approximation_of_the_gradient():
    """G A^T A + B B^T G = c^2 G_2r, through what training itself computes: gradients of A and B at the start."""
    run, exact = made(), gradients(tiny.llama())
    loss_of(run.adapted.model, TASK.collate(ROWS)).backward()
    for site, by_name in run.adapted.deltas().items():
        d, G = by_name["lora-ga"], exact[site]
        moved = d.scale * (d.lora_B.grad @ d.lora_A + d.lora_B @ d.lora_A.grad)
        U, S, Vt = torch.linalg.svd(G)
        best = (U[:, :8] * S[:8]) @ Vt[:8]
        c = G.shape[0] ** 0.25 / 16**0.5
        wanted = d.scale**2 * c**2 * best
        assert float((moved - wanted).norm()) < 0.05 * float(wanted.norm()), site
        assert d.scale == 8 / 4**0.5


def test_the_model_starts_as_the_base():
    run = made()
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))
    assert all(d["lora-ga"].lora_B.any() and not d["lora-ga"].change().abs().max() > 1e-5
               for d in run.adapted.deltas().values())  # fmt: skip


def test_directions_and_scales():
    U, Vt, g = torch.eye(6)[:, :4], torch.eye(5)[:4], torch.Generator().manual_seed(0)

    def places(direction):
        A, B = parts(U, Vt, 2, direction, g)
        return A.argmax(1).tolist(), B.argmax(0).tolist()

    assert places("ArB2r") == ([0, 1], [2, 3]) and places("A2rBr") == ([2, 3], [0, 1])
    assert places("ArBr") == ([1, 3], [0, 2])
    drawn = places("random")
    assert sorted(drawn[0] + drawn[1]) == [0, 1, 2, 3]

    def sizes(**fields):
        run = made(**fields)
        return {s: (d["lora-ga"].lora_A.norm(dim=1), d["lora-ga"].lora_B.norm(dim=0), d["lora-ga"].scale)
                for s, d in run.adapted.deltas().items()}  # fmt: skip

    for name, (a, b, s) in sizes(scale="unit", use_rslora=False).items():
        assert s == 2 and torch.allclose(a, torch.ones(4)) and torch.allclose(b, torch.ones(4)), name
    for a, b, s in sizes(scale="gd_scale").values():
        assert torch.allclose(a, torch.full((4,), 1 / s)) and torch.allclose(b, a)
    model = Adapted(tiny.llama())
    for name, (a, b, s) in sizes(scale="weight_svd").items():
        S = torch.linalg.svdvals(model.structure.site(name).matrix())[:4]
        assert torch.allclose(a, (S / s).sqrt().mean().expand(4), rtol=1e-2) and torch.allclose(b, a)
    for name, (a, _, _) in sizes(stable_gamma=4.0).items():
        assert torch.allclose(a, torch.tensor(model.structure.site(name).out_features ** 0.25 / 2).expand(4))


@pytest.mark.parity
def test_a_has_pefts_directions_and_bs_are_those_of_its_columns():
    """PEFT 0.21.2 multiplies B by the singular values and leaves A as it is: directions alone can agree."""
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    from peft.tuners.lora.loraga import preprocess_loraga

    model = tiny.llama()
    config = peft.LoraConfig(r=4, target_modules=SITES, init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig())
    preprocess_loraga(model, config, lambda: loss_of(model, TASK.collate(ROWS)).backward())
    theirs = dict(peft.get_peft_model(model, config).named_parameters())
    for site, by_name in made(target_modules=tuple(SITES)).adapted.deltas().items():
        of = {part: theirs[f"base_model.model.{site}.lora_{part}.default.weight"] for part in "AB"}
        A, B = by_name["lora-ga"].lora_A, by_name["lora-ga"].lora_B
        cosines = torch.cosine_similarity(A, of["A"]), torch.cosine_similarity(B.t(), of["B"].t())
        assert all(bool((c.abs() > 0.99).all()) for c in cosines), (site, cosines)


def test_one_gradient_is_there_at_a_time_and_nothing_stays(monkeypatch):
    """The paper's authors hold every layer's gradient; here the others' are gone when one is read."""
    model, seen = tiny.llama(), []
    with_gradient = lambda: [n for n, p in model.named_parameters() if p.grad is not None]  # noqa: E731
    inner = gradient_directions.one_gradient_at_a_time

    def watched(sites, read):
        def looked(name, G):
            seen.append(name)
            assert not with_gradient()
            read(name, G)

        return inner(sites, looked)

    monkeypatch.setattr(gradient_directions, "one_gradient_at_a_time", watched)
    run = made(model=model)
    assert len(seen) == 14 * 6 and not with_gradient()
    held = next(b.stage_needs for b in run.methods)["gradient_directions"]
    sides = sum(s.in_features + s.out_features + 1 for s in run.adapted.structure.linear_sites())
    assert sum(t.numel() for t in held.values()) == 8 * sides


def test_what_needed_a_gradient_before_does_so_afterwards_and_has_its_own():
    sites = Adapted(tiny.llama()).structure.linear_sites()[:2]
    weights = [s.module.weight for s in sites]
    weights[0].requires_grad_(False)
    weights[1].requires_grad_(True)
    weights[1].grad = torch.ones_like(weights[1])
    with gradient_directions.one_gradient_at_a_time(sites, lambda name, G: None) as held:
        assert all(w.requires_grad and w.grad is None for w in held)
        sum(w.sum() for w in held).backward()
        assert all(w.grad is None for w in held)
    assert [w.requires_grad for w in weights] == [False, True]
    assert weights[0].grad is None and bool((weights[1].grad == 1).all())


def test_it_resumes_and_is_saved_as_a_plain_lora_of_twice_the_rank(tmp_path):
    def make(listen):
        return Run({"lora-ga": LoRAGA(rank=2, samples=8)}, sources={"new": ROWS}, steps=4, listen=listen)

    assert_resumes(make, 2)
    run = made()
    run.train()
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    wanted, again = logits(run.adapted.model), Adapted(tiny.llama())
    save_adapter(run.adapted, tmp_path, "tiny")
    load_adapter(again, tmp_path)
    assert torch.allclose(logits(again.model), wanted, atol=1e-4)
    assert {d["adapter"].rank for d in again.deltas().values()} == {8}


def test_errors():
    with pytest.raises(MethodError, match="needs 2r = 40 singular vectors"):
        made(rank=20)
    with pytest.raises(MethodError, match="q_proj"):
        made(target_modules=["q_prj"])
    from tunewright.models.nf4 import quantise_sites

    model = tiny.llama()
    adapted = Adapted(model)
    quantise_sites(model, adapted.structure.linear_sites(), True)
    adapted.rediscover()
    with pytest.raises(MethodError, match="4 bits|quantised"):
        made(model=adapted)
