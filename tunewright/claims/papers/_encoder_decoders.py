"""What claims about encoder-decoders share: small ones that know nothing yet, and stages of reading and of tasks.

None is shipped with the lab: each is drawn by the claim's seed, with a tokenizer of the claim's own texts, and reads
what its claim calls a base.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunewright.claims import merging
from tunewright.claims.lab import corpus, rows
from tunewright.claims.papers import _chosen
from tunewright.files.cache import cache_folder

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

VOCABULARY, LONGEST = 1024, 128
"""Tokens of the tokenizer, and of the longest source or target."""


def drawn(kind: Literal["t5", "bart"], texts: Iterable[str], seed: int) -> str:
    """The folder of an encoder-decoder of two blocks a side and width 64, and a tokenizer learnt from the texts."""
    from tokenizers.processors import TemplateProcessing
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    from tunewright.loading.new_tokenizer import train_tokenizer
    from tunewright.models.generators import seeded

    found = list(texts)
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
    folder = Path(cache_folder()) / "lab" / f"{kind}-{digest}-{seed}"
    if (folder / "tokenizer.json").is_file():
        return str(folder)
    tokenizer = train_tokenizer(found, VOCABULARY)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    sizes: dict[str, Any] = {"d_model": 64, "vocab_size": len(tokenizer)}
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    with seeded(seed):
        model: Any
        if kind == "t5":
            t5: dict[str, Any] = {"d_ff": 192, "d_kv": 16, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
            t5 |= {"decoder_start_token_id": ids["pad_token_id"]}
            model = T5ForConditionalGeneration(T5Config(**sizes, **t5, **ids))
        else:
            sides: dict[str, Any] = {
                f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in (("layers", 2), ("attention_heads", 4))
            }
            sides |= {"encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "max_position_embeddings": 2 * LONGEST}
            start = ids["eos_token_id"]
            more: dict[str, Any] = {
                "dropout": 0.0,
                "init_std": 0.1,
                "decoder_start_token_id": start,
                "forced_eos_token_id": None,
            }
            model = BartForConditionalGeneration(BartConfig(**sizes, **sides, **ids, **more))
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def english() -> list[str]:
    """Sentences of web pages."""
    return rows.shuffled(rows.sentences([r["text"] for r in corpus.rows("c4-web/train.jsonl.gz")]))


def reading(name: str, texts: Sequence[str], tokens: int, denoiser: str, **more: Any) -> dict[str, Any]:
    """A stage that goes on with a denoiser on texts, for so many tokens, at a constant rate (3e-3)."""
    path = rows.written(name, {"train": [{"text": t} for t in texts]})["train"]
    return {
        "name": name,
        "data": {"train": [{"path": path, "name": name}]},
        "methods": ["full", denoiser],
        "budget": {"tokens": tokens},
        "train": {"learning_rate": 3e-3, "lr_scheduler_type": "constant", **more},
    }


def learning(name: str, found: Sequence[dict[str, str]], tokens: int, rate: float) -> dict[str, Any]:
    """A stage that learns rows of a source and a target."""
    path = rows.written(name, {"train": found})["train"]
    train = {"learning_rate": rate}
    data = {"train": [{"path": path, "name": name}]}
    return {"name": name, "data": data, "methods": ["full"], "budget": {"tokens": tokens}, "train": train}


def recipe(
    run: ClaimRun, arm: str, seed: int, model: str, stages: Sequence[dict[str, Any]], judged: Sequence[dict[str, str]]
) -> Any:
    """The recipe of these stages, one after the other, judged by the loss of other rows' targets."""
    path = rows.written("judged", {"eval": judged})["eval"]
    judged_rows = [{"path": path, "name": "eval"}]
    data = {"train": judged_rows, "eval": judged_rows, "max_length": LONGEST}  # stages learn from rows of their own
    return _chosen.recipe(
        run,
        arm,
        seed,
        None,
        model=model,
        task="text2text-generation",
        data=data,
        stages=list(stages),
        train={"batch_tokens": 256},
        evaluation={"metric": "loss", "rows": len(judged)},
    )


def folder(run: ClaimRun, made: Any) -> str:
    """The folder of the model that a recipe leaves."""
    return merging.folder_of(merging.finished(run, made).folder)
