"""PVP: the new task starts from what upstream trained, whatever the head there knew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, logits
from tests.methods.reading import class_rows
from tunewright.contract.change import Change
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.pvp import PVP, mean_of
from tunewright.models.adapted import Adapted
from tunewright.models.peft_format import save_adapter
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.training.upstream import read_change

ROWS = {"new": class_rows()}


def upstream(seed: int = 0, labels: int = 5, **fields) -> Run:
    """A task of other classes, trained by LoRA."""
    run = Run(
        {"lora": LoRA(**{"rank": 3, "alpha": 9.0, **fields})},
        model=tiny.bert_classifier(labels=labels),
        task="text-classification",
        sources=ROWS,
        steps=4,
    )
    for i, p in enumerate(run.adapted.delta_parameters().values()):
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
    return run


def change_of(run: Run, name: str) -> Change:
    pairs = {n: by["lora"] for n, by in run.adapted.deltas().items()}
    scaled = {n: (d.lora_A.detach(), d.lora_B.detach() * d.scale) for n, d in pairs.items()}
    return Change(name, scaled, {"classifier.weight": run.adapted.model.classifier.weight})


def begun(changes: list[Change], listen=None, steps: int = 4, **fields) -> Run:
    return Run(
        {"pvp": PVP(upstream=("stages",), **fields)},
        model=tiny.bert_classifier(),
        task="text-classification",
        sources=ROWS,
        steps=steps,
        changes=lambda names: changes,
        listen=listen,
    )


def features(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().bert(torch.arange(10, 24)[None]).last_hidden_state


def test_at_the_first_step_features_are_those_that_upstream_ended_with():
    run = upstream()
    run.train()
    ours = begun([change_of(run, "up")])
    torch.testing.assert_close(features(ours.adapted.model), features(run.adapted.model), atol=1e-5, rtol=1e-4)
    assert (features(ours.adapted.model) - features(tiny.bert_classifier())).abs().max() > 1e-2
    assert ours.adapted.model.classifier.weight.shape[0] == 3, "the head is the new task's"
    with ours.adapted.base() as model:
        assert torch.equal(features(model), features(tiny.bert_classifier()))


def test_both_factors_train_on_and_the_base_stays():
    ours = begun([change_of(upstream(), "up")])
    start = {n: p.detach().clone() for n, p in ours.adapted.delta_parameters().items()}
    loop = ours.train()
    assert all(not torch.equal(p, start[n]) for n, p in ours.adapted.delta_parameters().items())
    assert all(p.grad is None for n, p in ours.adapted.base_parameters().items() if "classifier" not in n)
    assert loop.trained.count() >= sum(p.numel() for p in start.values())
    tuned = logits(ours.adapted.model)
    with ours.adapted.at_strength(1.0) as model:
        torch.testing.assert_close(logits(model), tuned, atol=1e-5, rtol=1e-4)
    assert_resumes(lambda listen: begun([change_of(upstream(), "up")], listen, dropout=0.2), 2)


def test_of_several_the_mean_change_is_taken():
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(r, 4, generator=g), torch.randn(6, r, generator=g)) for r in (2, 3)]
    A, B = mean_of(pairs)
    assert A.shape == (5, 4)
    torch.testing.assert_close(B @ A, sum(b @ a for a, b in pairs) / 2)
    empty = mean_of([(torch.empty(2, 4, device="meta"), torch.empty(6, 2, device="meta"))])
    assert [t.device.type for t in empty] == ["cpu", "cpu"] and not empty[0].any()


def test_an_adapter_with_a_head_of_other_classes_is_read(tmp_path: Path):
    run = upstream()
    save_adapter(run.adapted, tmp_path, "tiny")
    change = read_change(tmp_path, Adapted(tiny.bert_classifier()), "./up")
    torch.testing.assert_close(
        features(begun([change]).adapted.model), features(run.adapted.model), atol=1e-5, rtol=1e-4
    )


def test_changes_of_other_models_and_none_are_refused():
    wide = Change("wide", {"bert.encoder.layer.0.output.dense": (torch.zeros(2, 8), torch.zeros(32, 2))})
    with pytest.raises(MethodError, match="32 x 8, and the layer is 32 x 64"):
        begun([wide])
    with pytest.raises(MethodError, match="lacks"):
        begun([Change("other", {"model.layers.0.up_proj": (torch.zeros(2, 8), torch.zeros(8, 2))})])
    with pytest.raises(MethodError, match="can be read"):
        Run(
            {"pvp": PVP(upstream=("stages",))},
            model=tiny.bert_classifier(),
            task="text-classification",
            sources=ROWS,
        )


def test_check_takes_what_a_run_takes_and_names_a_folder_that_is_not_there(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0}
    first = small.write_recipe(tmp_path, "first", measurement=quick, stages__0__methods=[{"lora": {"rank": 2}}])
    run(first, out=tmp_path / "up", quiet=True)
    for folder, refused in (("./up", False), ("./nowhere", True)):
        own = [{"pvp": {"upstream": [folder]}}]
        found = check_recipe(
            Recipe.load(small.write_recipe(tmp_path, "pvp", measurement=quick, stages__0__methods=own))
        )
        assert bool(found.report.errors) is refused, found.report.errors
    assert "there is no folder './nowhere'" in str(found.report.errors[0])
