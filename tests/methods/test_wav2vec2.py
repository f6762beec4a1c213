"""wav2vec 2.0's objective beside transformers' own, what is drawn, and stages without labels before one with."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.methods.driving import Run, snapshot
from tests.tasks.hearing import ctc_folder, recipe
from tests.tasks.hearing import rows as sound_rows
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_sounds import RATE, WORDS, tone, wav2vec2
from tunewright.contract.left import Earlier, Left
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError, MethodError
from tunewright.methods.objectives.wav2vec2 import HEAD, Wav2Vec2, contrast, masked_places, negatives_of, undiversity
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.tasks._features import audio_options

TASK = get_task("audio-classification")
SMALL: dict[str, Any] = {"mask_length": 3, "negatives": 5, "codes": 6, "code_dim": 8, "space": 16}


def model(**more: Any) -> Any:
    return seeded(lambda: wav2vec2("Wav2Vec2ForSequenceClassification", mask_time_prob=0.5, **more))


def rows(count: int = 4, seconds: float = 0.05) -> list[Any]:
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=False)
    options = EncodeOptions(labels=WORDS, audio=audio_options(extractor, model().config))
    sounds = [tone((300, 1500)[i % 2], seconds + 0.01 * (i % 3), i) for i in range(count)]
    records = [
        Record({"audio": {"array": s, "sampling_rate": RATE}, "label": WORDS[i % 2]}, id=f"r:{i}", source="new")
        for i, s in enumerate(sounds)
    ]
    return [TASK.encode(r, None, options) for r in records]


def drive(method: Wav2Vec2, **more: Any) -> Run:
    given = {"model": model(), "sources": {"new": rows()}, "batch": 2, "steps": 4, **more}
    return Run({"full": FullFineTuning(), "wav2vec2": method}, task=TASK.name, **given)


# -- what is drawn -----------------------------------------------------------------------------------------------------


@example(4, 1.0, 2, 13)
@given(st.integers(3, 300), st.floats(0.05, 1.0), st.integers(1, 20), st.integers(0, 99))
def test_spans_hide_some_places_and_never_all(places, share, length, seed):
    mask = masked_places(places, share, length, random.Random(seed))
    assert len(mask) == places and 0 < mask.sum() < places


def test_spans_hide_what_transformers_would():
    """Of 200 places with 0.65 and 10: mean share of 2,000 draws within a point of transformers' own."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    ours = np.mean([masked_places(200, 0.65, 10, random.Random(i)).mean() for i in range(2000)])
    np.random.seed(0)
    assert ours == pytest.approx(_compute_mask_indices((2000, 200), 0.65, 10).mean(), abs=0.01)


def test_negatives_are_other_masked_places_each_as_likely():
    mask = np.array([0, 1, 1, 0, 1, 1, 0], bool)
    drawn = negatives_of(mask, 3000, random.Random(0))
    for place, own in zip(np.flatnonzero(mask), drawn, strict=True):
        others = [p for p in np.flatnonzero(mask) if p != place]
        assert sorted(set(own.tolist())) == others
        assert np.bincount(own, minlength=7)[others] == pytest.approx(1000, rel=0.15)
    assert negatives_of(np.array([1, 0], bool), 4, random.Random(0)).size == 0


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers():
    """Wav2Vec2ForPreTraining with the same weights, mask, negatives and Gumbel noise: contrast and diversity of one
    recording to 1e-5 (its sums over the masked places divided by their number).
    """
    from transformers import Wav2Vec2ForPreTraining

    method, row = Wav2Vec2(**SMALL, groups=2, gumbel=(0.7, 0.7)), rows(1)[0]
    base = model()
    run = drive(method, model=base, sources={"new": [row]}, batch=1)
    state = run.state("wav2vec2")
    batch = method.batch(TASK.collate([row]), state, lambda i: random.Random(5))
    ours = method.objective(batch, 0, run.plan, state)

    config = base.config
    config.update({"num_codevector_groups": 2, "num_codevectors_per_group": 6, "codevector_dim": 16})
    config.update({"proj_codevector_dim": 16, "contrastive_logits_temperature": 0.1, "num_negatives": 5})
    config.update({"apply_spec_augment": True, "feat_quantizer_dropout": 0.0})
    theirs = Wav2Vec2ForPreTraining(config)
    theirs.wav2vec2.load_state_dict(base.wav2vec2.state_dict())
    head = dict(state.named_parameters())
    with torch.no_grad():
        theirs.quantizer.codevectors.copy_(head["codebook"].reshape(1, 12, 8))
        theirs.quantizer.weight_proj.weight.copy_(head["scores_weight"])
        theirs.quantizer.weight_proj.bias.copy_(head["scores_bias"])
        for layer, name in ((theirs.project_q, "target"), (theirs.project_hid, "context")):
            layer.weight.copy_(head[f"{name}_weight"])
            layer.bias.copy_(head[f"{name}_bias"])
    theirs.set_gumbel_temperature(0.7)
    theirs.train()
    mask, places = batch.fields["masked"], batch.fields["masked"].shape[1]
    state_before = torch.get_rng_state()
    torch.manual_seed(int(batch.fields["noise"][0]))  # the noise that gumbel_softmax draws [T G, V]
    out = theirs(
        batch.inputs["input_values"], mask_time_indices=mask, sampled_negative_indices=batch.fields["negatives"]
    )
    torch.set_rng_state(state_before)
    count = int(mask.sum())
    assert 1 < count < places
    assert ours.logs["contrast"].item() == pytest.approx(out.contrastive_loss.item() / count, rel=1e-5)
    assert ours.logs["unused codes"].item() == pytest.approx(out.diversity_loss.item() / count, rel=1e-5)
    assert ours.value.item() == pytest.approx(out.loss.item() / count, rel=1e-5)


