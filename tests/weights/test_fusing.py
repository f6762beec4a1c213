"""Fused models: a plain mean of bodies, and no task's head."""

from __future__ import annotations

import torch

from tests import tiny
from tests.weights.test_pleas import learning
from tunewright.weights.blocks import merge_in_memory, state_of
from tunewright.weights.merge.fusing_finetuned_models import FusingFinetunedModels, is_head


def test_bodies_are_averaged_and_heads_are_the_parents():
    base, *models = (tiny.bert_classifier(s) for s in range(4))
    merged, _ = merge_in_memory(FusingFinetunedModels(), learning(*models, base=base))
    parent, states = state_of(base), [state_of(m) for m in models]
    vectors = {
        n: torch.stack([s[n] - parent[n] for s in states]).mean(0) for n in parent if parent[n].is_floating_point()
    }
    for name, change in vectors.items():
        if name.startswith("classifier."):
            assert torch.equal(merged[name], parent[name])
        else:
            assert torch.allclose(merged[name] - parent[name], change, atol=1e-6), name
    assert any(n.startswith("classifier.") for n in merged)


def test_a_head_of_another_task_is_thrown_away_and_one_model_is_its_own_body():
    base, model = tiny.bert_classifier(0), tiny.bert_classifier(1)
    model.classifier = torch.nn.Linear(32, 7)
    merged, _ = merge_in_memory(FusingFinetunedModels(), learning(model, base=base))
    assert torch.equal(merged["classifier.weight"], base.classifier.weight)
    assert torch.equal(merged["bert.pooler.dense.weight"], model.bert.pooler.dense.weight)
    left, _ = merge_in_memory(FusingFinetunedModels(heads=("classifier", "pooler")), learning(model, base=base))
    assert torch.equal(left["bert.pooler.dense.weight"], base.bert.pooler.dense.weight)


def test_names_of_heads_are_whole_words_and_a_language_models_head_is_body():
    assert is_head("classifier.weight", ("classifier",)) and is_head("model.score.bias", ("score",))
    assert not is_head("model.scores.weight", ("score",)) and not is_head("lm_head.weight", ("classifier", "score"))
