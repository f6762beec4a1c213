"""Augmentations crossed with efficient tuning: EDA's operations, mixed features, and the supervised contrast."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests import small, tiny
from tests.methods.driving import Run
from tests.methods.making import made
from tunewright.contract.records import Record
from tunewright.data.synthesize.eda import EDA, delete, insert, replace, swap
from tunewright.errors import DataError
from tunewright.methods.objectives.mixup import Mixup
from tunewright.methods.objectives.supervised_contrastive import SupervisedContrastive
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.runs.run import run
from tunewright.training.train import Loop

TEXTS = ["the film was slow but the film was good and I liked it a lot", "no", "a long story about a river of stone"]
ROWS = [Record({"text": t, "label": "x"}, id=f"r:{i}", source="r", where=f"r.jsonl:{i}") for i, t in enumerate(TEXTS)]
SYNONYMS = {"Film": ["movie"], "story": ["tale", "account"]}


def test_each_operation_does_what_eda_says() -> None:
    words, rng = TEXTS[0].split(), random.Random(0)
    known = {w.lower(): s for w, s in SYNONYMS.items()}
    once = swap(words, 1, rng)
    assert sorted(once) == sorted(words) and sum(a != b for a, b in zip(once, words, strict=True)) in (0, 2)
    gone = [len(delete(words, 0.3, rng)) for _ in range(400)]
    assert sum(gone) / 400 == pytest.approx(0.7 * len(words), rel=0.03)
    assert delete(["a", "b"], 1.0, rng) in (["a"], ["b"])
    assert replace(words, 2, rng, known) == ["movie" if w == "film" else w for w in words]
    both = {"river": ["stream"], "stone": ["rock"], "long": ["tall"]}
    assert sum(w in ("stream", "rock", "tall") for w in replace(TEXTS[2].split(), 2, rng, both)) == 2
    longer = insert(words, 2, rng, known)
    assert longer.count("movie") == 2 and [w for w in longer if w != "movie"] == words
    assert replace(["no"], 1, rng, known) == insert(["no"], 1, rng, known) == swap(["no"], 1, rng) == ["no"]


def test_rows_stay_and_copies_follow_with_their_labels_and_no_text_twice() -> None:
    method = EDA(copies=3, operations=["swap", "delete", "replace"], synonyms=SYNONYMS, amount=0.2)
    found, _ = made(method, ROWS, lambda prompt, k: "")
    kept = [m for m in found if not m.thrown]
    assert [dict(m.values) for m in found if m.verdict == "as it was"] == [dict(r) for r in ROWS]
    assert all(m.values["label"] == "x" for m in found) and len(found) == 3 * 4 == method.makes(3)
    of = {r.id: [m.verdict for m in found if m.of is r] for r in ROWS}
    assert all(sorted(v[1:]) == ["delete", "replace", "swap"] for v in of.values())
    assert [m.thrown for m in found if m.of is ROWS[1]][1:] == ["it says what is there already"] * 3
    texts = [m.values["text"] for m in kept]
    assert len(set(texts)) == len(texts)
    again, _ = made(method, ROWS[::-1], lambda prompt, k: "")
    assert {m.values["text"] for m in again} == {m.values["text"] for m in found}


def test_what_cannot_be_augmented_is_said() -> None:
    with pytest.raises(ValueError, match="replace needs synonyms"):
        EDA(operations=["swap", "replace"])
    with pytest.raises(ValueError, match="nothing reads the synonyms"):
        EDA(synonyms=SYNONYMS)
    with pytest.raises(DataError, match="no text in 'prompt'") as error:
        made(EDA(), [Record({"messages": []}, id="m", where="m.jsonl:1")], lambda prompt, k: "")
    assert error.value.where == "m.jsonl:1"


def test_in_a_run_the_page_counts_copies_by_operation(tmp_path: Path) -> None:
    small.write_inputs(tmp_path, train=6)
    stage = {"name": "main", "methods": [{"lora": {"rank": 2}}], "budget": {"steps": 1}}
    changes = {"data__synthesize": [{"eda": {"copies": 2, "amount": 0.5}}], "stages": [stage]}
    run(small.write_recipe(tmp_path, **changes, measurement__strengths=[1.0]), tmp_path / "out", quiet=True)
    head, *_ = map(json.loads, (tmp_path / "out/made/main.jsonl").read_text().splitlines())
    assert head["made"] == [18] and head["verdicts"]["as it was"] == 6 and not head["writers"]
    assert sum(head["verdicts"].values()) == head["kept"] and set(head["verdicts"]) == {"as it was", "swap", "delete"}


def once(method: object, **more: object):
    """(loss of a step's batch through `objective`, features, labels, head) of a tiny classifier of pictures."""
    made = Run({"full": FullFineTuning(), "it": method}, model=tiny.vit(), task="image-classification", batch=9)
    bound = made.methods.bound[1].method
    batch = made.task.collate([row for row, _ in made.cursor.next_batch()])
    outputs = made.task.forward(made.adapted.model.eval(), batch)
    state = {"state": made.state("it"), "step": 5} if isinstance(method, Mixup) else {}
    loss = float(bound.objective(outputs, batch, **state).value.detach())
    return loss, outputs.features.detach().double(), batch.labels.tolist(), made.adapted.model.classifier, state


def test_the_contrast_is_the_formula_row_by_row() -> None:
    loss, f, classes, head, _ = once(SupervisedContrastive(amount=0.7, temperature=0.4))
    logits = f @ head.weight.detach().double().T + head.bias.detach().double()
    cross = -sum(float(row.log_softmax(-1)[c]) for row, c in zip(logits, classes, strict=True)) / len(classes)
    z, terms = [x / x.norm() for x in f], []
    for i, c in enumerate(classes):
        others = [j for j in range(len(classes)) if j != i]
        norm = sum(math.exp(float(z[i] @ z[j]) / 0.4) for j in others)
        alike = [j for j in others if classes[j] == c]
        if alike:
            terms.append(-sum(float(z[i] @ z[j]) / 0.4 - math.log(norm) for j in alike) / len(alike))
    assert len({classes.count(c) for c in classes}) >= 1 and terms
    assert loss == pytest.approx(cross + 0.7 * sum(terms) / len(terms), rel=1e-5)


def test_mixup_is_the_formula_with_the_steps_draws() -> None:
    loss, f, classes, head, given = once(Mixup(alpha=0.8))
    rng, n = random.Random(f"{given['state'].data['seed']}/5"), len(classes)
    order = rng.sample(range(n), n)
    share = [rng.betavariate(0.8, 0.8) for _ in range(n)]
    total = 0.0
    for i, (j, a) in enumerate(zip(order, share, strict=True)):
        logp = F.linear(a * f[i] + (1 - a) * f[j], head.weight.double(), head.bias.double()).log_softmax(-1)
        total -= a * float(logp[classes[i]]) + (1 - a) * float(logp[classes[j]])
    assert loss == pytest.approx(total / n, rel=1e-5)


@pytest.mark.parametrize("method", [Mixup(), SupervisedContrastive()])
def test_micro_steps_give_the_same_gradient(method: object) -> None:
    found = []
    for micro in (None, 4):
        made = Run(
            {"full": FullFineTuning(), "it": method},
            model=tiny.vit(),
            task="image-classification",
            batch=9,
            micro_tokens=micro,
        )
        loop = Loop(made.stage)
        record = loop.gradients(made.cursor.next_batch())
        found.append({"loss": torch.tensor(record["loss"]), **loop.trained.gradients()})
    for name, g in found[0].items():
        torch.testing.assert_close(found[1][name], g, atol=2e-6, rtol=1e-4)
