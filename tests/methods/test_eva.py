"""EVA: directions and ranks against PEFT's own, the incremental decomposition against numpy, memory of the set-up."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, image_rows, logits, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.eva import EVA
from tunewright.methods.needs import explained_variance
from tunewright.methods.needs.explained_variance import allotted, directions, trained_on
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.pieces.incremental_svd import IncrementalSVD
from tunewright.pieces.randomised_svd import leading
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def spread(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows [n, width] about a mean that is not zero, of a few directions of unlike variance."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(9))).Q
    return torch.randn(n, width, generator=g) * (3 * 0.8 ** torch.arange(width)) @ turn + 2.0


# -- the decomposition ------------------------------------------------------------------------------------------------


def test_batches_of_any_size_give_the_decomposition_of_all_rows():
    """All directions kept: exact. numpy's SVD of the centred rows is the oracle, the shares are those of the whole."""
    X, svd = spread(90, 12), IncrementalSVD(12)
    for part in X.split([7, 1, 40, 42]):
        svd.see(part)
    centred = X.double().numpy() - X.double().numpy().mean(0)
    _, S, Vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(svd.singular.numpy(), S, rtol=1e-4)
    np.testing.assert_allclose(np.abs((svd.components.double().numpy() * Vt).sum(1)), 1, atol=1e-4)
    np.testing.assert_allclose(svd.ratio.numpy(), S**2 / (centred**2).sum(), rtol=1e-3)
    top = svd.components.gather(1, svd.components.abs().argmax(1, keepdim=True))
    assert bool((top > 0).all()), "each direction's largest entry is positive"


def test_what_is_not_kept_still_counts_in_the_variance():
    X, svd = spread(200, 12), IncrementalSVD(3)
    for part in X.split(50):
        svd.see(part)
    assert svd.components.shape == (3, 12)
    centred = X - X.mean(0)
    assert svd.total == pytest.approx(float(centred.double().square().sum()), rel=1e-5)
    best = torch.linalg.svd(centred).S.square()[:3].sum() / centred.square().sum()
    assert float(svd.ratio.sum()) == pytest.approx(float(best), rel=0.02)


def test_the_randomised_decomposition_finds_what_the_exact_one_does():
    X = spread(300, 80)
    U, S, Vt = leading(X, 4)
    exact = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(S, exact.S[:4], rtol=1e-3, atol=1e-3)
    left = (X - (U * S) @ Vt).square().sum()
    assert float(left) == pytest.approx(float(exact.S[4:].square().sum()), rel=1e-3)


# -- beside PEFT ------------------------------------------------------------------------------------------------------


def ranks_of(found: dict[str, torch.Tensor]) -> dict[str, int]:
    return {n.removeprefix("components."): len(v) for n, v in found.items() if n.startswith("components.")}


@pytest.mark.parity
@pytest.mark.parametrize(("make", "rank", "rho"), [(tiny.llama, 8, 2.0), (tiny.llama, 16, 1.0), (tiny.gpt2, 10, 1.5)])
def test_directions_and_ranks_are_pefts(make, rank, rho):
    """PEFT 0.21.2 on the same four batches, again and again until all stands still, as it does: the same rank for every
    layer and the same directions (|cosine| above 0.99). So many candidates that its draws decompose exactly.
    """
    peft = pytest.importorskip("peft", reason="needs the extra `peers`")
    from peft.tuners.lora.eva import get_eva_state_dict

    rows = text_rows(32, prompt=3)
    batches = [TASK.collate(rows[i : i + 8]) for i in range(0, 32, 8)]
    given = []
    for batch in batches:
        labels = torch.full(batch.inputs["input_ids"].shape, -100)
        labels.view(-1)[batch.positions + 1] = batch.labels
        given.append({**batch.inputs, "labels": labels})
    targets = ["c_attn", "c_fc"] if make is tiny.gpt2 else ["q_proj", "k_proj", "o_proj", "up_proj"]
    config = peft.LoraConfig(
        r=rank,
        target_modules=targets,
        init_lora_weights="eva",
        eva_config=peft.EvaConfig(rho=rho, tau=0.9),
        fan_in_fan_out=make is tiny.gpt2,
    )
    model = make()
    theirs = get_eva_state_dict(copy.deepcopy(model), given, config, show_progress_bar=False)
    adapted = Adapted(model)
    sites = adapted.structure.match(targets)
    ours = directions(
        sites,
        {s.name: rank for s in sites},
        rho,
        0.9,
        lambda b: TASK.forward(adapted.model, b),
        batches * 50,
        trained_on,
    )
    assert float(ours["settled"]) == 1
    assert ranks_of(ours) == {n: len(v) for n, v in theirs.items()}
    assert sum(ranks_of(ours).values()) == rank * len(sites)
    for name, v in theirs.items():
        cosine = torch.cosine_similarity(ours[f"components.{name}"], v.float()).abs()
        assert bool((cosine > 0.99).all()), (name, cosine)


