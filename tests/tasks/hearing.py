"""Folders of tones, and tiny models that hear them, for tests of tasks on recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_sounds import WORDS, clips, hearing, wav2vec2, whisper, whisper_tokenizer
from tunewright.recipe import Recipe

ALPHABET = {"<pad>": 0, "<unk>": 1, "|": 2, **{c: i for i, c in enumerate("LOWHIG", 3)}}


def whisper_folder(at: Path, kind: str = "WhisperForConditionalGeneration") -> Path:
    model: Any = seeded(lambda: whisper(kind))
    model.save_pretrained(at)
    hearing().save_pretrained(at)
    whisper_tokenizer().save_pretrained(at)
    return at


def ctc_tokenizer(at: Path) -> Any:
    from transformers import Wav2Vec2CTCTokenizer

    at.mkdir(parents=True, exist_ok=True)
    (at / "vocab.json").write_text(json.dumps(ALPHABET))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
    return Wav2Vec2CTCTokenizer(str(at / "vocab.json"), word_delimiter_token="|", do_lower_case=False, **names)


def ctc_folder(at: Path, kind: str = "Wav2Vec2ForCTC", norm: str = "group") -> Path:
    from transformers import Wav2Vec2FeatureExtractor

    tokenizer = ctc_tokenizer(at)
    model: Any = seeded(lambda: wav2vec2(kind, norm=norm, vocab_size=len(ALPHABET), pad_token_id=0))
    model.save_pretrained(at)
    tokenizer.save_pretrained(at)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(at)
    return at


def rows(folder: Path, column: str, said: Any = str) -> None:
    """Twelve clips, and train.jsonl and test.jsonl that name them."""
    clips(folder)
    made = [{"audio": f"clips/{i}.wav", column: said(WORDS[i % 2])} for i in range(12)]
    for name, some in (("train", made[:8]), ("test", made[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))


def recipe(folder: Path, task: str, *, sets: tuple[str, ...] = (), **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "model": "./base",
        "task": task,
        "data": {"train": "train.jsonl", "eval": "test.jsonl"},
        "methods": [{"lora": {"rank": 4}}],
        "train": {"learning_rate": 0.02, "batch_tokens": 120, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 6},
        "measurement": {"drift_sequences": 3, "strengths": [1]},
    }
    tree |= changes
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "recipe.yaml", list(sets))
