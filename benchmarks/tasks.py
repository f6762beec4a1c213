"""One run a task on real rows, for docs/tasks.md: `python -m benchmarks.tasks DATA OUT [TASK ...]`.

DATA is a folder with the data sets as gzipped JSON lines (`nlupp/folds.jsonl.gz`, `banking77/{train,test}.jsonl.gz`,
`medquad/test.jsonl.gz`, `instruction-induction/{train,test}.jsonl.gz`) and as npz (`fsdd/{train,test}.npz`); OUT is
where runs go. What they gave is written into docs/task-runs.json.

token-classification: slots of NLU++ (Casanueva et al. 2022), few rows as its authors have it: three of its folds to
learn from, the last one to measure on.
sentence-similarity: Banking77 (Casanueva et al. 2020): a customer's question finds the name of its intent among 77, and
no name is ever another row's negative twice; questions of another field (MedQuAD) are the kept text.
multiple-choice: fallacies, one of BIG-bench's tasks (Srivastava et al. 2022) with its own choices.
text-classification with any number of labels: intents of NLU++; with a number: how convincing arguments are, as
UKPConvArg1 ranks them (Habernal and Gurevych 2016), on topics that are not learnt from.
text-ranking: the same questions, each with the name of its intent and others drawn from the 77.
text-generation, fill-mask, text-classification, image-classification, reward-modeling: see benchmarks.task_usual.
tabular-classification and tabular-regression: tables that scikit-learn carries; see benchmarks.task_tables.
text2text-generation: no small pre-trained encoder-decoder may be passed on, so one is made first, from nothing, on
three short tasks of instruction induction (Honovich et al. 2022); a fourth is then learnt, and the three are kept.
question-answering: facts of T-REx in ParaRel's sentences (Elazar et al. 2021), three to a context, and a question about
one of them in another of its sentences' words; of six questions one is about somebody who is not told of.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tunewright
from benchmarks import (
    task_boxes,
    task_drawing,
    task_episodes,
    task_maps,
    task_pictures,
    task_regions,
    task_seeing,
    task_series,
    task_sounds,
    task_tables,
    task_usual,
    task_views,
)
from tunewright.finished.export import export
from tunewright.measure.metrics import get_metric
from tunewright.report import words
from tunewright.report.schema import Report

FIGURES = Path(__file__).parents[1] / "docs" / "task-runs.json"
FIRST, NEW = ("singular_to_plural", "first_word_letter", "diff"), "num_to_verbal"
TRAIN: dict[str, Any] = {"precision": "float32", "seed": 0}


def rows_in(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, rows: Iterator[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def tagged(row: dict[str, Any]) -> dict[str, Any]:
    """A query's words and the slots that they begin or go on with."""
    words = list(re.finditer(r"\w+|[^\w\s]", row["text"]))
    tags = ["O"] * len(words)
    for slot in row["slots"]:
        start, end = slot["span"]
        inside = [i for i, w in enumerate(words) if w.start() < end and w.end() > start]
        for k, i in enumerate(inside):
            tags[i] = f"{'I' if k else 'B'}-{slot['slot']}"
    return {"tokens": [w.group() for w in words], "tags": tags}


def token_classification(data: Path, out: Path) -> Path:
    rows = rows_in(data / "nlupp" / "folds.jsonl.gz")
    train, test = ([r for r in rows if r["fold"] in folds] for folds in ((0, 1, 2), (19,)))
    recipe = {
        "model": "nano-encoder",
        "task": "token-classification",
        "data": {
            "train": write(out / "rows" / "slots-train.jsonl", map(tagged, train)),
            "eval": write(out / "rows" / "slots-test.jsonl", map(tagged, test)),
            "max_length": 128,
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 2e-3, "batch_tokens": 256},
        "budget": {"epochs": 4},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "token-classification")


