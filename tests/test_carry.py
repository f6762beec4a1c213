"""What a later stage starts from: fold, frozen, training, drop; and ALMA's two stages as a recipe, whole."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from tests import small, tiny
from tests.methods.driving import Run, logits
from tunewright.errors import CheckpointError, ModelError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models import delta_format
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees, differing
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.training import carry

ALMA = Path(__file__).parent.parent / "recipes" / "alma.yaml"


def adapted() -> Adapted:
    return Adapted(tiny.llama(), base_hash="tiny")


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A run's folder with a finished stage of LoRA, and what its model says."""
    folder = tmp_path_factory.mktemp("run")
    run = Run({"lora": LoRA(rank=2)}, model=adapted(), steps=4)
    run.train()
    carry.save_stage(folder / "stages" / "one", run.adapted, {})
    return folder, logits(run.adapted.model)


def begun(first, way: str) -> Adapted:
    made = adapted()
    carry.begin(made, "stages.one", way, first[0], "recipe.yaml")
    return made


def parts(a: Adapted, name: str) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in a.delta_parameters().items() if f".delta.{name}." in n}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and bool(a) and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("way, exact", [("frozen", True), ("training", True), ("fold", False)])
def test_a_stage_begins_where_the_one_before_ended(first, way, exact):
    made, said = begun(first, way), first[1]
    assert agrees(logits(made.model), said) if exact else torch.allclose(logits(made.model), said, atol=1e-5)
    with made.base() as base:
        assert agrees(logits(base), logits(tiny.llama()))


def test_dropped_is_the_base(first):
    made = begun(first, "drop")
    assert not made.deltas() and not made.originals
    assert not differing(made.model.state_dict(), tiny.llama().state_dict())


def test_folded_weights_are_the_base_of_new_deltas(first):
    made = begun(first, "fold")
    assert not made.deltas() and len(made.originals) == 14
    folded = {n: p.clone() for n, p in made.base_parameters().items()}
    run = Run({"lora": LoRA(rank=2)}, model=made, steps=2)
    loop = run.train()
    assert all(torch.equal(p, folded[n]) for n, p in made.base_parameters().items())
    assert all(".delta.lora." in n for n in loop.trained.leaves)


@pytest.mark.parametrize("way, moves", [("frozen", False), ("training", True)])
def test_carried_deltas_stay_or_train_on_beside_new_ones(first, way, moves):
    made = begun(first, way)
    before = parts(made, "one-lora")
    run = Run({"lora": LoRA(rank=3)}, model=made, steps=2)
    new = parts(made, "lora")
    loop = run.train()
    assert before and equal(before, parts(made, "one-lora")) is not moves
    assert not equal(new, parts(made, "lora"))
    assert len(loop.trained.leaves) == (56 if moves else 28)


def test_carried_deltas_may_train_on_without_any_method_or_beside_all_weights(first):
    made = begun(first, "training")
    before = parts(made, "one-lora")
    loop = Run({}, model=made, steps=2).train()
    assert set(loop.trained.leaves) == set(before) and not equal(before, parts(made, "one-lora"))
    frozen = begun(first, "frozen")
    loop = Run({"full": FullFineTuning()}, model=frozen, steps=2).train()
    assert set(loop.trained.leaves) == set(frozen.base_parameters()) and equal(before, parts(frozen, "one-lora"))


def test_three_stages_keep_each_delta_apart(first, tmp_path):
    made = begun(first, "frozen")
    Run({"lora": LoRA(rank=2)}, model=made, steps=2).train()
    said = logits(made.model)
    carry.save_stage(tmp_path / "stages" / "two", made, {})
    again = adapted()
    carry.begin(again, "stages.two", "frozen", tmp_path, "recipe.yaml")
    names = {n for by_name in again.deltas().values() for n in by_name}
    assert names == {"two-one-lora", "two-lora"} and agrees(logits(again.model), said)


def test_another_base_and_a_folder_that_is_none_are_refused(first, tmp_path):
    with pytest.raises(CheckpointError, match="another base"):
        carry.begin(Adapted(tiny.llama(), base_hash="other"), "stages.one", "fold", first[0], "recipe.yaml")
    with pytest.raises(ModelError, match="neither a run's folder"):
        carry.begin(adapted(), str(tmp_path), "fold", first[0], "recipe.yaml")