# -- the method -------------------------------------------------------------------------------------------------------


def made(**fields) -> Run:
    rows = {"new": text_rows(24)}
    return Run({"eva": EVA(**{"rank": 4, "samples": 24, "tokens": 60, **fields})}, sources=rows)


def test_the_model_starts_as_the_base_with_orthonormal_rows_and_the_budget_of_lora():
    run = made()
    deltas = {s: d["eva"] for s, d in run.adapted.deltas().items()}
    ranks = {s: d.rank for s, d in deltas.items()}
    assert sum(ranks.values()) == 4 * 14 and len(set(ranks.values())) > 1 and max(ranks.values()) <= 8
    for d in deltas.values():
        torch.testing.assert_close(d.lora_A @ d.lora_A.t(), torch.eye(d.rank), atol=1e-5, rtol=0)
        assert not d.lora_B.any() and d.scale == 1 / 4
    assert agrees(logits(run.adapted.model), logits(tiny.llama()))


def test_layers_of_one_input_share_directions_and_others_do_not():
    deltas = {s: d["eva"] for s, d in made(rho=1.0).adapted.deltas().items()}
    q, k, up = (deltas[f"model.layers.0.{n}"].lora_A for n in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"))
    assert torch.equal(q, k) and not torch.allclose(q, up)
    assert {d.rank for d in deltas.values()} == {4}


def test_a_holds_the_directions_of_the_layers_own_inputs():
    """Variance of the inputs along the rows of A, of all rows that were read: the best 4 directions there are."""
    run = made(rho=1.0, use_label_mask=False, tokens=10_000)
    site = run.adapted.structure.site("model.layers.1.mlp.up_proj")
    seen = []
    hook = site.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    batch = TASK.collate(text_rows(24))
    with torch.no_grad():
        run.adapted.model.eval()(**batch.inputs)
    hook.remove()
    x = seen[0][batch.inputs["attention_mask"].flatten().bool()]
    x = x - x.mean(0)
    A = run.adapted.deltas()[site.name]["eva"].lora_A
    got, best = (x @ A.detach().t()).square().sum(), torch.linalg.svd(x).S[:4].square().sum()
    assert float(got) == pytest.approx(float(best), rel=1e-3)


def test_scales_whitening_and_patterns():
    plain, own = made(), made(adjust_scaling_factors=False)
    assert {d["eva"].scale for d in plain.adapted.deltas().values()} == {0.25}
    assert all(d["eva"].scale == 1 / d["eva"].rank for d in own.adapted.deltas().values())
    needs = next(b.stage_needs for b in plain.methods)["explained_variance"]
    for site, d in made(whiten=True).adapted.deltas().items():
        S = needs[f"singular.{site}"]
        torch.testing.assert_close(d["eva"].lora_A * S.sqrt()[:, None], needs[f"components.{site}"])
    patterned = made(rank_pattern={"q_proj": 1, "k_proj": 1, "v_proj": 1}, rho=1.0, alpha_pattern={"o_proj": 8.0})
    by_name = {s: d["eva"] for s, d in patterned.adapted.deltas().items()}
    assert sum(d.rank for d in by_name.values()) == 4 * 14 - 3 * 6
    assert by_name["model.layers.0.self_attn.o_proj"].scale == 2 and by_name["model.layers.0.mlp.up_proj"].scale == 0.25


def test_a_layer_without_a_direction_of_its_own_has_no_change_and_the_report_says_so():
    run = made(rank=1, rho=4.0)
    left = {s.name for s in run.adapted.structure.linear_sites()} - set(run.adapted.deltas())
    found = EVA(rank=1).found(run.state("eva"))
    assert left and found.values["layers without a change"] == len(left)
    assert sum(row[1] for row in found.rows) == 14 and all(0 < row[2] <= 1.001 for row in found.rows)
    some, none = (made(tau=t).state("eva").data["settled"] for t in (0.0, 1.0))
    assert 0.5 < some <= 1 and none < some
    assert "had not settled" in EVA().found(made(tau=1.0).state("eva")).notes[0]


def test_reading_stops_where_all_stands_still():
    """Forward passes: one to find which layers share an input, then a batch each until nothing is read any more."""

    def passes(tau):
        seen, model = [], tiny.llama()
        model.register_forward_hook(lambda *_: seen.append(1))
        Run({"eva": EVA(rank=1, rho=1.0, tau=tau, samples=24, tokens=10)}, model=model)
        return len(seen)

    assert passes(1.0) > 24 > passes(0.5) >= 3


def test_prompts_are_read_where_it_is_asked_for():
    batch = TASK.collate(text_rows(3, prompt=2))
    places = trained_on(batch).view(batch.inputs["input_ids"].shape)
    attention = batch.inputs["attention_mask"].bool()
    assert not places[:, :2].any() and torch.equal(places[:, 2:], attention[:, 2:])
    with_prompts, without = made(use_label_mask=False), made()
    pairs = zip(with_prompts.adapted.deltas().values(), without.adapted.deltas().values(), strict=False)
    assert any(a["eva"].lora_A.shape != b["eva"].lora_A.shape or not torch.allclose(a["eva"].lora_A, b["eva"].lora_A)
               for a, b in pairs)  # fmt: skip


def test_ties_go_to_the_first_and_a_decomposed_layer_has_the_highest_rank():
    class Fixed(IncrementalSVD):
        def __init__(self, shares):
            super().__init__(len(shares))
            self.count, self.shares = 1, torch.tensor(shares)

        @property
        def ratio(self):
            return self.shares

    found = {"a": Fixed([0.5, 0.2, 0.1]), "c": Fixed([0.4, 0.2, 0.05])}
    leader, most = {"a": "a", "b": "a", "c": "c"}, {"a": 3, "b": 3, "c": 2}
    assert allotted(found, leader, most, 3) == {"a": 1, "c": 1, "b": 1}
    assert allotted(found, leader, most, 5) == {"a": 2, "c": 2, "b": 1}
    assert allotted(found, leader, most, 100) == {"a": 3, "c": 2, "b": 3}


def test_setting_up_holds_the_inputs_of_one_layer_and_a_few_vectors_of_each(monkeypatch):
    """No more than rho r vectors a layer: never a matrix [in, in], and no inputs after a layer was read."""
    held, see = [], IncrementalSVD.see

    def watched(self, x):
        see(self, x)
        held.append(self.components.shape)
        kept = [v for v in vars(self).values() if isinstance(v, torch.Tensor)]
        assert sum(t.numel() for t in kept) <= self.k * x.shape[1] + self.k + x.shape[1]

    monkeypatch.setattr(explained_variance.IncrementalSVD, "see", watched)
    made(rank=3)
    assert held and max(k for k, _ in held) == 6


@pytest.mark.parametrize("task", ["image-classification", "text-generation"])
def test_it_learns_and_resumes(task):
    make = {"model": tiny.vit, "sources": {"new": image_rows()}} if task != "text-generation" else {}

    def run(listen):
        fields = {k: v() if callable(v) else v for k, v in make.items()}
        method = EVA(rank=2, samples=8, tokens=40)
        return Run({"eva": method}, task=task, listen=listen, steps=4, learning_rate=3e-2, **fields)

    assert_resumes(run, 2)
    first = run(None)
    first.train()
    assert first.records[-1]["loss"] < first.records[0]["loss"]


def test_what_is_saved_is_a_plain_lora_of_patterned_ranks(tmp_path):
    run = made()
    run.train()
    wanted = logits(run.adapted.model)
    count = save_adapter(run.adapted, tmp_path, "tiny")
    again = Adapted(tiny.llama())
    assert load_adapter(again, tmp_path) == count
    assert torch.allclose(logits(again.model), wanted, atol=1e-5)


def test_errors():
    with pytest.raises(MethodError, match="q_proj"):
        made(target_modules=["q_prj"])
    with pytest.raises(MethodError, match="keep"):
        made(data="keep")
    assert random.Random(0)  # nothing global is drawn from: the conformance suite holds it to that
