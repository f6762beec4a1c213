"""A fresh model in whole runs: the bits that its seed draws, its tokenizer, and everything that is done with a base."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests import small, tiny
from tests.running import limited
from tunewright import merge
from tunewright.errors import CheckpointError, FolderError, ModelError, RecipeError, TunewrightError
from tunewright.files.hashing import hash_weights
from tunewright.finished.export import export
from tunewright.finished.finished import open_run
from tunewright.finished.run import Run
from tunewright.loading.new_tokenizer import special_tokens, train_tokenizer
from tunewright.paired.measuring import measure
from tunewright.paired.request import Request
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs import fresh
from tunewright.runs import run as run_module
from tunewright.runs.assemble import assemble, settled
from tunewright.runs.fresh import model_of
from tunewright.trials.trial_key import key_of

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA = {"model_type": "llama", **SHAPE}
FRESH = {"config": LLAMA, "vocab_size": 300}
FULL = [{"name": "main", "methods": ["full"], "budget": {"steps": 4}}]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    small.write_inputs(tmp_path)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def recipe(folder: Path, model: Any = FRESH, **changes: Any) -> Recipe:
    return Recipe.load(small.write_recipe(folder, model=model, **{"stages": FULL, **changes}))


def ran(folder: Path, out: str = "run", model: Any = FRESH, **changes: Any) -> Path:
    return run_module.run(recipe(folder, model, **changes), folder / out, quiet=True).folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_base_is_what_transformers_draws_from_the_seed(tmp_path):
    run = ran(tmp_path, model={**FRESH, "seed": 3})
    tokenizer = AutoTokenizer.from_pretrained(run / "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LlamaConfig(**SHAPE, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=0, eos_token_id=2)
        drawn = LlamaForCausalLM(config).state_dict()
    mine = weights(run / "base")
    assert drawn.keys() == mine.keys() and all(torch.equal(drawn[n], mine[n]) for n in drawn)
    began = open_run(run)
    with began.adapted.base():
        held = began.adapted.model.state_dict()
        assert all(torch.equal(drawn[n], held[n]) for n in drawn)
    assert any(not torch.equal(drawn[n], t) for n, t in began.adapted.model.state_dict().items())


def test_equal_seeds_draw_equal_bits_and_each_key_decides(tmp_path):
    def base(model: Any) -> str:
        return hash_weights(Path(model_of(recipe(tmp_path, model)).name))

    first = base(FRESH)
    shutil.rmtree(tmp_path / "cache")
    assert base(FRESH) == first == base({**FRESH, "seed": 0, "tokenizer": "train"})
    others = [
        {**FRESH, "seed": 1},
        {**FRESH, "vocab_size": 290},
        {"config": LLAMA, "tokenizer": "./base"},
        {"config": {**LLAMA, "initializer_range": 0.5}, "vocab_size": 300},
    ]
    assert len({first, *map(base, others)}) == 5
    keys = {key_of(recipe(tmp_path, model)) for model in (FRESH, *others)}
    assert len(keys) == 5


def test_the_tokenizer_learns_from_training_rows_alone(tmp_path):
    def tokens() -> dict[str, int]:
        return AutoTokenizer.from_pretrained(model_of(recipe(tmp_path), weights=False).name).get_vocab()

    before = tokens()
    for name in ("test.jsonl", "keep.txt"):
        (tmp_path / name).write_text(json.dumps({"prompt": "zzqx " * 50, "completion": "zzqx"}))
    assert tokens() == before
    with (tmp_path / "train.jsonl").open("a") as f:
        f.write("\n" + json.dumps({"prompt": "zzqx " * 50, "completion": "zzqx"}))
    assert "zzqx" in tokens() and "zzqx" not in before


def test_a_stages_own_rows_count_as_training_rows(tmp_path):
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "zzqx " * 50, "completion": "zzqx"}))
    stages = [{**FULL[0], "data": {"train": "own.jsonl"}}]
    folder = model_of(recipe(tmp_path, stages=stages), weights=False).name
    assert "zzqx" in AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize("masks", [False, True])
def test_a_trained_tokenizer_does_not_depend_on_order_and_gives_every_text_back(masks):
    texts = [" ".join(random.Random(i).choices(small.WORDS, k=9)) for i in range(40)]
    one = train_tokenizer(texts, 320, masks=masks)
    other = train_tokenizer(iter(texts[::-1]), 320, masks=masks)
    assert one.get_vocab() == other.get_vocab() and len(one) <= 320
    assert [one.convert_ids_to_tokens(i) for i in range(5)][: len(special_tokens(masks))] == [*special_tokens(masks)]
    spelt = train_tokenizer([f"{t}<|endoftext|>" for t in texts], 320, masks=masks)
    assert spelt.get_vocab() == one.get_vocab(), "how a special token is spelt was learnt"
    odd = "Zürich 2024\n\t\x00 愛 👩‍🚀 card"
    assert one.decode(one(odd, add_special_tokens=False)["input_ids"]) == odd
    assert (one.chat_template is None) == masks and (one.mask_token_id is not None) == masks


def test_a_check_makes_no_weights_and_says_what_a_run_says(tmp_path):
    assert check_recipe(recipe(tmp_path)).report.ok
    assert settled(recipe(tmp_path))[0].train.learning_rate == 1e-2
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    session = assemble(recipe(tmp_path), weights=False)
    assert all(p.is_meta for p in session.adapted.model.parameters()) and session.loaded.hash == ""


REFUSED: dict[str, tuple[Any, str]] = {
    "a type that is not there": ({"config": {**LLAMA, "model_type": "lama"}}, "did you mean 'llama'"),
    "a key that is not there": ({"config": {**LLAMA, "hiden_size": 8}}, "did you mean 'hidden_size'"),
    "a value of another type": ({"config": {**LLAMA, "hidden_size": "big"}}, "no config of a llama model"),
    "heads that do not divide": ({"config": {**LLAMA, "num_attention_heads": 3}}, "multiple of the number"),
    "sizes that only the model refuses": (
        {"config": {"model_type": "gpt2", "n_embd": 16, "n_head": 3, "n_layer": 1}},
        "cannot be made of this config",
    ),
    "another task's model": ({"config": {"model_type": "vit"}}, "does not do text-generation"),
    "an encoder": ({"config": {"model_type": "bert"}}, "it does: fill-mask"),
    "a vocabulary without all bytes": ({**FRESH, "vocab_size": 200}, "write 259 or more"),
    "a vocabulary that is not the tokenizer's": (
        {**FRESH, "tokenizer": "./base"},
        f"have 300 tokens, and the tokenizer ./base has {len(tiny.tokenizer())}",
    ),
    "a config smaller than the tokenizer": (
        {"config": {**LLAMA, "vocab_size": 100}, "tokenizer": "./base"},
        "model.config.vocab_size",
    ),
    "an end that is not the tokenizer's": ({**FRESH, "config": {**LLAMA, "eos_token_id": 7}}, "the tokenizer's is 2"),
    "code that a config names": ({**FRESH, "config": {**LLAMA, "auto_map": {"AutoConfig": "x.Y"}}}, "'auto_map'"),
    "a tokenizer that is not there": ({"config": LLAMA, "tokenizer": "./none"}, "no such model folder"),
    "a config that is not there": ({"config": "./none.json"}, "no such model folder"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_check_and_run_refuse_in_the_same_words(tmp_path, fault):
    model, words = REFUSED[fault]
    with pytest.raises(TunewrightError) as checked:
        check_recipe(recipe(tmp_path, model))
    with pytest.raises(TunewrightError) as run:
        ran(tmp_path, model=model)
    said = [str(e.value).replace(str(tmp_path / "base"), "./base") for e in (checked, run)]
    assert said[0] == said[1] and words in said[0] and isinstance(run.value, ModelError)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"config": {"hidden_size": 8}}, "what kind of model"),
        ({"config": {**LLAMA, "vocab_size": 400}, "vocab_size": 300}, "300 here and 400 in config"),
        ({"config": {**LLAMA, "vocab_size": "many"}}, "no whole number"),
        ({"config": LLAMA, "revision": "main"}, "drawn afresh"),
        ({"config": LLAMA, "trust_remote_code": True}, "never run"),
        ({"name": "nano", "tokenizer": "train"}, "'tokenizer' is of a fresh model"),
        ({"name": "nano", "seed": 1}, "'seed' is of a fresh model"),
        ({}, "name"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_when_it_is_read(tmp_path, model, words):
    with pytest.raises(RecipeError, match=words):
        recipe(tmp_path, model)


def test_other_models_are_there_already(tmp_path):
    with pytest.raises(RecipeError, match="only the model that is trained"):
        recipe(tmp_path, "./base", models={"teacher": FRESH})


def test_a_recipe_is_written_and_read_alike(tmp_path):
    made = recipe(tmp_path, {**FRESH, "tokenizer": "./base"})
    (tmp_path / "train").mkdir()  # a folder of that name is not what `train` means
    again = Recipe.load(small.write_recipe(tmp_path, "again", model=FRESH, stages=FULL))
    (tmp_path / "elsewhere").mkdir()
    for i, one in enumerate((made, again)):
        file = tmp_path / "elsewhere" / f"{i}.yaml"
        file.write_text(one.dump(absolute=True))
        read = Recipe.load(file).model
        assert read.config == LLAMA and read.name == "fresh-llama"
        assert read.tokenizer == (str(tmp_path / "base") if i == 0 else None)


def test_a_config_may_be_a_file_a_folder_or_a_models_name(tmp_path):
    (tmp_path / "shape.json").write_text(json.dumps({**LLAMA, "vocab_size": 310, "architectures": ["Evil"]}))
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "shape.json", tmp_path / "folder" / "config.json")
    made = [Path(model_of(recipe(tmp_path, {"config": c})).name) for c in ("shape.json", "./folder", "nano")]
    shapes = [json.loads((m / "config.json").read_text()) for m in made]
    assert [s["hidden_size"] for s in shapes] == [16, 16, 192] and shapes[0]["architectures"] == ["LlamaForCausalLM"]
    assert [s["vocab_size"] for s in shapes] == [len(AutoTokenizer.from_pretrained(m)) for m in made]
    assert hash_weights(made[0]) == hash_weights(made[1])


def test_few_rows_give_a_smaller_vocabulary_and_say_so(tmp_path):
    session = assemble(recipe(tmp_path, {"config": LLAMA, "vocab_size": 5000}))
    assert any("of 5,000 asked for" in n for n in session.notes)
    assert any("drawn by seed 0" in n for n in session.notes)
    assert session.loaded.model.config.vocab_size == len(session.tokenizer) < 5000


def test_a_stopped_run_goes_on_to_the_same_bits_and_its_steps_come_out_again(tmp_path):
    whole = ran(tmp_path, "whole", train__save_steps=2)
    folder = tmp_path / "stopped"
    shutil.copytree(whole, folder)
    for name in ("report.json", "report.html", "delta.safetensors", "delta.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "stages")
    shutil.rmtree(folder / "checkpoint-4", ignore_errors=True)
    shutil.rmtree(folder / "base")  # drawn again, by config and seed
    again = run_module.resume(folder, quiet=True).folder
    assert hash_weights(again / "base") == hash_weights(whole / "base")
    assert (again / "delta.safetensors").read_bytes() == (whole / "delta.safetensors").read_bytes()
    run_module.resume(whole, verify=True, quiet=True)


def test_an_altered_base_is_refused(tmp_path):
    run = ran(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(run / "base")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(run / "base")
    with pytest.raises(CheckpointError, match=r"base/model.safetensors was altered"):
        run_module.resume(run, verify=True, quiet=True)
    with pytest.raises(CheckpointError, match="not those that the run began with"):
        open_run(run)


def test_a_run_needs_neither_cache_nor_rows_afterwards(tmp_path):
    run = ran(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "train.jsonl").unlink()
    moved = run.rename(tmp_path / "moved")
    folder = export(moved).folder
    tuned, tokenizer = weights(folder), AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(moved / "base"))
    held = open_run(moved).adapted
    assert all(torch.equal(tuned[n], t) for n, t in held.model.state_dict().items())


def test_the_next_run_starts_from_the_last_one(tmp_path):
    run = ran(tmp_path)
    stages = [{**FULL[0], "start": "./run"}]
    plain = {"name": "./run/base"}
    for model in (plain, FRESH):
        assert check_recipe(recipe(tmp_path, model, stages=stages)).report.ok
        on = ran(tmp_path, f"on-{len(model)}", model=model, stages=stages)
        assert hash_weights(on / "base" if model is FRESH else run / "base") == hash_weights(run / "base")
    with pytest.raises(TunewrightError, match="another base"):
        ran(tmp_path, "off", model={**FRESH, "seed": 1}, stages=stages)


def _merged(folder: Path, run: Path) -> None:
    merge([str(run), str(folder / "second")], out=folder / "merged", method="linear")
    tuned = open_run(run).adapted.model.state_dict(), open_run(folder / "second").adapted.model.state_dict()
    name = "lm_head.weight"
    assert torch.allclose(weights(folder / "merged")[name], (tuned[0][name] + tuned[1][name]) / 2, atol=1e-6)


def _measured(folder: Path, run: Path) -> None:
    tuned = str(run / "adapter" if (run / "adapter").is_dir() else run)
    made = measure(Request([str(run / "base")], [tuned], data=[str(folder / "test.jsonl")]), folder / "pair")
    assert made.target is not None


def _gone_on(folder: Path, run: Path) -> None:
    start = str(run / "adapter" if (run / "adapter").is_dir() else run)
    ran(folder, "on", model=str(run / "base"), stages=[{**FULL[0], "start": start}])
    with pytest.raises(TunewrightError) as other:
        ran(folder, "off", model="./base", stages=[{**FULL[0], "start": str(run)}])
    assert f"write model: {run / 'base'}" in str(other.value)


def _merged_after(folder: Path, run: Path) -> None:
    ran(folder, "with", model=str(run / "base"), after=[{"linear": {"of": [str(run)]}}])


def _used_after(folder: Path, run: Path) -> None:
    assert Run(run).chat(max_new_tokens=2).answer("card").keys() == {"base", "tuned"}
    assert export(run).reloaded == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", [_merged, _measured, _gone_on, _merged_after, _used_after])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_is_used_by_its_folder_wherever_it_lies(tmp_path, way, method):
    for name in ("run", "second"):
        ran(tmp_path, name, stages=[{**FULL[0], "methods": [method]}], train__seed=len(name))
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "cache")
    way(tmp_path, moved)


TASKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "masked": (
        "fill-mask",
        {"model_type": "roberta-prelayernorm", **SHAPE, "max_position_embeddings": 64},
        "plain",
    ),
    "encoder": ("text-classification", {"model_type": "bert", **SHAPE}, "labelled"),
    "causal": ("text-classification", LLAMA, "labelled"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_that_reads_text_begins_from_nothing(tmp_path, kind):
    task, config, rows = TASKS[kind]
    for name in ("train", "test"):
        read = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        text = [{"text": " ".join([r["prompt"]] * 40)} for r in read]
        kept = text if rows == "plain" else [{"text": r["prompt"], "label": r["completion"]} for r in read]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, kept)))
    (tmp_path / "keep.txt").unlink()
    run = ran(tmp_path, model={"config": config, "vocab_size": 300}, task=task, keep=[])
    tokenizer = AutoTokenizer.from_pretrained(run / "base")
    assert tokenizer.mask_token_id is None if kind == "causal" else tokenizer.mask_token_id == 4
    # RoBERTa counts places from its padding id on: 3 + 1 of the 64 are never used
    assert tokenizer.model_max_length == {"masked": 60, "encoder": 128, "causal": 128}[kind]
    assert export(run).reloaded == 0


def test_a_picture_classifier_has_no_tokenizer(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        x = rng.integers(0, 255, (12, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(12) % 3)
    sizes = {k: v for k, v in SHAPE.items() if k != "max_position_embeddings"}
    config = {"model_type": "vit", **sizes, "image_size": 8, "patch_size": 4, "num_channels": 1}
    data = {"data__train": "train.npz", "data__eval": "test.npz", "task": "image-classification", "keep": []}
    run = ran(tmp_path, model={"config": config}, **data)
    assert not (run / "base" / "tokenizer.json").exists()
    assert json.loads((run / "base" / "config.json").read_text())["id2label"] == {"0": "0", "1": "1", "2": "2"}
    with pytest.raises(ModelError, match="reads no text"):
        check_recipe(recipe(tmp_path, {"config": config, "vocab_size": 300}, **data))


def test_the_rule_knows_that_weights_are_fresh(tmp_path):
    def rate(model: Any, methods: list[Any], **stage: Any) -> float:
        stages = [{**FULL[0], "methods": methods, **stage}]
        done = settled(recipe(tmp_path, model, stages=stages, train__learning_rate=None))[0]
        return float(done.train.learning_rate)

    narrower = (tiny.llama().config.hidden_size / SHAPE["hidden_size"]) ** 0.75
    assert rate(FRESH, ["full"]) == pytest.approx(10 * rate("./base", ["full"]) * narrower, rel=0.05)
    assert rate(FRESH, ["lora"]) == pytest.approx(rate("./base", ["lora"]) * narrower, rel=0.05)
    one, two = ({**FULL[0], "name": n, "data": {"max_length": 64}} for n in ("one", "two"))
    done = settled(recipe(tmp_path, stages=[one, two], train__learning_rate=None))[0]
    rates = [float(done.train_for(s).learning_rate) for s in done.stages]
    assert rates[0] == pytest.approx(10 * rates[1], rel=0.05)  # the second goes on from what the first left


def test_trials_draw_the_same_model_and_keep_none(tmp_path):
    whole = ran(tmp_path)
    trial = run_module.run(recipe(tmp_path), tmp_path / "trial", quiet=True, figures_only=True)
    assert not (tmp_path / "trial" / "base").exists()
    assert trial.report.model.hash == hash_weights(whole / "base") and trial.report.model.name == "fresh-llama"
    assert trial.report.target.after == Report.load(whole).target.after


def test_two_that_draw_the_same_model_keep_the_first_ones(tmp_path, monkeypatch):
    made: list[Path] = []
    begun: list[Path] = []
    whole = fresh._make

    def making(recipe: Recipe, folder: Path, weights: bool) -> None:
        whole(recipe, folder, weights)
        begun.append(folder)
        if len(begun) == 1:  # another process is done first
            made.append(Path(model_of(recipe, weights=weights).name))
            (made[0] / "mark").touch()

    monkeypatch.setattr(fresh, "_make", making)
    second = Path(model_of(recipe(tmp_path)).name)
    assert second == made[0] and (second / "mark").exists() and len(list(second.parent.iterdir())) == 1


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    expected = hash_weights(Path(model_of(recipe(tmp_path)).name))
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "file"))
    folder = Path(model_of(recipe(tmp_path)).name)
    assert tmp_path not in folder.parents and hash_weights(folder) == expected


def test_both_sides_of_a_fresh_model_answer(tmp_path):
    talk = Run(ran(tmp_path)).chat(max_new_tokens=2)
    assert talk.answer("card").keys() == {"base", "tuned"}


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path):
    with limited(6_000), pytest.raises(FolderError):
        ran(tmp_path)
    assert not (tmp_path / "run" / "base").exists()