def test_a_negative_that_is_the_target_itself_does_not_count():
    c, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    other = torch.tensor([[0.0, 1.0]])
    one = contrast(c, q, torch.stack([q, other], 1), 0.5)
    assert torch.allclose(one, contrast(c, q, other[:, None], 0.5))
    assert float(contrast(c, q, other[:, None], 0.5)) == pytest.approx(np.log(1 + np.exp(-2)))


def test_codes_that_are_all_as_likely_leave_none_unused():
    assert float(undiversity(torch.full((4, 2, 5), 0.2))) == pytest.approx(0, abs=1e-6)
    assert float(undiversity(torch.eye(5)[[0, 0]][:, None])) == pytest.approx(1 - 1 / 5)


def test_a_recording_gives_the_same_alone_and_beside_others():
    method, run = Wav2Vec2(**SMALL), drive(Wav2Vec2(**SMALL))
    state, some = run.state("wav2vec2"), rows(3)

    def loss(given: list[Any], keys: list[int]) -> torch.Tensor:
        batch = method.batch(TASK.collate(given), state, lambda i: random.Random(keys[i]))
        return method.objective(batch, 0, run.plan, state).value

    together = loss(some, [0, 1, 2])
    alone = torch.cat([loss([row], [k]) for k, row in enumerate(some)])
    torch.testing.assert_close(together, alone)


def test_the_gradient_reaches_encoder_mask_vector_and_codebooks_and_not_the_classifier():
    method, run = Wav2Vec2(**SMALL), drive(Wav2Vec2(**SMALL))
    state, base = run.state("wav2vec2"), run.adapted.model.requires_grad_(True)
    batch = method.batch(TASK.collate(rows(2)), state, lambda i: random.Random(i))
    method.objective(batch, 0, run.plan, state).value.sum().backward()
    still = [n for n, p in state.named_parameters() if p.grad is None or not float(p.grad.abs().sum())]
    assert still == []
    inner = dict(base.wav2vec2.named_parameters())
    assert [n for n, p in inner.items() if p.grad is None] == []
    assert inner["masked_spec_embed"].grad.abs().sum() > 0
    assert base.classifier.weight.grad is None and base.projector.weight.grad is None


def test_codes_are_drawn_at_a_temperature_that_falls_over_the_stage():
    """Which code is chosen does not hang on tau; the gradient of the scores does."""

    def slope(gumbel: tuple[float, float], step: int) -> torch.Tensor:
        method = Wav2Vec2(**SMALL, gumbel=gumbel)
        run = drive(method)
        state = run.state("wav2vec2")
        batch = method.batch(TASK.collate(rows(1)), state, lambda i: random.Random(i))
        method.objective(batch, step, run.plan, state).value.sum().backward()
        return state.get_parameter("scores_weight").grad

    last = drive(Wav2Vec2(**SMALL)).plan.steps - 1
    torch.testing.assert_close(slope((2.0, 0.5), 0), slope((2.0, 2.0), 0))
    torch.testing.assert_close(slope((2.0, 0.5), last), slope((0.5, 0.5), 0))
    assert not torch.allclose(slope((2.0, 2.0), 0), slope((0.5, 0.5), 0))


def test_recordings_without_two_masked_places_say_nothing():
    method, run = Wav2Vec2(**SMALL), drive(Wav2Vec2(**SMALL))
    state = run.state("wav2vec2")
    batch = method.batch(TASK.collate(rows(1)), state, lambda i: random.Random(i))
    batch.fields["masked"][:] = False
    assert method.objective(batch, 0, run.plan, state).value.item() == 0.0


