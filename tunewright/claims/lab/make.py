"""Make the lab's bases again: `python -m tunewright.claims.lab.make NAME [--work DIR]`, with TUNEWRIGHT_DATA set.

NAME: nano, nano-large, nano-encoder, nano-vit. An interrupted run goes on from its checkpoint in DIR. `card NAME`
measures the seeds' standard deviation of every lab task that runs on NAME (`--tasks A B`: of these) and writes it into
the base's card.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tunewright.claims.lab import corpus, ship
from tunewright.claims.lab.pretrain import Curve
from tunewright.files.cache import cache_folder

NAMES = ("nano", "nano-large", "nano-encoder", "nano-vit")
TEXT_NOTE = (
    "Training splits only. Every document whose text hash falls on one in {one} is held out; {dropped}. Left: "
    "{train:,} tokens to train on, "
    "{held:,} held out. Rows marked (chat) stand in the chat template, question and answer. Nothing of banking77, "
    "clinc150, "
    "instruction-induction, german-laws or any evaluation set is in it. The docstrings are those of the machine's "
    "own Python."
)


def _text_facts(text: corpus.Corpus, train: int, held_tokens: int) -> dict[str, Any]:
    licences = {s.name: s.licence for s in corpus.SOURCES}
    dropped = "; ".join(f"{n} {reason} left out" for reason, n in text.dropped.items())
    note = TEXT_NOTE.format(one=corpus.HELD_ONE_IN, dropped=dropped, train=train, held=held_tokens)
    return {
        "licence": "cc-by-sa-4.0",
        "data_note": note,
        "sources": [(name, licences[name], n, size) for name, (n, size) in text.by_source().items()],
    }


def _curve_facts(curve: Curve, unit: str) -> dict[str, Any]:
    known = asdict(curve)
    return {
        "curve": known["points"],
        "seconds": curve.seconds,
        "seen": curve.tokens,
        "threads": curve.threads,
        "unit": unit,
    }


def make_causal(name: str, work: Path) -> Path:
    """Pre-train and ship `nano` or `nano-large`, and hold it against a Kneser-Ney 5-gram of the same tokens."""
    from tunewright.claims.lab import causal, kneser_ney, tokenizer

    text = corpus.build()
    bpe_tokenizer = tokenizer.train([d.text for d in text.train])
    train, held_tokens = (tokenizer.stream(bpe_tokenizer, [d.text for d in part]) for part in (text.train, text.held))
    model, curve = causal.pretrain(name, bpe_tokenizer, train, held_tokens, work)
    model.to(torch.bfloat16).float()  # judged as it is shipped
    loss, ngrams = (
        causal.held_out(model, held_tokens),
        kneser_ney.KneserNey(train, len(bpe_tokenizer)).nats(held_tokens),
    )
    verdict = "beats" if loss < ngrams else "does NOT beat"
    figures = [
        f"{loss:.3f} nats per token on held-out text (windows of {causal.LENGTH} tokens), where an interpolated "
        "modified Kneser-Ney 5-gram of the "
        f"same tokens has {ngrams:.3f}: it {verdict} the 5-gram"
    ]
    limits = [
        "It writes English of the corpus' kinds without facts or sense; it answers no question it was not tuned for",
        "At most 512 tokens of context",
    ]
    about = (
        "A causal language model for experiments of seconds: Llama architecture, 6 layers, byte-level BPE of "
        "4,096 entries, chat template."
    )
    facts = {
        "task": "text-generation",
        "about": about,
        "figures": figures,
        "limits": limits,
        "held_nats": loss,
        "kneser_ney_nats": ngrams,
    }
    return ship.ship(
        name,
        model,
        bpe_tokenizer,
        {**facts, **_curve_facts(curve, "tokens"), **_text_facts(text, len(train), len(held_tokens))},
    )


def make_encoder(name: str, work: Path) -> Path:
    """Pre-train and ship the text encoder."""
    from tunewright.claims.lab import encoder, tokenizer

    text = corpus.build()
    bpe_tokenizer = encoder.tokenizer([d.text for d in text.train])
    train, held_tokens = (tokenizer.stream(bpe_tokenizer, [d.text for d in part]) for part in (text.train, text.held))
    model, curve = encoder.pretrain(bpe_tokenizer, train, held_tokens, work)
    figures = [
        f"{curve.points[-1][1]:.3f} nats a hidden token on held-out text, one token in {1 / encoder.MASKED:.0f} hidden"
    ]
    limits = [
        f"At most {encoder.LENGTH} tokens",
        "No sentence embeddings as they are: it starts a classifier, its head is new",
    ]
    facts = {
        "task": "fill-mask",
        "about": (
            "A text encoder for experiments of seconds: RoBERTa with norms before its blocks, 4 layers of width 192."
        ),
        "figures": figures,
        "limits": limits,
    }
    return ship.ship(
        name,
        model,
        bpe_tokenizer,
        {**facts, **_curve_facts(curve, "tokens"), **_text_facts(text, len(train), len(held_tokens))},
    )


def make_vit(name: str, work: Path) -> Path:
    """Pre-train and ship the image classifier."""
    import numpy as np

    from tunewright.claims.lab import vit

    folder = corpus.data_folder()
    model, curve = vit.pretrain(folder, work)
    test_set = np.load(folder / "mnist" / "test.npz")
    x, y = test_set["x"], test_set["y"]
    model.to(torch.bfloat16).float()
    _, upright = vit.evaluate(model, x, y)
    _, turned = vit.evaluate(model, np.ascontiguousarray(np.rot90(x, axes=(1, 2))), y)
    figures = [f"Accuracy {upright:.4f} on the 10,000 test pictures"]
    limits = [
        f"Accuracy {turned:.4f} on the same pictures turned by a right angle (what the task `digits` teaches)",
        "Grey pictures of 28x28 only",
    ]
    note = (
        f"The first {vit.PICTURES:,} training pictures, moved by up to 2 pixels; the other 10,000 are left to the "
        "lab's tasks."
    )
    facts: dict[str, Any] = {
        "task": "image-classification",
        "about": "A small ViT for experiments of seconds: upright MNIST digits.",
        "figures": figures,
        "limits": limits,
    }
    facts |= {
        "licence": "cc-by-sa-4.0",
        "data_note": note,
        "sources": [("mnist", "CC BY-SA 3.0", vit.PICTURES, "28x28 pixels each")],
    }
    return ship.ship(name, model, None, {**facts, **_curve_facts(curve, "pictures")})


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tunewright.claims.lab.make", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "card"])
    parser.add_argument("base", nargs="?", choices=NAMES)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--tasks", nargs="*", default=[], help="of card: these lab tasks alone")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.name == "card":
        from tunewright.claims.lab.spread import measure

        print(measure(given.base or parser.error("card of which base?"), given.seeds, given.tasks))
        return
    work = given.work or cache_folder() / "lab" / "make" / given.name
    how = {"nano-encoder": make_encoder, "nano-vit": make_vit}.get(given.name, make_causal)
    print(how(given.name, work))


if __name__ == "__main__":
    main(sys.argv[1:])
