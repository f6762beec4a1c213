"""QLoRA: adapters train on a 4-bit base, drift counts the quantisation, folding makes matrices whole and says so."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.errors import MethodError
from tunewright.measure.drift import kl_drift, sequence_rows, take_reference
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.qlora import QLoRA
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, Sparse, attach, detach
from tunewright.models.nf4 import NF4Linear
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.tasks import get_task
from tunewright.training import carry


def make(listen=None, model=None, **fields) -> Run:
    return Run(
        {"qlora": QLoRA(rank=2, alpha=4, **fields)}, model=model, listen=listen, steps=6, sources={"new": text_rows(4)}
    )


def close(a, b) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_only_the_adapters_train_and_the_loss_falls(maker):
    run = make(model=maker())
    assert len(run.adapted.quantised()) == len(run.adapted.structure.linear_sites())
    packed = {n: m.packed.clone() for n, m in run.adapted.quantised().items()}
    loop = run.train()
    assert all(".delta.qlora.lora_" in n for n in loop.trained.leaves)
    assert all(torch.equal(m.packed, packed[n]) for n, m in run.adapted.quantised().items())
    assert run.records[-1]["loss"] < run.records[0]["loss"]


@pytest.mark.parametrize("double", [True, False])
def test_scales_are_held_in_eight_bits_where_it_says_so(double):
    model = tiny.llama()
    QLoRA(double_quantisation=double).prepare(model)
    layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
    assert len(layers) == 14 and {m.twice for m in layers} == {double}
    held = {str(t.dtype) for m in layers for t in m.buffers()}
    assert ("torch.int8" in held) == double


def test_resumes_bit_for_bit():
    assert_resumes(make, 3)


@pytest.mark.parametrize("maker", [tiny.llama, tiny.gpt2])
def test_folded_says_what_the_forward_says_and_tells_that_it_is_whole_again(maker):
    run = make(model=maker())
    run.train()
    adapted = run.adapted
    before, tuned = logits(maker()), logits(adapted.model)
    with adapted.at_strength(1.0) as model:
        assert close(logits(model), tuned) and not any(isinstance(m, NF4Linear) for m in model.modules())
    with adapted.base() as model:
        assert torch.equal(logits(model), before)
    state = adapted.tuned_state()
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in maker().state_dict().items()}
    assert adapted.fold() == len(adapted.structure.linear_sites()) and not adapted.quantised() and not adapted.deltas()
    assert close(logits(adapted.model), tuned)
    assert adapted.notes == [
        (
            f"{len(adapted.structure.linear_sites())} matrices were made whole again at the values of their "
            "4-bit codes, "
            "to fold a change into them"
        )
    ]
    plain = maker()
    plain.load_state_dict(state, strict=True)
    assert close(logits(plain), tuned)
    adapted.forget_changes()
    assert torch.equal(logits(adapted.model), before)


def test_halfway_lies_between_the_unquantised_base_and_the_tuned_weights():
    run = make()
    run.train()
    base, tuned, half = run.adapted.tuned_state(0.0), run.adapted.tuned_state(1.0), run.adapted.tuned_state(0.5)
    assert all(torch.equal(t, base[n]) for n, t in tiny.llama().state_dict().items())
    assert all(torch.allclose(half[n], (base[n] + tuned[n]) / 2, atol=1e-6) for n in base)


def test_drift_counts_what_quantisation_did():
    model, task = tiny.llama(), get_task("text-generation")
    rows = sequence_rows([list(r.input_ids) for r in text_rows(4)], 1)
    reference = take_reference(model, task, rows)
    run = make(model=model)
    with run.adapted.at_strength(1.0) as at_start:  # nothing trained yet
        assert kl_drift(reference, at_start).interval.value > 1e-4
    with run.adapted.base() as base:
        assert kl_drift(reference, base).interval.value < 1e-9


def test_a_stage_is_quantised_again_and_carried(tmp_path):
    run = make(double_quantisation=False)
    run.train()
    tuned = logits(run.adapted.model)
    carry.save_stage(tmp_path / "stages" / "first", run.adapted, {})
    for way, still in (("frozen", 14), ("training", 14), ("fold", 0)):
        again = Adapted(tiny.llama())
        carry.begin(again, "stages.first", way, tmp_path, "recipe.yaml")
        assert len(again.quantised()) == still and close(logits(again.model), tuned)
    later = Run({"lora": LoRA(rank=2)}, model=again, steps=2)
    later.train()
    carry.begin(again, "stages.first", "drop", tmp_path, "recipe.yaml")
    assert not again.quantised() and torch.equal(logits(again.model), logits(tiny.llama()))


def test_the_adapter_is_peft_s_and_goes_back_onto_a_four_bit_base(tmp_path):
    run = make()
    run.train()
    assert save_adapter(run.adapted, tmp_path, "tiny") == 28
    other = make()
    for name in list(other.adapted.deltas()):
        detach(other.adapted.structure.site(name))
    load_adapter(other.adapted, tmp_path)
    assert close(logits(other.adapted.model), logits(run.adapted.model))


def test_a_form_that_does_not_fold_is_refused_and_others_are_not():
    class Bent(LowRank):
        form, foldable = "bent", False

    run = make()
    site = run.adapted.structure.linear_sites()[0]
    with pytest.raises(MethodError, match="bent .* 4 bits"):
        attach(site, "x", Bent(torch.zeros(1, site.in_features), torch.zeros(site.out_features, 1), 1.0))
    attach(
        site, "sparse", Sparse(torch.tensor([3, 9]), torch.tensor([0.5, -0.5]), (site.out_features, site.in_features))
    )
    said = logits(run.adapted.model)
    with run.adapted.at_strength(1.0) as model:
        assert close(logits(model), said)


def test_methods_that_need_the_weights_are_refused_beside_it_before_anything_is_loaded():
    from tunewright.catalogue import load_method
    from tunewright.contract.combining import check_conflicts

    for name in ("corda", "lift", "full", "hft"):
        with pytest.raises(MethodError, match=f"'{name}' needs the base's weights, and 'qlora' holds them in 4 bits"):
            check_conflicts([("qlora", QLoRA()), (name, load_method(name)())], stage="main")
    check_conflicts([("qlora", QLoRA()), ("asft", load_method("asft")())], stage="main")
