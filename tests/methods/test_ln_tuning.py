"""LN tuning: norms move as in a plain loop over them, and nothing else does (beside PEFT: tests/parity)."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tests.methods.selecting import BASES, EPS, gradient_numbers, plainly, rows_for, state_numbers, stayed
from tunewright.contract.method import Candidates
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.ln_tuning import LNTuning
from tunewright.models.adapted import Adapted


def is_norm(name: str) -> bool:
    return any(part in name.lower() for part in ("norm", "ln_"))


@pytest.mark.parametrize("kind", BASES)
def test_three_steps_are_those_of_a_plain_loop_over_the_norms(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"ln-tuning": LNTuning()}, model=make(), task=task, sources={"new": rows}, steps=3, eps=EPS)
    loop = r.train()
    wanted = plainly(make(), is_norm, rows, task)
    for name, p in wanted.named_parameters():
        torch.testing.assert_close(r.adapted.base_parameters()[name], p, atol=1e-5, rtol=1e-4)
    for name, same in stayed(r.adapted.model, make()).items():
        assert bool(same.all()) != is_norm(name), name
    count = sum(p.numel() for n, p in make().named_parameters() if is_norm(n))
    assert loop.trained.count() == count == gradient_numbers(loop)
    assert state_numbers(loop) == 2 * count
    assert sum(t.numel() for t in loop.trained.changed().values()) == count


def test_norms_of_queries_and_keys_and_batch_norms_count():
    names = LNTuning().choose(Candidates(Adapted(tiny.qwen3()))).names
    assert {n.split(".")[-2] for n in names} == {
        *("input_layernorm", "post_attention_layernorm"),
        *("q_norm", "k_norm", "norm"),
    }
    model = tiny.efficientnet()
    batch_norms = {n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    r = Run({"ln-tuning": LNTuning()}, model=model, task="image-classification", steps=2)
    statistics = {n: b.clone() for n, b in model.named_buffers()}
    loop = r.train()
    assert {n.rpartition(".")[0] for n in loop.trained.leaves} == batch_norms
    assert all(torch.equal(b, statistics[n]) for n, b in model.named_buffers()), "running statistics are the base's"


def test_some_norms_a_new_head_and_deltas():
    adapted = Run({"lora": LoRA(rank=2)}, model=tiny.gpt2()).adapted
    names = set(LNTuning(target_modules=["ln_1"]).choose(Candidates(adapted)).names)
    own = {f"transformer.h.{i}.ln_1.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert names == own | set(adapted.trainable_deltas())
    headed = Adapted(tiny.bert_classifier())
    headed.new = ("classifier.weight", "classifier.bias")
    assert set(headed.new) <= set(LNTuning().choose(Candidates(headed)).names)


def test_what_is_no_norm_is_refused():
    with pytest.raises(MethodError, match="is a linear layer and no norm"):
        Run({"ln-tuning": LNTuning(target_modules=["input_layernorm", "q_proj"])})
    with pytest.raises(MethodError, match="is no module"):
        Run({"ln-tuning": LNTuning(target_modules=["layer_norm"])})


def test_resumes():
    assert_resumes(lambda listen: Run({"ln-tuning": LNTuning()}, steps=4, listen=listen), 2)