def sentence_similarity(data: Path, out: Path) -> Path:
    train, test = (rows_in(data / "banking77" / f"{n}.jsonl.gz") for n in ("train", "test"))
    texts = rows_in(data / "medquad" / "test.jsonl.gz")

    def named(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return ({"anchor": r["text"], "positive": r["label"].replace("_", " ")} for r in rows)

    keep = write(out / "rows" / "questions.jsonl", ({"text": r["question"]} for r in texts[:256]))
    recipe = {
        "model": "minilm-l6",
        "task": "sentence-similarity",
        "data": {
            "train": write(out / "rows" / "intents-train.jsonl", named(train[::8])),
            "eval": write(out / "rows" / "intents-test.jsonl", named(test[::6])),
            "max_length": 64,
        },
        "keep": [{"name": "medical questions", "data": keep}],
        "methods": [{"lora": {"rank": 16}}],
        "train": {**TRAIN, "learning_rate": 1e-3, "batch_tokens": 700, "threads": 1},
        "budget": {"epochs": 2},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "sentence-similarity")


def text_ranking(data: Path, out: Path) -> Path:
    train, test = (rows_in(data / "banking77" / f"{n}.jsonl.gz") for n in ("train", "test"))
    names = sorted({r["label"] for r in train})

    def lists(rows: list[dict[str, Any]], wrong: int) -> Iterator[dict[str, Any]]:
        for i, row in enumerate(rows):
            others = random.Random(i).sample([n for n in names if n != row["label"]], wrong)
            right, *negatives = (n.replace("_", " ") for n in (row["label"], *others))
            yield {"query": row["text"], "positive": right, "negatives": negatives}

    recipe = {
        "model": "minilm-l6",
        "task": "text-ranking",
        "data": {
            "train": write(out / "rows" / "lists-train.jsonl", lists(train[::20], 3)),
            "eval": write(out / "rows" / "lists-test.jsonl", lists(test[::20], 9)),
            "max_length": 96,
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 2e-4, "batch_tokens": 700, "threads": 1},
        "budget": {"epochs": 2},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "text-ranking")


def pairs(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({"prompt": f"{r['task']}: {r['input']}", "completion": r["output"]} for r in rows)


def text2text(data: Path, out: Path) -> Path:
    train, test = (rows_in(data / "instruction-induction" / f"{n}.jsonl.gz") for n in ("train", "test"))
    others, kept = ([r for r in rows if r["task"] in FIRST] for rows in (train, test))
    own, asked = ([r for r in rows if r["task"] == NEW] for rows in (train, test))
    files = {
        n: write(out / "rows" / f"{n}.jsonl", pairs(r))
        for n, r in (("others", others), ("own", own), ("kept", kept[:: max(1, len(kept) // 100)]), ("asked", asked))
    }
    sizes = {"d_model": 128, "d_ff": 512, "d_kv": 32, "num_heads": 4, "num_layers": 3, "dropout_rate": 0.0}
    first = {
        "model": {"config": {"model_type": "t5", **sizes}, "tokenizer": "train", "vocab_size": 1024},
        "task": "text2text-generation",
        "data": {"train": files["others"], "eval": files["kept"], "max_length": 128},
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 2e-3, "batch_tokens": 1024},
        "budget": {"epochs": 8},
        "measurement": {"strengths": [1], "rows": 100},
    }
    base = finished(first, out / "text2text-base")
    model = out / "text2text-base-model"
    if not model.exists():
        export(base, model, quiet=True)
    recipe = {
        "model": str(model),
        "task": "text2text-generation",
        "data": {"train": files["own"], "eval": files["asked"], "max_length": 128},
        "keep": [{"name": "the other tasks", "data": files["kept"]}],
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 2e-3, "batch_tokens": 1024},
        "budget": {"epochs": 24},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "text2text-generation")


def facts_asked(data: Path, count: int, draw: int, seed: int) -> Iterator[dict[str, Any]]:
    """Facts of one relation, a sentence each, and a question for the object of one of them, in another pattern's words.

    `draw`: 1 for subjects to ask about, 0 for all others, so that nobody is both learnt about and asked about. Of six
    questions one is about somebody who is in none of the sentences.
    """
    rng = random.Random(seed)
    patterns = {r["relation"]: r["patterns"] for r in rows_in(data / "pararel-trex" / "relations.jsonl.gz")}
    facts: dict[str, list[dict[str, Any]]] = {}
    for fact in rows_in(data / "pararel-trex" / "facts.jsonl.gz"):
        if (zlib.crc32(fact["subject"].encode()) % 4 == 0) == bool(draw):
            facts.setdefault(fact["relation"], []).append(fact)
    usable = sorted(r for r in facts if len(patterns[r]) > 1 and len(facts[r]) > 20)
    while count:
        relation = rng.choice(usable)
        *some, other = rng.sample(facts[relation], 4)
        if len({f["object"] for f in some}) < len(some):
            continue
        asks, says = rng.sample(patterns[relation], 2)
        context, at = "", 0
        one = rng.choice(some)
        for fact in some:
            sentence = says.rstrip(" .").replace("[X]", fact["subject"])
            if fact is one:
                at = len(context) + sentence.index("[Y]")
            context += sentence.replace("[Y]", fact["object"]) + ". "
        told = count % 6 > 0
        question = asks.rstrip(" .").replace("[X]", (one if told else other)["subject"]).replace("[Y]", "what") + "?"
        answers = {"text": [one["object"]] if told else [], "answer_start": [at] if told else []}
        yield {"question": question, "context": context.strip(), "answers": answers}
        count -= 1


def question_answering(data: Path, out: Path) -> Path:
    recipe = {
        "model": "minilm-l6",
        "task": "question-answering",
        "data": {
            "train": write(out / "rows" / "facts-train.jsonl", facts_asked(data, 900, 0, 0)),
            "eval": write(out / "rows" / "facts-test.jsonl", facts_asked(data, 180, 1, 1)),
            "max_length": 128,
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 3e-4, "batch_tokens": 256},
        "budget": {"epochs": 1},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "question-answering")


def intents(data: Path, out: Path) -> Path:
    rows = [r for r in rows_in(data / "nlupp" / "folds.jsonl.gz") if r["domain"] == "banking"]
    train, test = ([r for r in rows if r["fold"] in folds] for folds in (range(4), (18, 19)))
    recipe = {
        "model": "nano-encoder",
        "task": "text-classification",
        "data": {
            name: write(
                out / "rows" / f"intents-{name}.jsonl", ({"text": r["text"], "labels": r["intents"]} for r in some)
            )
            for name, some in (("train", train), ("eval", test))
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 5e-4, "batch_tokens": 256},
        "budget": {"epochs": 1},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "intents")


def convincing(data: Path, out: Path) -> Path:
    rows = [r for r in rows_in(data / "ukpconvarg1" / "arguments.jsonl.gz") if len(r["text"].split()) < 60]
    topics = sorted({r["topic"] for r in rows})
    train, test = ([r for r in rows if (topics.index(r["topic"]) % 4 == 0) == held] for held in (False, True))
    recipe = {
        "model": "nano-encoder",
        "task": "text-classification",
        "data": {
            name: write(
                out / "rows" / f"arguments-{name}.jsonl",
                ({"text": r["text"], "score": -math.log10(r["rank"])} for r in some),
            )
            for name, some in (("train", train[::3]), ("eval", test[::2]))
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 1e-4, "batch_tokens": 256},
        "budget": {"epochs": 3},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "convincing")


def chosen(data: Path, out: Path) -> Path:
    rows = {n: rows_in(data / "bigbench-small" / f"{n}.jsonl.gz") for n in ("train", "test")}
    recipe = {
        "model": "nano-encoder",
        "task": "multiple-choice",
        "data": {
            name: write(
                out / "rows" / f"choices-{name}.jsonl",
                (
                    {"question": r["input"], "choices": r["choices"], "answer": r["targets"][0]}
                    for r in rows[split]
                    if r["task"] == "logical_fallacy_detection"
                ),
            )
            for name, split in (("train", "train"), ("eval", "test"))
        },
        "methods": ["full"],
        "train": {**TRAIN, "learning_rate": 5e-4, "batch_tokens": 512},
        "budget": {"epochs": 1},
        "measurement": {"strengths": [1]},
    }
    return finished(recipe, out / "multiple-choice")


def finished(recipe: dict[str, Any], out: Path) -> Path:
    """The folder of a recipe's run, made if it is not there."""
    if not (out / "report.json").exists():
        tunewright.run(recipe, out=out)
    return out


def drawing(task: str) -> Callable[[Path, Path], Path]:
    """A base that draws some digits, made from nothing, and the others."""

    def made(data: Path, out: Path) -> Path:
        files = task_drawing.digits(data, out / "digits")
        place = out / f"{task}-blank"
        drawn = task_drawing.blank(place) if task == task_drawing.UNCONDITIONAL else None
        blank = drawn or task_drawing.blank_of_texts(place, data)
        base = out / f"{task}-base"
        export(finished(task_drawing.first(task, blank, files, TRAIN), out / f"{task}-first"), base, quiet=True)
        return finished(task_drawing.second(task, str(base), files, TRAIN), out / task)

    return made


def maps(task: str) -> Callable[[Path, Path], Path]:
    """The same by a model that draws map by map."""

    def made(data: Path, out: Path) -> Path:
        files, name = task_drawing.digits(data, out / "digits"), f"{task}-{task_maps.KIND}"
        base = out / f"{name}-base"
        blank = out / f"{name}-blank"
        task_maps.blank(task, blank, data)
        export(finished(task_maps.first(task, blank, files, TRAIN), out / f"{name}-first"), base, quiet=True)
        return finished(task_maps.second(task, str(base), files, TRAIN), out / name)

    return made


def audio_classification(data: Path, out: Path) -> Path:
    return finished(task_sounds.classification(data, out), out / "audio-classification")


def speech_recognition(data: Path, out: Path) -> Path:
    return finished(task_sounds.recognition(data, out), out / "automatic-speech-recognition")


def zero_shot(data: Path, out: Path) -> Path:
    recipe = task_pictures.recipe(data, out, TRAIN, finished)
    return finished(recipe, out / "zero-shot-image-classification")


def seeing(data: Path, out: Path) -> Path:
    return finished(task_seeing.recipe(data, out, TRAIN, finished), out / "image-text-to-text")


def forecasting(data: Path, out: Path) -> Path:
    loads, oil = task_series.files(data, out / "rows")
    made, base = finished(task_series.first(loads), out / "loads"), out / "forecaster"
    if not base.exists():
        export(made, base, quiet=True)
    return finished(task_series.second(str(base), loads, oil), out / task_series.TASK)


def policies(data: Path, out: Path) -> Path:
    made = task_episodes.files(out / "rows")
    first, base = finished(task_episodes.first(made), out / "carts"), out / "policy"
    if not base.exists():
        export(first, base, quiet=True)
    return finished(task_episodes.second(str(base), made), out / task_episodes.TASK)


def boxes(data: Path, out: Path) -> Path:
    return finished(task_boxes.recipe(data, out, TRAIN), out / "object-detection")


def views(data: Path, out: Path) -> Path:
    return finished(task_views.recipe(data, out, TRAIN), out / task_views.TASK)


def diagnoses(data: Path, out: Path) -> Path:
    return finished(task_tables.recipe(out / "rows", task_tables.TASKS[0], TRAIN), out / task_tables.TASKS[0])


def progression(data: Path, out: Path) -> Path:
    return finished(task_tables.recipe(out / "rows", task_tables.TASKS[1], TRAIN), out / task_tables.TASKS[1])


def regions(data: Path, out: Path) -> Path:
    return finished(task_regions.recipe(data, out, TRAIN, finished), out / "image-segmentation")


def usual(name: str) -> Callable[[Path, Path], Path]:
    """One of the usual tasks, as a practitioner writes it."""
    return lambda data, out: finished(task_usual.RECIPES[name][0](data, out / "rows" / name, TRAIN), out / name)


RUNS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    **{name: (usual(name), what) for name, (_, what) in task_usual.RECIPES.items()},
    "audio-classification": (
        audio_classification,
        "spoken digits (FSDD, 120 recordings of five voices; a third of those asked by a sixth), the encoder of "
        "Whisper tiny.en on windows of three seconds with a new head, LoRA",
    ),
    "automatic-speech-recognition": (
        speech_recognition,
        "the words of spoken digits (FSDD, 60 recordings of five voices; half of those asked by a sixth) by Whisper "
        "tiny.en, LoRA",
    ),
    task_views.TASK: (
        views,
        "letters of an alphabet that was not learnt from (Omniglot, Greek, 480 drawings) by their neighbours; 2,240 "
        "unlabelled drawings of four others, the lab's nano-vit (1.0M parameters), full with SimCLR",
    ),
    "image-segmentation": (
        regions,
        "which digit each stroke belongs to (MNIST's digits 0 to 4 on their side, laid on noise, 80 pictures), a "
        "SegFormer made from nothing on upright ones (0.3M parameters), LoRA",
    ),
    "image-text-to-text": (
        seeing,
        "which digit is in a picture (MNIST, 12 of each), a LLaVA of parts (a tower made from nothing on other digits, "
        "a projector drawn afresh, SmolLM2-135M-Instruct), LoRA on the last two",
    ),
    "multiple-choice": (
        chosen,
        "whether an argument is a fallacy (BIG-bench, two choices a row), the lab's nano-encoder (2.6M), full",
    ),
    "object-detection": (
        boxes,
        "where digits lie and which they are (MNIST's digits 0 to 4, one or two on a canvas of noise, 1,600 pictures), "
        "the lab's nano-vit as a YOLOS (1.1M parameters) whose heads know nothing yet, full",
    ),
    "question-answering": (
        question_answering,
        "questions about facts in sentences (T-REx in ParaRel's words, a sixth untold), MiniLM-L6 (22.7M), full",
    ),
    "token-classification": (token_classification, "slots of NLU++, the lab's nano-encoder (2.6M parameters), full"),
    "text-classification (multi_label_classification)": (
        intents,
        "intents of NLU++ (banking, 4 folds to learn from), the lab's nano-encoder (2.6M parameters), full",
    ),
    "text-classification (regression)": (
        convincing,
        "how convincing an argument is (-log10 of its rank in UKPConvArg1, topics held out), nano-encoder, full",
    ),
    "sentence-similarity": (
        sentence_similarity,
        "questions of Banking77 that look for their intent among 77 names, MiniLM-L6 (22.7M parameters), LoRA",
    ),
    "text-ranking": (
        text_ranking,
        "questions of Banking77, each with ten names of intents to be ranked, MiniLM-L6 (22.7M parameters) with a new "
        "head, full",
    ),
    "text2text-generation": (
        text2text,
        "numbers in words (instruction induction), a tiny T5 made from nothing on three others of its tasks, full",
    ),
    task_drawing.UNCONDITIONAL: (
        drawing(task_drawing.UNCONDITIONAL),
        "digits 5 to 9 (MNIST, 300 of each, 16 x 16) by a tiny UNet made from nothing on 0 to 4, LoRA on every "
        "layer; 20 DDIM steps a picture",
    ),
    task_drawing.TO_IMAGE: (
        drawing(task_drawing.TO_IMAGE),
        "digits 5 to 9 (MNIST, 300 of each, 16 x 16) named in words, by a tiny latent UNet made from nothing on 0 "
        "to 4, LoRA on every layer; 20 DDIM steps a picture",
    ),
    f"{task_drawing.UNCONDITIONAL} ({task_maps.KIND})": (
        maps(task_drawing.UNCONDITIONAL),
        "the same by a tiny next-scale model made from nothing on 0 to 4 (30 codes of 128 in four maps), LoRA on every "
        "linear layer; four forwards a picture",
    ),
    f"{task_drawing.TO_IMAGE} ({task_maps.KIND})": (
        maps(task_drawing.TO_IMAGE),
        "the same by a tiny next-scale model made from nothing on 0 to 4 (30 codes of 128 in four maps), LoRA on every "
        "linear layer; four forwards a picture",
    ),
    task_episodes.TASK: (
        policies,
        "a decision transformer that has learnt CartPole from scripts' episodes, and now 24 episodes of a cart that is "
        "pushed the other way, `lora`",
    ),
    task_tables.TASKS[0]: (
        diagnoses,
        "whether a tumour is malignant by ten measures of its cells (scikit-learn's breast_cancer, 300 rows learnt "
        "from), MiniLM-L6 (22.7M parameters), full",
    ),
    task_tables.TASKS[1]: (
        progression,
        "how diabetes progressed within a year by ten measures (scikit-learn's diabetes, 300 rows learnt from), "
        "MiniLM-L6 (22.7M parameters), full",
    ),
    task_series.TASK: (
        forecasting,
        "the oil temperature of a transformer (ETTh1, hourly, a day ahead from four, the last fifth held out), a tiny "
        "PatchTST made from nothing on its six loads, LoRA",
    ),
    "zero-shot-image-classification": (
        zero_shot,
        "digits on their side (MNIST, 40 of each) named in words, two towers made from nothing on upright ones, LoRA",
    ),
}


def figures(folder: Path, what: str) -> dict[str, Any]:
    """What docs/tasks.md shows of a run."""
    report = Report.load(folder)
    target, drift = report.target, report.drift
    assert target is not None and drift is not None
    ends = {n: [i.value, i.low, i.high] for n in ("before", "after", "difference") if (i := getattr(target, n))}
    beside = {o.metric: [o.before.value, o.after.value] for o in target.others if not o.name and o.before and o.after}
    parts = {o.name: o.after.value for o in target.others if o.after and o.name}
    if get_metric(target.metric).kind == "played":  # what is named there is another place, or other rows
        named = (o for o in target.others if o.name and o.before and o.after)
        beside, parts = beside | {words.subject(o): [o.before.value, o.after.value] for o in named}, {}
    kept = {k.name: [k.before.value, k.after.value] for k in report.kept if k.before and k.after}
    return {
        "what": what,
        "metric": target.metric,
        "n": target.n,
        **ends,
        "probe": target.linear_probe.before.value if target.linear_probe and target.linear_probe.before else None,
        "parts": parts,
        "beside": beside,
        **({"baselines": naive} if (naive := {b.name: b.before.value for b in target.baselines if b.before}) else {}),
        "kept": kept,
        "drift": [drift.measure, drift.value.value],
        "steps": report.cost.steps,
        "tokens": report.cost.tokens,
        "seconds": report.cost.seconds.get("train"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tasks", nargs="*", metavar="TASK")
    given = parser.parse_args()
    known = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in given.tasks or RUNS:
        make, what = RUNS[name]
        known[name] = figures(make(given.data, given.out.resolve()), what)
        FIGURES.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
