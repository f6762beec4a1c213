"""How answers are compared: one documented normalisation, and the scores built on it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tunewright.contract.batch import Row
from tunewright.contract.metric import Answered
from tunewright.errors import DataError

_REMEDY = "use metric: loss for plain text, or rows with prompt and completion"


def same_text(text: str) -> str:
    """The normal form in which answers are compared: Unicode NFKC, runs of white space as one space, ends stripped.

    Case and punctuation count, as they do for whoever parses the answer.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def exact_match(answer: str, reference: str) -> float:
    """1 when both have the same normal form, else 0."""
    return float(same_text(answer) == same_text(reference))


def cannot_match(begun: str, reference: str) -> bool:
    """Whether an answer that begins with `begun` and goes on is no `exact_match`, however it goes on.

    Its last word may still change; the normal form of those before it, with the space behind them, stands.
    """
    words = same_text(" ".join(begun.split()[:-1]))
    return bool(words) and not same_text(reference).startswith(words + " ")


def f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words of the case-folded normal forms, with repeats (as for SQuAD)."""
    a, b = (Counter(same_text(t).casefold().split()) for t in (answer, reference))
    common = (a & b).total()
    if not a or not b:
        return float(a == b)
    return 2 * common / (a.total() + b.total()) if common else 0.0


def macro_f1(results: Sequence[Answered]) -> float:
    """Mean over the classes seen (as answer or reference) of the F1 of each."""
    pairs = [(r.answer, r.reference) for r in results]
    scores = []
    for label in sorted({x for pair in pairs for x in pair}):
        hit = sum(a == label == b for a, b in pairs)
        scores.append(2 * hit / sum((a == label) + (b == label) for a, b in pairs))
    return sum(scores) / len(scores)


def prompt_ids(row: Row) -> Sequence[int]:
    """Token ids that generation starts from. Raises DataError for a row without a prompt."""
    ids = row.fields.get("prompt_ids")
    if not ids:
        raise DataError("the row has no prompt, so nothing can be asked", where=row.id, remedy=_REMEDY)
    return ids  # type: ignore[no-any-return]


def reference(row: Row) -> str:
    """The expected answer's text. Raises DataError for a row without one."""
    text = row.fields.get("reference")
    if text is None:
        raise DataError("the row has no reference answer", where=row.id, remedy=_REMEDY)
    return str(text)


def prompt_text(tokenizer: Any, row: Row) -> str:
    """The prompt as text, special tokens shown: what the model really saw; of a recording its file and length, of a
    picture how many tokens it became.
    """
    if "audio" in row.fields:
        return str(row.fields["text"])
    if "shown" not in row.fields:
        return str(tokenizer.decode(prompt_ids(row), skip_special_tokens=False))
    own, said = set(row.fields["shown"]["tokens"]), list[str]()
    for seen, run in groupby(prompt_ids(row), key=own.__contains__):
        ids = list(run)
        said.append(f"[picture: {len(ids):,} tokens]" if seen else tokenizer.decode(ids, skip_special_tokens=False))
    return "".join(said)


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """An answer as text, special tokens left out. A tokenizer of CTC models would take double letters together once
    more.
    """
    how = {"group_tokens": False} if hasattr(tokenizer, "word_delimiter_token") else {}
    return str(tokenizer.decode(ids, skip_special_tokens=True, **how))
