"""The recipes of papers on continued pre-training, in the repository's own words: each is read and checked on rows of
the same columns, and (slow) run on a tiny model.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests import small, tiny
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

FOLDER = Path(__file__).parents[2] / "recipes" / "papers"
NAMES = [
    "cpt-uda.yaml",
    "cpt-uda--task.yaml",
    "dapt.yaml",
    "dapt--knn.yaml",
    "dapt--task.yaml",
    "german-clinical-language-models.yaml",
    "language-cpt-emergence.yaml",
    "language-cpt-emergence--ema.yaml",
    "llama-3-syne.yaml",
    "nepali-qlora-dapt.yaml",
    "pcp.yaml",
    "pretrainer-s-guide.yaml",
    "pretrainer-s-guide--age.yaml",
    "pretrainer-s-guide--domain.yaml",
    "pretrainer-s-guide--toxicity.yaml",
    "sabia.yaml",
    "small-lm-cpt.yaml",
    "stability-gap.yaml",
    "stability-gap--one-pass.yaml",
]
FUNCTIONS, YEARS, GENRES = ("derog_dehum_h", "profanity_nh"), ("2001", "2013", "2016"), ("fiction", "email")
LABELS = ("card_arrival", "exchange_rate", "cash_fee")


def rows(folder: Path, tree: object) -> None:
    """A file of rows with the columns of the data sets for every path `data/...` that a recipe names."""
    if isinstance(tree, dict):
        for part in (*tree, *tree.values()):
            rows(folder, part)
    elif isinstance(tree, list):
        for part in tree:
            rows(folder, part)
    elif isinstance(tree, str) and tree.startswith("data/") and not (folder / tree).exists():
        rng = random.Random(tree)
        made = []
        for i in range(120):
            words = " ".join(rng.choices(small.WORDS, k=12))
            columns = {"text": words, "answer": words, "ne": words, "pair": "en-ne", "lang": "pt"}
            columns |= {"question": "cash fee", "long_answer": words, "year": YEARS[i % 3], "genre": GENRES[i % 2]}
            columns |= {"functionality": FUNCTIONS[i % 2]} | ({"prompt": words} if "hh-rlhf" in tree else {})
            made.append({**columns, "label": LABELS[i % 3], "domain": ("movie-snippet", "pros-cons")[i % 2]})
        (folder / tree).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / tree, "wt", encoding="utf-8") as f:
            f.write("".join(json.dumps(row) + "\n" for row in made))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    for name, model, encoder in (
        ("causal", tiny.llama(), False),
        ("masked", tiny.bert(), True),
        ("classifier", tiny.bert_classifier(labels=4), True),
    ):
        model.save_pretrained(folder / name)
        tiny.tokenizer(encoder=encoder, chat=False).save_pretrained(folder / name)
    few, test = (
        [{"prompt": f"{word} {i}", "completion": ("good", "bad")[i % 2]} for i in range(8)] for word in ("top", "fee")
    )
    for part, some in (("few", few), ("test", test), ("pool", [{"text": f"cash {i}"} for i in range(6)])):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    for name in NAMES:
        shutil.copy(FOLDER / name, folder / name)
        rows(folder, yaml.safe_load((folder / name).read_text(encoding="utf-8")))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder
    torch.set_num_threads(threads)


def tinied(place: Path, name: str) -> Recipe:
    tree = yaml.safe_load((place / name).read_text(encoding="utf-8"))
    models = {"text-generation": "causal", "fill-mask": "masked", "text-classification": "classifier"}
    sets = [f"model=./{models[tree['task']]}", "train.threads=1", "measurement.drift_sequences=2"]
    sets += ["train.batch_tokens=256", "train.precision=float32", "measurement.strengths=[1.0]", "measurement.rows=6"]
    sets += ["data.max_length=64"] + (["train.eval_steps=1"] if "eval_steps" in tree["train"] else [])
    if "stages" in tree:
        sets += [f"stages.{i}.budget={{steps: 2}}" for i in range(len(tree["stages"]))]
    else:
        sets += ["budget={steps: 2}"]
    return Recipe.load(place / name, sets)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_whole(place, name):
    session = assemble(tinied(place, name), weights=False)
    assert all(part.rows.rows for part in session.stages) and (session.eval or session.validation)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n != "pcp.yaml"])  # its teacher must answer: methods/test_pcp.py
def test_each_recipe_runs(place, name):
    report = run(tinied(place, name), place / "runs" / name, quiet=True).report
    assert report.run.status == "finished" and report.target.after is not None
    assert bool(report.along) == bool(tinied(place, name).measurement.along)


def test_what_a_recipe_of_a_paper_says_is_what_it_does(place):
    whole = {name: Recipe.load(place / name) for name in NAMES}
    gap, plain = whole["stability-gap.yaml"], whole["stability-gap--one-pass.yaml"]
    assert [u.name for u in gap.data.select] == ["perplexity", "random"] and gap.data.replay and not plain.data.select
    assert gap.measurement.along == plain.measurement.along == ["general"]
    assert [s.name for s in whole["dapt.yaml"].stages] == ["domain", "task"]
    assert whole["dapt--knn.yaml"].stages[0].data.select[0].params == {"k": 50}
