"""LoReFT: blocks' outputs are edited at prompts' ends alone, wherever the model runs, and nowhere while answering."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Run, assert_resumes, image_rows, text_rows
from tunewright.contract.batch import Row
from tunewright.contract.needs import NeedContext
from tunewright.errors import MethodError
from tunewright.finished.chat import Chat
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.adapters.loreft import LoReFT, orthonormal
from tunewright.methods.adapters.prompt_tuning import PromptTuning
from tunewright.methods.needs.prompted import Prompted
from tunewright.models.adapted import Adapted
from tunewright.runs.run import run
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def by_hand(adapted: Adapted, ids: list[int], prompt: int, first: int, last: int) -> torch.Tensor:
    """[T, V] logits: a hook on each block of a fresh model edits h at each place as the paper writes it."""
    fresh = tiny.llama()
    half = prompt // 2
    places = [*range(min(first, half)), *range(prompt - min(last, half), prompt)]
    for i, block in enumerate(fresh.model.layers):
        edit = adapted.deltas()[f"model.layers.{i}"]["loreft"]

        def after(_, args, h, edit=edit):
            h = h.clone()
            R = torch.linalg.qr(edit.rotation[0].T).Q.T  # whatever its signs: R^T (W h + b - R h) needs the same R
            signs = torch.sign((R * edit.rotations()[0]).sum(1))
            R = R * signs[:, None]
            for t in places:
                x = h[0, t]
                h[0, t] = x + R.T @ (edit.source[0] @ x + edit.bias_of[0] - R @ x)
            return h

        block.register_forward_hook(after)
    with torch.no_grad():
        return fresh(torch.tensor([ids])).logits[0]


def test_a_trained_model_is_the_formula_at_the_ends_of_the_prompt():
    r = Run({"loreft": LoReFT(rank=3, first=2, last=1)}, sources={"new": text_rows(prompt=5)}, steps=4)
    start = {n: p.detach().clone() for n, p in r.adapted.delta_parameters().items()}
    loop = r.train()
    assert len(start) == 6 and all(not torch.equal(p, start[n]) for n, p in r.adapted.delta_parameters().items())
    assert loop.trained.count() == 2 * (2 * 3 * 32 + 3)
    ids = list(range(20, 31))
    row = Row("x", "x", ids, [0.0] * 5 + [1.0] * 6)
    with torch.no_grad():
        ours = TASK.forward(r.adapted.model, TASK.collate([row], True)).logits
    theirs = by_hand(r.adapted, ids, 5, 2, 1)[4:-1]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_identity_start_is_the_base_and_the_random_one_is_not():
    rows = text_rows(3, prompt=4)
    batch = TASK.collate(rows)
    with torch.no_grad():
        base = TASK.forward(tiny.llama(), batch).logits
        for start, same in (("identity", True), ("random", False)):
            model = Run({"loreft": LoReFT(rank=4, start=start)}).adapted.model.eval()
            gap = float((TASK.forward(model, batch).logits - base).abs().max())
            assert (gap < 1e-5) is same, start


def test_R_is_evenly_drawn_and_orthonormal():
    R = orthonormal(2, 3, 16, torch.Generator().manual_seed(0))
    for r in R:
        torch.testing.assert_close(r @ r.T, torch.eye(3), atol=1e-5, rtol=0)
    assert not torch.allclose(R[0], R[1])


def test_blocks_are_chosen_and_the_ends_may_have_their_own():
    r = Run({"loreft": LoReFT(rank=2, blocks=[1], shared=False)})
    (edit,) = (d["loreft"] for d in r.adapted.deltas().values())
    assert set(r.adapted.deltas()) == {"model.layers.1"} and edit.rotation.shape == (2, 2, 32)


def test_it_resumes_beside_lora_in_training():
    def make(listen):
        methods = {"loreft": LoReFT(rank=2, dropout=0.2), "lora": LoRA(rank=2)}
        return Run(methods, sources={"new": text_rows(prompt=4)}, steps=5, listen=listen)

    assert_resumes(make, 3)


def test_pictures_are_all_prompt():
    r = Run({"loreft": LoReFT(rank=2, first=1, last=1)}, model=tiny.vit(), task="image-classification")
    start = {n: p.detach().clone() for n, p in r.adapted.delta_parameters().items()}
    r.train()
    assert all(not torch.equal(p, start[n]) for n, p in r.adapted.delta_parameters().items())
    task = get_task("image-classification")
    batch = task.collate(image_rows(2))
    with torch.no_grad():
        edited = task.forward(r.adapted.model.eval(), batch, hidden=True).hidden[1]
        with r.adapted.base() as base:
            plain = task.forward(base, batch, hidden=True).hidden[1]
    moved = (edited - plain).abs().amax(-1) > 1e-6
    assert moved[:, [0, -1]].all() and not moved[:, 1:-1].any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"first": 0, "last": 0}, "edits no token"),
        ({"blocks": [2]}, "there is no block 2: the model has 2"),
        ({"rank": 33}, "exceeds the width 32"),
    ],
)
def test_what_cannot_be_is_refused(fields, words):
    with pytest.raises(MethodError, match=words):
        Run({"loreft": LoReFT(**fields)})


def test_convolutions_are_refused():
    with pytest.raises(MethodError, match="blocks are convolutions"):
        Run({"loreft": LoReFT()}, model=tiny.efficientnet(), task="image-classification")


def test_rows_without_a_prompt_are_refused_before_training():
    plain = [Row(f"p:{i}", "p", [9, 8, 7], [1.0] * 3) for i in range(3)]
    with pytest.raises(MethodError, match="no row of 'train' has a prompt"):
        Run({"loreft": LoReFT()}, sources={"new": plain})
    half = NeedContext(Adapted(tiny.llama()), TASK, 0, {"train": [*plain, *text_rows(3)]})
    assert Prompted().compute(half) == 0.5


def test_a_method_that_lengthens_inputs_is_refused_in_words():
    r = Run({"loreft": LoReFT(rank=2), "prompt-tuning": PromptTuning(length=2)})
    with pytest.raises(MethodError, match="adds or leaves out tokens"):
        r.train()


def test_a_whole_run_measures_talks_and_refuses_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    small.write_inputs(tmp_path)
    quick = {"drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "rows": 2, "few_shot": 0}
    recipe = small.write_recipe(tmp_path, "loreft", measurement=quick, stages__0__methods=[{"loreft": {"rank": 2}}])
    result = run(recipe, out=tmp_path / "out", quiet=True)
    assert not (result.folder / "adapter").exists() and result.report.trade == []
    finished = open_run(result.folder)
    for temperature in (0.0, 0.7):
        talk = Chat(finished, temperature=temperature, tokens=3)
        assert set(talk.answer("hello there")) == {"base", "tuned"}
    with pytest.raises(MethodError, match="cannot be folded into plain weights"):
        export(result.folder)
