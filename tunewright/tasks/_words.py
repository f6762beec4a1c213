"""The ids of texts word by word: a word that was met before is looked up, which is several times faster than encoding
it again.

This holds where what the tokenizer makes of a text is what it makes of its words one after the other. It is shown from
the tokenizer's own description, never from examples: texts are cut only where a letter, digit or mark of punctuation is
followed by a single space and a letter, and at such a place every rule of `RULES` ends a match. Byte-level BPE merges
nothing across. Any other tokenizer is asked for whole texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

BEFORE, AFTER = "A-Za-z0-9.,;:!?", "A-Za-z"
_CUT = re.compile(f" (?=[{AFTER}])(?<=[{BEFORE}] )")  # begins with a letter of its own: found several times faster
_ENDS = re.compile(f"[{BEFORE}]\\Z")
_TOGETHER = 64
_INSIDE = re.compile(f"[{BEFORE}] [{AFTER}]")
LONGEST, MOST = 48, 1 << 17
"""The longest word that is kept, in characters, and how many are: at most about 40 MB."""
_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = frozenset(
    {
        # cl100k (Llama 3) and Qwen's, which takes digits one by one
        rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        # o200k (GPT-4o, gpt-oss)
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTED}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTED}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    }
)
"""How pre-tokenizers split text, beside ByteLevel's own rule (GPT-2's): in each, a match that holds a letter, a digit
or punctuation ends before a space, and looks ahead of white space alone.
"""


class Words:
    """The known words of one tokenizer: those that begin a text, and all others without the space before them."""

    def __init__(self, backend: Any):
        self._backend = backend
        self._first: dict[str, list[int]] = {}
        self._later: dict[str, list[int]] = {}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, nothing added."""
        cut = [_CUT.split(text) for text in texts]
        first = {words[0] for words in cut}
        later = {word for words in cut for word in words[1:]}
        if len(self._first) + len(self._later) + len(first) + len(later) > MOST:
            self._first.clear()
            self._later.clear()
        new = list(first.difference(self._first)), list(later.difference(self._later))
        self._first.update(zip(new[0], encoded(self._backend, new[0]), strict=True))
        self._later.update(self._parted(new[1]))
        known, out = self._later, []
        for words in cut:
            ids = [*self._first[words[0]]]
            for word in words[1:]:
                ids += known[word]
            out.append(ids)
        for held, words in zip((self._first, self._later), new, strict=True):
            for word in words:
                if len(word) > LONGEST:
                    del held[word]
        return out

    def _parted(self, new: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        """Words with their ids, a space before each. Most are encoded many to a text, which costs a fraction of a text
        for each: they are parted again by where their tokens end.
        """
        inside = [word for word in new if _ENDS.search(word)]
        together = [inside[i : i + _TOGETHER] for i in range(0, len(inside), _TOGETHER)]
        texts = [" " + " ".join(words) for words in together]
        found = self._backend.encode_batch(texts, add_special_tokens=False) if texts else []
        for words, encoding in zip(together, found, strict=True):
            ids, ends = encoding.ids, [end for _, end in encoding.offsets]
            at = end = 0
            for word in words:
                begin, end = at, end + 1 + len(word)
                while at < len(ends) and ends[at] <= end:
                    at += 1
                yield word, ids[begin:at]
        others = [word for word in new if not _ENDS.search(word)]
        yield from zip(others, encoded(self._backend, [" " + word for word in others]), strict=True)


def encoded(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, nothing added, as the tokenizer itself gives them."""
    return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)] if texts else []


def words_of(backend: Any) -> Words | None:
    """The words of a tokenizer's backend; None where its texts are not made of words by themselves."""
    return _words_of(backend, backend.get_vocab_size(with_added_tokens=True))


@lru_cache(maxsize=4)
def _words_of(backend: Any, size: int) -> Words | None:
    return Words(backend) if separable(json.loads(backend.to_str())) else None


def separable(about: dict[str, Any]) -> bool:
    """Whether a tokenizer, described as in tokenizer.json, makes of a text what it makes of its words."""
    model = about["model"]
    if model.get("type") != "BPE" or any(
        model.get(k) for k in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return False
    if (
        about.get("truncation")
        or about.get("padding")
        or (about.get("normalizer") or {"type": "NFC"}) != {"type": "NFC"}
    ):
        return False
    for token in about["added_tokens"]:
        if _INSIDE.search(token["content"]) or token["rstrip"] and _ENDS.search(token["content"]):
            return False
    steps = about.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    return all(map(_harmless, steps)) and any(map(_parts, steps))


def _parts(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer parts words."""
    return step.get("type") == "Split" or step.get("type") == "ByteLevel" and bool(step.get("use_regex", True))


def _harmless(step: dict[str, Any]) -> bool:
    """Whether what a pre-tokenizer does to a word does not depend on the words around it."""
    if step.get("type") == "Split":
        rule = step["pattern"].get("Regex")
        return rule in RULES and not step["invert"] and step["behavior"] == "Isolated"
    return step.get("type") in ("Digits", "ByteLevel")