@pytest.mark.parametrize(
    "option",
    [
        {"mask_prob": 0.2},
        {"mask_length": 2},
        {"negatives": 2},
        {"groups": 1},
        {"codes": 3},
        {"code_dim": 4},
        {"space": 8},
        {"temperature": 0.5},
        {"diversity": 0.0},
        {"gumbel": (1.0, 0.1)},
    ],
    ids=lambda o: next(iter(o)),
)
def test_every_option_changes_the_run(option):
    plain, other = (drive(Wav2Vec2(**{**SMALL, **o})) for o in ({}, option))
    plain.train()
    other.train()
    assert [r["loss"] for r in plain.records] != [r["loss"] for r in other.records]


# -- in the loop -------------------------------------------------------------------------------------------------------


def test_it_learns_and_a_run_goes_on_from_any_step_to_the_same_bits():
    whole = drive(Wav2Vec2(**SMALL), steps=6)
    loop = whole.train()
    assert all(np.isfinite(r["loss"]) for r in whole.records)
    kept: list[Any] = []
    first = drive(Wav2Vec2(**SMALL), steps=6, listen=lambda loop: kept.append(snapshot(loop)))
    first.train()
    again = drive(Wav2Vec2(**SMALL), steps=6).train(resume=kept[2])
    ended, resumed = (dict(x.trained.changed()) for x in (loop, again))
    assert all(torch.equal(ended[n], resumed[n]) for n in ended)


def test_a_later_stage_goes_on_with_the_codebooks_that_the_one_before_left():
    left = {n: torch.full_like(p, 0.5) for n, p in drive(Wav2Vec2(**SMALL)).state("wav2vec2").named_parameters()}
    earlier = Earlier((Left("before", "wav2vec2", left),))
    state = drive(Wav2Vec2(**SMALL), earlier=earlier).state("wav2vec2")
    assert set(left) == set(HEAD) and all(bool((p == 0.5).all()) for p in state.parameters())
    other = drive(Wav2Vec2(**{**SMALL, "codes": 4}), earlier=earlier).state("wav2vec2")
    assert not bool((other.codebook == 0.5).all()) and bool((other.context_weight == 0.5).all())


def test_other_models_are_refused():
    hubert = seeded(lambda: wav2vec2("HubertForSequenceClassification"))
    with pytest.raises(MethodError, match="no wav2vec 2.0"):
        drive(Wav2Vec2(), model=hubert)
    bare = seeded(lambda: wav2vec2("Wav2Vec2ForSequenceClassification", mask_time_prob=0.0, mask_feature_prob=0.0))
    with pytest.raises(MethodError, match="no vector for masked places") as error:
        drive(Wav2Vec2(), model=bare)
    assert "mask_time_prob" in str(error.value)


@pytest.mark.parametrize(
    ("task", "kind", "column"),
    [
        ("audio-classification", "Wav2Vec2ForSequenceClassification", "label"),
        ("automatic-speech-recognition", "Wav2Vec2ForCTC", "text"),
    ],
)
def test_a_stage_without_labels_comes_before_one_with_them(tmp_path, monkeypatch, task, kind, column):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    ctc_folder(tmp_path / "base", kind)
    sound_rows(tmp_path, column, str.upper if column == "text" else str)
    unlabelled = [{"audio": f"clips/{i}.wav"} for i in range(12)]
    (tmp_path / "unlabelled.jsonl").write_text("".join(json.dumps(r) + "\n" for r in unlabelled))
    listen = {"name": "listen", "data": {"train": "unlabelled.jsonl"}, "budget": {"steps": 2}}
    stages = [
        {**listen, "methods": ["full", {"wav2vec2": {**SMALL, "placeholder": "O"}}]},
        {"name": "task", "methods": ["full"], "budget": {"steps": 2}},
    ]
    recipe(tmp_path, task)
    tree = json.loads((tmp_path / "recipe.yaml").read_text())
    left = {k: v for k, v in tree.items() if k not in ("methods", "budget")}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**left, "stages": stages}))
    report = run(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "out", quiet=True).report
    assert report.run.status == "finished" and [s.name for s in report.stages] == ["listen", "task"]
    if column == "text":  # what stands in for a text is spelt in the model's alphabet
        stages[0]["methods"] = ["full", {"wav2vec2": {**SMALL, "placeholder": "x"}}]
        (tmp_path / "recipe.yaml").write_text(json.dumps({**left, "stages": stages}))
        with pytest.raises(DataError, match="alphabet lacks x"):
            run(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "other", quiet=True)


def test_only_what_has_neither_label_nor_text_is_filled_in():
    method = Wav2Vec2(placeholder="o")
    assert method.example(Record({"audio": "a.wav", "label": "low"}, id="a")) is None
    assert method.example(Record({"audio": "a.wav", "text": "low"}, id="a")) is None
    assert method.example(Record({"audio": "a.wav"}, id="a")) == {"audio": "a.wav", "label": 0, "text": "o"}
