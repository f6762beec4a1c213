"""Toxicity filter: leave out rows that a text classifier finds toxic, or that hold a word of a list.

With `model`, a folder of transformers' files with a head for sequence classification, a row's score is the probability
of `label`: a softmax over the classes, or a sigmoid where the model's config says multi-label or there is one label. A
row goes above `most`. Weights are read from safetensors alone: a pickle is refused, as a model without its head is. The
first tokens that the model can read count (`LONGEST` at most). Scores are kept in the cache by the weights, the label
and the texts, so that a pool that a check read is not read again.

With `words`, or a `file` that has one a line, a row goes that holds any of them, as whole words in lower case, runs of
several words too: C4's rule (Raffel et al. 2020, arXiv:1910.10683), which no list here decides for its user. A list
tells no use from a mention and knows one spelling: look at what goes.

One pass, no row is held. `label` and `most` are ours. Raises RecipeError where neither is named, or the label or file
is not there; ModelError for a folder that cannot be read as a classifier; DataError for a score that is no number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from tunewright.contract.records import Record
from tunewright.data.select._text import Names, in_batches
from tunewright.data.select._words import tokens
from tunewright.errors import DataError, ModelError, RecipeError, did_you_mean
from tunewright.files.cache import cache_folder, write_json
from tunewright.files.hashing import hash_beside, hash_weights
from tunewright.pieces.each_row import EachRow, Judge

BATCH = 16
"""Rows that the model reads side by side."""
LONGEST = 512
"""Tokens of a row that are read, at most."""
Listed = dict[int, np.ndarray]
"""By number of words the keys of what is listed."""


def listed(words: Sequence[str]) -> Listed:
    """The keys of words and runs of words. RecipeError for an entry without a word."""
    keys: dict[int, list[int]] = {}
    for entry in words:
        held = tokens([entry], punctuation=False)
        if not len(held.keys):
            raise RecipeError(f"{entry!r} holds no word", where="toxicity", remedy="take it off the list")
        keys.setdefault(len(held.keys), []).extend(held.runs(len(held.keys))[0].tolist())
    return {n: np.array(found, np.uint64) for n, found in keys.items()}


def found_in(texts: Sequence[str], wanted: Listed) -> np.ndarray:
    """[T] how many times each text holds what is listed."""
    held, total = tokens(texts, punctuation=False), np.zeros(len(texts), np.int64)
    for n, keys in wanted.items():
        runs, starts = held.runs(n)
        total += np.bincount(held.text[starts[np.isin(runs, keys)]], minlength=len(texts))
    return total


class Classifier:
    """A folder's text classifier: `scores(texts)` gives each one's probability of a label."""

    def __init__(self, folder: Path, label: str):
        import transformers

        self.identity = [hash_weights(folder), hash_beside(folder), label]  # refuses what is no safetensors
        try:
            given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **given)
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **given
            )
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(folder, str(error).splitlines()[0]) from None
        if info["missing_keys"]:
            raise self._unreadable(folder, f"{sorted(info['missing_keys'])[0]} is not among its weights")
        self.model, config = model.eval(), model.config
        names = {str(name).lower(): int(i) for i, name in config.id2label.items()}
        if label.lower() not in names:
            raise RecipeError(
                f"the model has no label '{label}'",
                where="toxicity.label",
                remedy=f"{did_you_mean(label.lower(), names)} (it has {', '.join(names)})",
            )
        self.at = names[label.lower()]
        self.alone = config.problem_type == "multi_label_classification" or len(names) == 1
        room = getattr(config, "max_position_embeddings", None) or LONGEST
        self.longest = min(LONGEST, room, self.tokenizer.model_max_length)
        padded = self.tokenizer.pad_token_id is not None and config.pad_token_id is not None
        self.batch = BATCH if padded else 1

    @staticmethod
    def _unreadable(folder: Path, why: str) -> ModelError:
        return ModelError(
            f"it cannot be read as a text classifier: {why}",
            where=str(folder),
            remedy="name a folder with config.json, a tokenizer and safetensors of a model for sequence classification",
        )

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The probability of the label, of each text, 0 of an empty one; from the cache where it holds them. Operations
        go to every counter that is open, those of what is in the cache too.
        """
        import torch

        from tunewright.models.flops import book, counting

        key = hashlib.sha256(json.dumps([*self.identity, *texts]).encode()).hexdigest()
        kept = cache_folder() / "scores" / f"{key}.json"
        try:
            known = json.loads(kept.read_text(encoding="utf-8"))
            found, spent = [float(x) for x in known["scores"]], float(known["flops"])
        except (OSError, ValueError, TypeError, KeyError):
            pass
        else:
            book(spent, 0.0, torch.zeros(()))
            return found
        with counting() as counted:
            found = self._read(texts)
        try:
            write_json(kept, {"scores": found, "flops": counted.total})
        except OSError:
            pass  # a cache that cannot be written costs time, never the run
        return found

    def _read(self, texts: Sequence[str]) -> list[float]:
        import torch

        out = [0.0] * len(texts)
        order = sorted((i for i, t in enumerate(texts) if t.strip()), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for k in range(0, len(order), self.batch):
                some = order[k : k + self.batch]
                given = self.tokenizer(
                    [texts[i].encode("utf-8", "replace").decode() for i in some],
                    padding=True,
                    truncation=True,
                    max_length=self.longest,
                    return_tensors="pt",
                )
                logits = self.model(**given).logits.float()
                each = logits.sigmoid() if self.alone else logits.softmax(-1)
                for i, score in zip(some, each[:, self.at].tolist(), strict=True):
                    out[i] = score
        return out


class Toxicity(EachRow):
    """Leaves out rows that a classifier finds toxic, or that hold a listed word."""

    model: str | None = Field(None, description="folder of a text classifier; none: the list alone")
    label: str = Field("toxic", min_length=1, description="the class whose probability is the score")
    most: float = Field(0.5, ge=0, le=1, description="highest probability that stays")
    words: Names = Field((), description="words, or runs of words, of which no row may hold one")
    file: str | None = Field(None, description="a file of such words, one a line")

    conformance: ClassVar[dict[str, object]] = {"words": ["7"]}

    @model_validator(mode="after")
    def _something(self) -> Toxicity:
        if self.model is None and self.file is None and not self.words:
            raise ValueError("it judges by a classifier or a list: write model: FOLDER, words: [...] or file: FILE")
        return self

    def own_model(self) -> str | None:
        return self.model

    def _list(self) -> list[str]:
        if self.file is None:
            return list(self.words)
        try:
            lines = Path(self.file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"the list cannot be read: {error}", where="toxicity.file", remedy="name a text file, a word a line"
            ) from None
        return [*self.words, *(line for line in map(str.strip, lines) if line)]

    def judge(self) -> Judge:
        wanted = listed(self._list())
        scores: Callable[[Sequence[str]], list[float]] | None = None
        if self.model is not None:
            folder = Path(self.model).expanduser()
            if not (folder / "config.json").is_file():
                raise ModelError(
                    "there is no model in this folder", where=str(folder), remedy="download one, and name its folder"
                )
            scores = Classifier(folder, self.label).scores

        def judged(some: Sequence[Record]) -> list[tuple[dict[str, float], str]]:
            return [one for part, texts in in_batches(some) for one in self._judged(part, texts, wanted, scores)]

        return judged

    def _judged(
        self,
        some: Sequence[Record],
        texts: Sequence[str],
        wanted: Listed,
        scores: Callable[[Sequence[str]], list[float]] | None,
    ) -> list[tuple[dict[str, float], str]]:
        held = found_in(texts, wanted).tolist()
        out = [({"words": n}, "holds a listed word" if n else "") for n in held]
        if scores is None:
            return out
        found = scores(texts)
        for i, (record, score) in enumerate(zip(some, found, strict=True)):
            if not math.isfinite(score):
                raise DataError(
                    f"the classifier gives {score} for it",
                    where=record.where,
                    remedy="look at the model's weights, or take the row out",
                )
            why = out[i][1] or (f"{self.label} above {self.most:g}" if score > self.most else "")
            out[i] = {**out[i][0], "probability": score}, why
        return out