def a_run(folder: Path, made: Adapted, stages: list[str], after: tuple[str, ...] = (), finished: bool = True) -> Path:
    """A run's folder whose stages are `made` at strength 1, 2 ... times its own, the last one's file the oldest."""
    for i, name in enumerate(stages):
        for by_name in made.deltas().values():
            for delta in by_name.values():
                delta.strength = 1.0 + i
        carry.save_stage(folder / "stages" / name, made, {})
        os.utime(folder / "stages" / name / "manifest.json", ns=(10**18 - i * 10**12,) * 2)
    names = [{"name": n, "methods": ["lora"]} for n in stages]
    (folder / "recipe.yaml").write_text(json.dumps({"stages": names, "after": list(after)}))
    if finished:
        (folder / "report.json").write_text("{}")
    return folder


def test_a_run_is_followed_by_its_recipe_and_not_by_its_files_times(first, tmp_path):
    run = a_run(tmp_path / "run", begun(first, "frozen"), ["b", "a"])
    direct, through = adapted(), adapted()
    carry.begin(direct, str(run / "stages" / "a"), "frozen", tmp_path, "recipe.yaml")
    carry.begin(through, str(run), "frozen", tmp_path, "recipe.yaml")
    assert agrees(logits(through.model), logits(direct.model))
    assert {d.strength for by_name in through.deltas().values() for d in by_name.values()} == {2.0}
    assert next(iter(through.deltas().values())).keys() == next(iter(direct.deltas().values())).keys()


def test_an_unfinished_run_is_not_begun_from_as_if_it_were_whole(first, tmp_path):
    run = a_run(tmp_path / "run", begun(first, "frozen"), ["b", "a"], finished=False)
    shutil.rmtree(run / "stages" / "a")
    with pytest.raises(ModelError, match="not finished.*'a'") as refused:
        carry.begin(adapted(), str(run), "fold", tmp_path, "stages.x.start")
    assert f"tunewright resume {run}" in str(refused.value) and str(run / "stages" / "b") in str(refused.value)


def test_a_run_with_steps_after_training_is_begun_from_what_they_left(first, tmp_path):
    made = begun(first, "frozen")
    run = a_run(tmp_path / "run", made, ["one"], after=("wise-ft",), finished=False)
    with pytest.raises(ModelError, match="not finished.*steps after"):
        carry.begin(adapted(), str(run), "fold", tmp_path, "recipe.yaml")
    made.fold()
    for p in made.base_parameters().values():
        p.data.mul_(0.5)
    delta_format.save_delta(made, run, "tiny")
    (run / "report.json").write_text("{}")
    through = adapted()
    carry.begin(through, str(run), "fold", tmp_path, "recipe.yaml")
    changed = [n for n in made.originals if not torch.equal(made.originals[n].values, made.base_parameters()[n])]
    assert changed and all(torch.equal(through.base_parameters()[n], made.base_parameters()[n]) for n in changed)


@pytest.mark.parametrize(
    "recipe, says",
    [
        *((text, "names no stages") for text in (b"model: x", b"[]", b"", b"stages: []", b"stages: [a]")),
        (b"stages: [\xff]", "recipe cannot be read"),
    ],
)
def test_a_folder_whose_recipe_no_run_wrote(recipe, says, first, tmp_path):
    run = a_run(tmp_path / "run", begun(first, "frozen"), ["one"])
    (run / "recipe.yaml").write_bytes(recipe)
    with pytest.raises(ModelError, match=says):
        carry.begin(adapted(), str(run), "fold", tmp_path, "recipe.yaml")


