"""Models of several builds are given what their own processors make of texts and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import seeing
from tests.seeing import picture
from tests.tasks.test_image_text_to_text import TASK, Reads, turns
from tunewright.models.adapted import Adapted
from tunewright.tasks.image_text_to_text import read_by

FAMILIES = [seeing.gemma3, seeing.idefics3, seeing.llava_next, seeing.qwen2_vl]


@pytest.mark.parametrize("make", FAMILIES, ids=lambda f: f.__name__)
def test_rows_and_logits_are_those_of_transformers_own_processor_and_model(make: Any, tmp_path: Path) -> None:
    """With no, one and two pictures of several sizes in a batch; the folder is read as it is found."""
    model, theirs = make(tmp_path)
    own = Reads(tmp_path)
    pictures = [picture(i, 20 + 9 * i, 40 - 5 * i) for i in range(3)]
    said = [(turns([None, "fox"], ["warm"]), pictures[:1]), (turns(["the fox"], ["warm"]), [])]
    said.append((turns(["red ", None, " or ", None, "dog"], ["cold"], ["blue"], ["teal"]), pictures[1:]))
    rows = [own.row(messages=t, images=p) for t, p in said]
    texts = [theirs.apply_chat_template(t, tokenize=False) for t, _ in said]
    nested = make in (seeing.idefics3, seeing.gemma3)
    wanted: Any = [p for _, p in said] if nested else pictures
    inputs = theirs(text=texts, images=wanted, add_special_tokens=False, return_tensors="pt", padding=True)
    for row, ids in zip(rows, inputs["input_ids"].tolist(), strict=True):
        assert list(row.input_ids) == ids[: len(row.input_ids)]
    batch = TASK.collate(rows)
    with torch.no_grad():
        outputs = TASK.forward(own.loaded.model, batch)
        whole = model(**inputs).logits[:, : batch.inputs["input_ids"].shape[1]].flatten(0, 1)
        alone = torch.cat([TASK.forward(own.loaded.model, TASK.collate([r])).log_probs() for r in rows])
    torch.testing.assert_close(outputs.logits, whole[batch.positions], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs.log_probs(), alone, rtol=1e-5, atol=1e-5)
    assert whole[batch.positions].std() > 0.05
    structure = Adapted(own.loaded.model).structure
    seen = structure.match(["vision_tower"])
    assert len(structure.match("all-linear")) == 14 and len(seen) >= 8
    assert not {s.name for s in seen} & {s.name for s in structure.match("all-linear")}
    model.train()
    for some in (rows[:1], rows[1:2]):
        batch = TASK.collate(some)
        told = read_by(model, batch.inputs)
        assert ("mm_token_type_ids" in told) == (make is seeing.qwen2_vl)
        assert ("token_type_ids" in told) == (make is seeing.gemma3 and some[0].fields["picture_tokens"] > 0)
        value = TASK.loss(TASK.forward(model, batch), batch).value.mean()
        (gradient,) = torch.autograd.grad(value, model.get_input_embeddings().weight)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
