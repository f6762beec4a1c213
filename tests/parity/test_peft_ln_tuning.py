"""Norms that train, beside PEFT's LNTuning: the same tensors, the same logits, the same gradients over three steps.

Seen with PEFT 0.21: gradients agree to 2e-6 of the largest (float32, tiny Llama and GPT-2).
"""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tunewright.conformance.bench import token_rows
from tunewright.contract.method import Candidates
from tunewright.methods.parameter_selection.ln_tuning import LNTuning
from tunewright.models import peft_format
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task
from tunewright.training.trained import Trained

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity

TASK = get_task("text-generation")
BATCH = TASK.collate(token_rows("parity", 3))


def logits(model) -> torch.Tensor:
    return model(**BATCH.inputs).logits[BATCH.inputs["attention_mask"].bool()]


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_three_steps_are_pefts(make):
    adapted = Adapted(make())
    trained = Trained(adapted, {})
    trained.set(LNTuning().choose(Candidates(adapted)))
    theirs = peft.get_peft_model(make(), peft.LNTuningConfig(task_type="CAUSAL_LM"))
    named = {
        n.removeprefix("base_model.model.").replace(".ln_tuning_layers.default", ""): p
        for n, p in theirs.named_parameters()
        if p.requires_grad
    }
    ours = trained.parameters()
    assert ours.keys() == named.keys()
    for _ in range(3):
        a, b = logits(adapted.model), logits(theirs)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        a.logsumexp(-1).sum().backward()
        b.logsumexp(-1).sum().backward()
        for name, p in ours.items():
            torch.testing.assert_close(p.grad, named[name].grad, atol=1e-4, rtol=1e-4)
            assert float(p.grad.abs().max()) > 0
            with torch.no_grad():
                for q in (p, named[name]):
                    q -= 0.01 * q.grad
                    q.grad = None


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_each_reads_what_the_other_saved(make, tmp_path):
    adapted = Adapted(make())
    trained = Trained(adapted, {})
    trained.set(
        LNTuning(target_modules=("norm",) if make is tiny.llama else ("ln_f", "ln_1")).choose(Candidates(adapted))
    )
    with torch.no_grad():
        for p in trained.parameters().values():
            p += torch.randn_like(p) * 0.2
        wanted = logits(adapted.model.eval())
    assert peft_format.obstacle(adapted) is None
    count = peft_format.save_adapter(adapted, tmp_path / "ours", "tiny")
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = Adapted(make())
        assert peft_format.load_adapter(again, tmp_path / folder) == count == len(trained.parameters())
        with torch.no_grad():
            torch.testing.assert_close(logits(again.model.eval()), wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(logits(theirs), wanted, atol=1e-5, rtol=1e-5)


def test_norms_beside_anything_else_are_no_adapter(tmp_path):
    adapted = Adapted(tiny.llama())
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.weight"):
        adapted.remember(name)
        with torch.no_grad():
            adapted.base_parameters()[name] += 1.0
    assert peft_format.obstacle(adapted) == "there is no low-rank delta"