# -- ALMA's recipe -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cipher(tmp_path_factory) -> Path:
    """A folder as the recipe wants it: a language that spells every word backwards, a little English, pairs of both."""
    folder = tmp_path_factory.mktemp("cipher")
    small.write_inputs(folder)
    rng = random.Random(1)

    def sentence() -> str:
        return " ".join(rng.choices(small.WORDS, k=6))

    def pair() -> dict[str, str]:
        said = sentence()
        return {
            "prompt": said,
            "completion": " ".join(w[::-1] for w in said.split()),
            "from": "English",
            "to": "Backwards",
        }

    (folder / "monolingual.txt").write_text(
        "\n\n".join(" ".join(w[::-1] for w in sentence().split()) for _ in range(30))
    )
    (folder / "english.txt").write_text("\n\n".join(sentence() for _ in range(12)))
    for name, count in (("pairs", 24), ("pairs-test", 6)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(pair()) for _ in range(count)))
    (folder / "alma.yaml").write_text(ALMA.read_text().replace("meta-llama/Llama-3.2-1B", "./base"))
    return folder


SMALL = [
    "train.precision=float32",
    "train.batch_tokens=256",
    "stages.0.train.learning_rate=1e-2",
    "stages.0.budget.tokens=1k",
    "stages.1.train.learning_rate=1e-2",
]
MEASURE = [
    "measurement.drift_sequences=2",
    "measurement.drift_tokens=8",
    "measurement.max_new_tokens=4",
    "measurement.strengths=[1.0]",
    "measurement.few_shot=0",
]


def test_the_recipe_says_what_the_paper_does():
    recipe = Recipe.load(ALMA)
    languages, translation = recipe.stages
    assert [m.name for m in languages.methods] == ["full"] and [m.name for m in translation.methods] == ["lora"]
    assert recipe.data_for(languages).template is None and recipe.data_for(languages).replay == {"english": 0.2}
    assert recipe.data_for(translation).template.startswith("Translate this from {from} to {to}:")
    assert (translation.start, translation.carry) == ("stages.languages", "fold")


def test_both_stages_run_one_after_the_other(cipher):
    ran = run(cipher / "alma.yaml", out=cipher / "out", quiet=True, sets=[*SMALL, *MEASURE])
    languages, translation = ran.report.stages
    assert (
        languages.methods == ["full"] and languages.ended_by == "tokens" and languages.loss_last < languages.loss_first
    )
    assert (
        translation.start == "stages.languages"
        and translation.ended_by == "epochs"
        and translation.loss_last < translation.loss_first
    )
    assert {p.name for p in (cipher / "out" / "stages").iterdir()} == {"languages", "translation"}
    assert ran.report.kept[0].name == "english" and ran.report.target.n == 6


def test_only_the_translation_counts_in_the_second_stage_s_loss(cipher):
    session = assemble(Recipe.load(cipher / "alma.yaml", SMALL))
    first, second = (list(part.rows.rows) for part in session.stages)
    assert all(w == 1.0 for row in first for w in row.weights)
    assert all(f"{d.name}".endswith("english.txt") and share == 0.2 for d, share in session.stages[0].replay.values())
    for row in second:
        start = len(row.fields["prompt_ids"])
        said = session.tokenizer.decode(row.input_ids[start:], skip_special_tokens=True)
        assert not any(row.weights[:start]) and all(row.weights[start:]) and said.strip() == row.fields["reference"]


@pytest.mark.parametrize("way", ["frozen", "training", "drop"])
def test_every_carry_runs_in_the_recipe(cipher, way):
    lora = [
        "stages.0.methods=[{lora: {rank: 2}}]",
        "stages.1.methods=[{lora: {rank: 3}}]",
        f"stages.1.carry={way}",
        "stages.1.budget.epochs=null",
        "stages.1.budget.steps=2",
    ]
    ran = run(cipher / "alma.yaml", out=cipher / way, quiet=True, sets=[*SMALL, *MEASURE, *lora])
    ranks = {json.loads((cipher / way / "adapter" / "adapter_config.json").read_text())["r"]}
    assert ranks == ({3} if way == "drop" else {5})  # both deltas of a layer are saved as one of the sum of their ranks
    assert ran.report.stages[1].carry == way and ran.report.cost.trainable_parameters > 0


def test_a_folded_four_bit_stage_says_so_in_the_report(cipher):
    sets = ["stages.0.methods=[{qlora: {rank: 2}}]", "stages.1.budget.epochs=null", "stages.1.budget.steps=2"]
    ran = run(cipher / "alma.yaml", out=cipher / "bits", quiet=True, sets=[*SMALL, *MEASURE, *sets])
    assert any("14 matrices were made whole again" in n for n in ran.report.notes)
