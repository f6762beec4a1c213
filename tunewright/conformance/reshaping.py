"""Checks of methods that change a model's shape: the base is had back in its own, files do the surgery again, and what
is exported is a model of transformers in the new one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.conformance.bench import Tiny
from tunewright.conformance.case import Case, Check
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.training import tiny
from tunewright.errors import ModelError
from tunewright.loading.save import save_pretrained, verify_folder
from tunewright.models import delta_format, peft_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing
from tunewright.training import carry


def shapes(adapted: Adapted) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in adapted.base_parameters().items()}


def declares_its_surgery(case: Case) -> None:
    """A method changes the model's shape where it declares `reshapes`, and nowhere else."""
    t = tiny(case)
    before, now = {n: tuple(x.shape) for n, x in t.base.items()}, shapes(t.adapted)
    changed = any(before.get(n) != s for n, s in now.items())
    told = f"declared reshapes = {case.method.reshapes}, and {len(t.adapted.operated)} surgeries were done"
    assert bool(t.adapted.operated) == _reshapes(case), told
    assert changed == _reshapes(case), "the parameters' names and shapes say otherwise than reshapes"


def base_keeps_its_shape(case: Case) -> None:
    """Inside `base()` the model has the base's own config, names and shapes, and afterwards its new ones again; at the
    start of training it is what the surgery made, and strengths between have the new shape.
    """
    t = tiny(case)
    config = _config(t.fresh())
    start, grown = {n: p.clone() for n, p in t.adapted.model.named_parameters()}, _config(t.adapted.model)
    t.run()
    tuned = shapes(t.adapted)
    with t.adapted.base() as model:
        assert _config(model) == config, "the base's config is not its own"
        assert not differing(dict(model.state_dict()), t.base), "the base's tensors are not its own"
        assert t.adapted.structure.blocks and shapes(t.adapted) != tuned, "the structure is not the base's"
        with t.adapted.base() as again:
            assert not differing(dict(again.state_dict()), t.base), "asked for twice, the base is another one"
    assert shapes(t.adapted) == tuned and _config(t.adapted.model) == grown, "the new shape does not come back"
    with t.adapted.started() as model:
        begun = {n: p for n, p in model.named_parameters() if n in start}
        assert not differing(begun, {n: start[n] for n in begun}), "the start of training is not had back"
    with t.adapted.at_strength(0.5):
        assert shapes(t.adapted) == tuned, "at half the strength the model has another shape"
    t.adapted.forget_changes()
    assert _config(t.adapted.model) == config and not t.adapted.operated, "the base's shape does not come back for good"


def is_done_again_from_files(case: Case) -> None:
    """From a stage's folder, and from a change's file, a fresh base gets the shape, the config and every bit."""
    t = tiny(case).run()
    tuned, logits = dict(t.adapted.model.state_dict()), t.logits()
    assert peft_format.obstacle(t.adapted), "an adapter is offered for a model of another shape than the base's"
    with tempfile.TemporaryDirectory() as folder:
        carry.save_stage(Path(folder) / "stage", t.adapted, {})
        ways: list[Any] = [lambda a: carry.load_stage(Path(folder) / "stage", a)]
        if t.adapted.wrapper is None:
            delta_format.save_delta(t.adapted, Path(folder), "tiny")
            ways.append(lambda a: delta_format.load_delta(a, folder))
        for way in ways:
            fresh = Adapted(t.fresh(), base_hash=t.adapted.base_hash)
            way(fresh)
            assert _config(fresh.model) == _config(t.adapted.model), "read back, its config is another one"
            wrong = differing(dict(fresh.model.state_dict()), tuned)
            assert not wrong, f"read back from its files, these tensors are other ones: {wrong[:3]}"
            assert agrees(t.logits(fresh.outer), logits), "read back from its files, the model says something else"
            fresh.forget_changes()
            wrong = differing(dict(fresh.model.state_dict()), t.base)
            assert not wrong, f"taken off again, these tensors are not the base's: {wrong[:3]}"


def exports_in_its_new_shape(case: Case) -> None:
    """Folded and saved, transformers loads it by its own config: every bit, and the logits to rounding."""
    t = tiny(case).run()
    tuned = t.logits()
    t.adapted.fold()
    t.adapted.plain()
    assert agrees(t.logits(t.adapted.model), tuned), "folding the change moves what the model says"
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_pretrained(t.adapted.model, None, Path(folder) / "model", {})
            gap = verify_folder(Path(folder) / "model", t.adapted.model, _inputs(t))
        except ModelError as e:
            raise AssertionError(f"what is exported is no model of transformers: {e}") from e
    assert gap <= 1e-4 * float(tuned.abs().max()), f"loaded anew, its logits differ by {gap:.2g}"


def _inputs(t: Tiny) -> Tensor:
    given = t.probe.inputs.get("input_ids")
    return t.probe.inputs["pixel_values"] if given is None else torch.arange(4, 20).view(2, 8)


def _config(model: Any) -> dict[str, Any]:
    told: dict[str, Any] = model.config.to_dict()
    return told


def _reshapes(case: Case) -> bool:
    return any(m.reshapes for _, m in case.named)


def _reshaping(case: Case) -> bool:
    return fills_training_slots(case) and _reshapes(case)


CHECKS = [
    Check(
        "declares its surgery",
        lambda case: fills_training_slots(case) and ("prepare" in case.slots or _reshapes(case)),
        declares_its_surgery,
    ),
    Check("the base keeps its shape", _reshaping, base_keeps_its_shape),
    Check("its surgery is done again from files", _reshaping, is_done_again_from_files),
    Check("exports in its new shape", _reshaping, exports_in_its_new_shape),
]
