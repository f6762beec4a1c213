"""Make the lab's bases again: `python -m tunewright.claims.lab.make NAME [--work DIR]`, with TUNEWRIGHT_DATA set.

NAME: nano, nano-large, nano-encoder, nano-vit. Its rows and recipe are written into DIR and run like any other, in
DIR/run; an interrupted run goes on. `card NAME` measures the seeds' standard deviation of every lab task that runs on
NAME (`--tasks A B`: of these) and writes it into the base's card.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from tunewright.claims.lab import corpus, ship
from tunewright.claims.lab.pretraining import CONFIGS, ENCODED, PICTURES, TASKS, recipe, write_pictures, write_texts
from tunewright.files.cache import cache_folder
from tunewright.recipe import yaml_text

NAMES = tuple(CONFIGS)
TEXT_NOTE = (
    "Training splits only. Every document whose text hash falls on one in {one} is held out; {dropped}. Left: "
    "{train:,} documents to train on, "
    "{held:,} held out. Rows marked (chat) stand in the chat template, question and answer. Nothing of banking77, "
    "clinc150, "
    "instruction-induction, german-laws or any evaluation set is in it. The docstrings are those of the machine's "
    "own Python."
)


def trained(name: str, work: Path, tokens: int | None = None) -> Path:
    """Run the recipe of a base in `work`, where its rows lie, or go on with it; the exported folder."""
    from tunewright.finished.export import export
    from tunewright.runs.run import resume, run

    if (work / "run" / "recipe.yaml").exists():
        resume(work / "run")
    else:
        (work / "recipe.yaml").write_text(yaml_text.write(recipe(name, tokens)), encoding="utf-8")
        run(work / "recipe.yaml", work / "run")
    model = work / "run" / "model"
    return model if model.is_dir() else export(work / "run").folder


def curve_of(run: Path, unit: str) -> dict[str, Any]:
    """What a card says of a run: its learning curve [(tokens, held-out loss)], seconds and threads."""
    from tunewright.report.schema import Report
    from tunewright.runs.folder import RunFolder

    report = Report.load(run)
    seen = report.cost.tokens
    points = [(m.get("num_tokens", seen), m["eval_loss"]) for m in RunFolder(run).metrics() if "eval_loss" in m]
    return {
        "curve": points,
        "seconds": report.run.seconds,
        "seen": seen,
        "threads": report.run.threads,
        "unit": unit,
    }


def _texts(work: Path) -> tuple[corpus.Corpus, dict[str, Any]]:
    """The corpus, written into `work` unless it is there, and what a card says of it."""
    text = corpus.build()
    for part, documents in (("train", text.train), ("held", text.held)):
        if not (work / f"{part}.jsonl").exists():
            write_texts(documents, work / f"{part}.jsonl")
    licences = {s.name: s.licence for s in corpus.SOURCES}
    dropped = "; ".join(f"{n} {reason} left out" for reason, n in text.dropped.items())
    note = TEXT_NOTE.format(one=corpus.HELD_ONE_IN, dropped=dropped, train=len(text.train), held=len(text.held))
    return text, {
        "licence": "cc-by-sa-4.0",
        "data_note": note,
        "sources": [(name, licences[name], n, size) for name, (n, size) in text.by_source().items()],
    }


def _read(folder: Path, task: str) -> tuple[Any, Any]:
    """(model, tokenizer) of an exported folder, its weights rounded as they are shipped."""
    from tunewright.loading.load import load

    loaded = load(str(folder), task, labels=[str(i) for i in range(10)] if task == TASKS["nano-vit"] else None)
    return loaded.model.to(torch.bfloat16).float(), loaded.tokenizer


def make_causal(name: str, work: Path) -> Path:
    """Pre-train and ship `nano` or `nano-large`, and hold it against a Kneser-Ney 5-gram of the same tokens."""
    from tunewright.claims.lab import kneser_ney, tokenizer

    text, facts = _texts(work)
    model, reads = _read(trained(name, work), "text-generation")
    train, held = (tokenizer.stream(reads, [d.text for d in part]) for part in (text.train, text.held))
    loss = tokenizer.held_out(model, held)
    ngrams = kneser_ney.KneserNey(train, len(reads)).nats(held)
    verdict = "beats" if loss < ngrams else "does NOT beat"
    figures = [
        f"{loss:.3f} nats per token on held-out text (windows of {tokenizer.LENGTH} tokens), where an interpolated "
        f"modified Kneser-Ney 5-gram of the same tokens has {ngrams:.3f}: it {verdict} the 5-gram"
    ]
    limits = [
        "It writes English of the corpus' kinds without facts or sense; it answers no question it was not tuned for",
        "At most 512 tokens of context",
    ]
    about = (
        "A causal language model for experiments of seconds: Llama architecture, 6 layers, byte-level BPE of "
        "4,096 entries, chat template."
    )
    facts |= {"task": "text-generation", "about": about, "figures": figures, "limits": limits}
    facts |= {"held_nats": loss, "kneser_ney_nats": ngrams}
    return ship.ship(name, model, reads, {**facts, **curve_of(work / "run", "tokens")})


def make_encoder(name: str, work: Path) -> Path:
    """Pre-train and ship the text encoder."""
    _, facts = _texts(work)
    model, reads = _read(trained(name, work), "fill-mask")
    curve = curve_of(work / "run", "tokens")
    figures = [f"{curve['curve'][-1][1]:.3f} nats a hidden token on held-out text, 15 in 100 tokens hidden"]
    limits = [
        f"At most {ENCODED} tokens",
        "No sentence embeddings as they are: it starts a classifier, its head is new",
    ]
    about = "A text encoder for experiments of seconds: RoBERTa with norms before its blocks, 4 layers of width 192."
    facts |= {"task": "fill-mask", "about": about, "figures": figures, "limits": limits}
    return ship.ship(name, model, reads, {**facts, **curve})


def make_vit(name: str, work: Path) -> Path:
    """Pre-train and ship the image classifier."""
    import numpy as np

    from tunewright.claims.lab import vit

    folder = corpus.data_folder() / "mnist"
    stored, test_set = np.load(folder / "train.npz"), np.load(folder / "test.npz")
    x, y = test_set["x"], test_set["y"]
    if not (work / "train.npz").exists():
        write_pictures(stored["x"][:PICTURES], stored["y"][:PICTURES], work / "train.npz")
        write_pictures(x[:2000], y[:2000], work / "held.npz", passes=0)
    model, _ = _read(trained(name, work), TASKS[name])
    _, upright = vit.evaluate(model, x, y)
    _, turned = vit.evaluate(model, np.ascontiguousarray(np.rot90(x, axes=(1, 2))), y)
    limits = [
        f"Accuracy {turned:.4f} on the same pictures turned by a right angle (what the task `digits` teaches)",
        "Grey pictures of 28x28 only",
    ]
    note = (
        f"The first {PICTURES:,} training pictures, moved by up to 2 pixels; the other 10,000 are left to the "
        "lab's tasks."
    )
    facts: dict[str, Any] = {
        "task": "image-classification",
        "about": "A small ViT for experiments of seconds: upright MNIST digits.",
        "figures": [f"Accuracy {upright:.4f} on the 10,000 test pictures"],
        "limits": limits,
        "licence": "cc-by-sa-4.0",
        "data_note": note,
        "sources": [("mnist", "CC BY-SA 3.0", PICTURES, "28x28 pixels each")],
    }
    return ship.ship(name, model, None, {**facts, **curve_of(work / "run", "pictures")})


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tunewright.claims.lab.make", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "card"])
    parser.add_argument("base", nargs="?", choices=NAMES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tasks", nargs="*", default=[], help="of card: these lab tasks alone")
    given = parser.parse_args(arguments)
    if given.name == "card":
        from tunewright.claims.lab.spread import measure

        print(measure(given.base or parser.error("card of which base?"), given.seeds, given.tasks))
        return
    work = given.work or cache_folder() / "lab" / "make" / given.name
    work.mkdir(parents=True, exist_ok=True)
    how = {"nano-encoder": make_encoder, "nano-vit": make_vit}.get(given.name, make_causal)
    print(how(given.name, work))


if __name__ == "__main__":
    main(sys.argv[1:])
