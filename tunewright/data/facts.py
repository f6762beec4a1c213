"""What is seen of each record while it is encoded, and kept beside its rows: where it stands, hashes of what it says
and of what the model is given, and what would go wrong silently. Everything that `check` says of rows is told from it.

48 bytes a record, on disk: what is compared is read a part at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import Task
from tunewright.data.truncate import trained_tokens
from tunewright.tasks._segments import first_token

CONTENT = (
    *("messages", "prompt", "completion", "text", "label", "chosen", "rejected", "system", "tools"),
    *("anchor", "positive", "negative", "negatives", "sentence1", "sentence2", "score"),
    *("query", "passage"),
)
TYPE = np.dtype([("said", "<u8", 2), ("given", "<u8", 2), ("number", "<u8"), ("place", "<u4"), ("flags", "<u4")])
UNTRAINED, LONG, TWO_BOS, NO_BOS, NO_END, MARKER = (1 << k for k in range(6))
EARLIER, SINGLE, BLANK, NAMELESS, SAME, MOVED, ITSELF, LABEL, OTHER, SPACED = (1 << k for k in range(6, 16))
"""No token is trained; longer than max_length; two BOS; no BOS; an end that is not trained; a special token in the
text; earlier answers that are not trained; one answer, not two; a picture of a single colour; a turn's name that the
model is not shown; a pair whose answers are equal; an answer that was found again where it does stand; a text
whose positive is itself; a label or score; one that is not the first record's; a bare prompt that ends in a
space."""
_AT_ONCE = 1 << 13


@dataclass(frozen=True)
class Facts:
    """The facts of one source. `places` are what stands before the numbers of its rows, `shapes` counts records."""

    path: Path
    places: tuple[str, ...]
    shapes: dict[str, int]

    def parts(self) -> Iterator[NDArray[Any]]:
        """The facts in the order of the records, some at a time."""
        with self.path.open("rb") as f:
            while raw := f.read(_AT_ONCE * TYPE.itemsize):
                yield np.frombuffer(raw, TYPE)

    def where(self, fact: Any) -> str:
        """Where a record stands: file:line, or a file that is a row itself."""
        place, number = self.places[int(fact["place"])], int(fact["number"])
        return f"{place}:{number}" if number else place

    def at(self, places: Iterable[int]) -> list[str]:
        """Where the records at some places of the source stand."""
        out = []
        with self.path.open("rb") as f:
            for place in places:
                f.seek(place * TYPE.itemsize)
                out.append(self.where(np.frombuffer(f.read(TYPE.itemsize), TYPE)[0]))
        return out

    def flagged(self, flag: int) -> list[str]:
        """Where the records with a flag stand."""
        return [self.where(fact) for part in self.parts() for fact in part[part["flags"] & flag > 0]]


class Looking:
    """Looks at the records of one source as they are encoded."""

    def __init__(self, task: Task, tokenizer: Any):
        self.shapes: Counter[str] = Counter()
        self.places: dict[str, int] = {}
        self._first: tuple[bool, Any] = (False, None)
        self._generates = task.continues
        self._reads = tokenizer is not None and hasattr(tokenizer, "all_special_ids")
        if self._reads:
            self._bos, self._start = tokenizer.bos_token_id, first_token(tokenizer)
            self._ends = end_ids(tokenizer)
            self._marker = re.compile("|".join(map(re.escape, marker_texts(tokenizer))) or "(?!)")

    def facts(self, seen: Sequence[tuple[Record, Row, Sequence[Row]]]) -> NDArray[Any]:
        """The facts of records, each with its row and what was kept of it."""
        out = np.zeros(len(seen), TYPE)
        said, given = list[bytes](), list[bytes]()
        numbers, places, flags = list[int](), list[int](), list[int]()
        for record, row, kept in seen:
            self.shapes[record.shape] += 1
            place, _, number = record.where.rpartition(":")
            if not number.isdigit():
                place, number = record.where, "0"
            places.append(self.places.setdefault(place, len(self.places)))
            numbers.append(int(number))
            flags.append(self._flags(record, row, kept))
            pixels = row.fields.get("pixels", row.fields.get("audio"))
            if "past" in row.fields:  # the same values may be forecast from twice
                past = row.fields["past"].tobytes()
                said.append(_hash(past + row.fields["future"].tobytes()))
                given.append(_hash(past))
            elif row.fields.get("picture_tokens"):  # the same picture may be asked of twice
                pictures, asked = row.fields["pictures"].tobytes(), repr(list(row.fields.get("prompt_ids", ())))
                said.append(_hash(repr(list(row.input_ids)).encode() + pictures))
                given.append(_hash(asked.encode() + pictures))
            elif pixels is None:
                said.append(said_key(record))
                given.append(input_key(record))
            else:
                target = b"%d" % (row.label or 0) + repr(list(row.input_ids)).encode()
                if isinstance(mask := row.fields.get("targets"), np.ndarray):
                    target += mask.tobytes()
                said.append(_hash(target + pixels.tobytes()))
                given.append(_hash(pixels.tobytes()))
        out["said"] = np.frombuffer(b"".join(said), "<u8").reshape(-1, 2)
        out["given"] = np.frombuffer(b"".join(given), "<u8").reshape(-1, 2)
        out["number"], out["place"], out["flags"] = numbers, places, flags
        return out

    def _flags(self, record: Record, row: Row, kept: Sequence[Row]) -> int:
        whole, fields = len(kept) == 1 and kept[0] is row, row.fields
        flags = (0 if whole else LONG) | (UNTRAINED if whole and not trained_tokens(row) else 0)
        if fields.get("untrained"):
            flags |= EARLIER
        if fields.get("nameless"):
            flags |= NAMELESS
        if fields.get("moved"):
            flags |= MOVED
        if fields.get("spaced"):
            flags |= SPACED
        if "rejected_ids" not in fields:
            flags |= SINGLE
        elif list(fields["rejected_ids"]) == list(row.input_ids):
            flags |= SAME
        query = record.get("query", record.get("anchor"))
        if query is not None and query == record.get("positive"):
            flags |= ITSELF
        if (label := record.get("label", record.get("score"))) is not None:
            known, first = self._first
            self._first = (True, first if known else label)
            flags |= LABEL | (OTHER if known and label != first else 0)
        if (pixels := fields.get("pixels")) is not None and _is_blank(pixels):
            flags |= BLANK
        if not self._reads:
            return flags
        if self._generates and any(map(self._marker.search, texts_of(record))):
            flags |= MARKER
        if self._generates and whole and not flags & UNTRAINED:
            flags |= TWO_BOS if starts_twice(row, self._bos) else 0
            flags |= NO_BOS if self._start and list(row.input_ids[:1]) != self._start else 0
            flags |= NO_END if not end_is_trained(row, self._ends) else 0
        return flags


def _is_blank(pixels: NDArray[Any]) -> bool:
    """Whether all pixels are equal, up to a level of 8 bits."""
    if pixels.dtype == np.uint8:
        return int(pixels.max()) - int(pixels.min()) <= 1
    return float(np.ptp(pixels.reshape(len(pixels), -1), axis=1).max()) < 0.01  # normalised, each channel by its own


def marker_texts(tokenizer: Any) -> list[str]:
    """Special tokens that are words of their own, which a row's text should not hold."""
    return [t for t in tokenizer.all_special_tokens if t.strip() and len(t) > 2]


def end_ids(tokenizer: Any) -> set[int]:
    """The tokens that may end an answer: special ones, named or added (what ends a turn is often not the EOS)."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def said_key(record: Record) -> bytes:
    """A hash of all that a record says: equal ones are duplicates."""
    content = ("tokens", "tags") if "tokens" in record and "tags" in record else CONTENT
    said = {c: record[c] for c in content if c in record}
    if said.keys() == {"messages"} and (plain := _plain_turns(said["messages"])) is not None:
        return _hash(repr(plain).encode())
    return _digest(said if said.keys() - {"label"} else dict(record))


def _plain_turns(turns: Any) -> list[str] | None:
    """Roles and contents of turns that say nothing else; None for any other."""
    if not isinstance(turns, list):
        return None
    out = list[str]()
    for turn in turns:
        if not isinstance(turn, dict) or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if not (isinstance(role, str) and isinstance(content, str)):
            return None
        out += (role, content)
    return out


def _said(content: Any) -> str:
    """A turn's text, whether it is written as text or as parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return str(content)
    return "".join(str(p.get("text", p)) if isinstance(p, dict) else str(p) for p in content)


def input_key(record: Record) -> bytes:
    """A hash of what the model is given (not of the answer), blind to case and spaces: equal inputs are an overlap."""
    turns = record.get("messages")
    if isinstance(turns, list):
        said, count = list[str](), None
        for turn in turns:
            if not isinstance(turn, dict):
                continue
            role = turn.get("role")
            if role == "assistant":
                count = len(said)  # what stands before the last answer
            if role != "system":
                said.append(_said(turn.get("content")))
        said = said[:count]
        given: Any = said[0] if len(said) == 1 else said
    elif "question" in record and ("context" in record or "choices" in record):
        given = [record.get(c) for c in ("question", "context", "choices")]
    else:
        given = next((record[c] for c in ("prompt", "text", "tokens") if c in record), dict(record))
    if isinstance(given, str):
        return _hash(" ".join(given.casefold().split()).encode("utf-8", "surrogatepass"))
    return _digest(given)


def _digest(value: Any) -> bytes:
    return _hash(_SORTED(value).encode())


def _hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


def _plain(value: Any) -> str:
    raw = value if isinstance(value, bytes) else value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return hashlib.sha256(raw).hexdigest()


_SORTED = json.JSONEncoder(sort_keys=True, default=_plain).encode


def starts_twice(row: Row, bos: int | None) -> bool:
    """Whether a row begins with two BOS tokens."""
    return bos is not None and len(row.input_ids) > 1 and row.input_ids[0] == row.input_ids[1] == bos


def end_is_trained(row: Row, ends: set[int]) -> bool:
    """Whether the last trained token of a row is one of `ends`, so that generation learns to stop."""
    weights = row.weights
    for i in range(len(weights) - 1, -1, -1):
        if weights[i] > 0:
            return row.input_ids[i] in ends
    return False


def texts_of(record: Record) -> list[str]:
    """The texts of a record's columns and turns."""
    texts = list[str]()
    for column, value in record.items():
        if column not in CONTENT:
            continue
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            texts += [_said(t["content"]) for t in value if isinstance(t, dict) and t.get("content")]
    return texts


Match = tuple[int, int, int, int]
"""A record (source, place in it) and the first that is equal to it (source, place in it)."""


def matched(sources: Sequence[Facts], key: str) -> list[Match]:
    """The records of some sources whose `key` ("said" or "given") an earlier record has, in order.

    As many of them are held in memory as 2^17 records take, however many there are.
    """
    count = sum(f.path.stat().st_size for f in sources) // TYPE.itemsize
    shares = max(1, -(-count // (1 << 17)))
    out: list[Match] = []
    for share in range(shares):
        out += _matched(*_share(sources, key, share, shares))
    return sorted(out)


def _share(
    sources: Sequence[Facts], key: str, share: int, shares: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The keys of one of `shares` parts by their values, with the source and the place of each."""
    keys, owners, places = [], [], []
    for i, facts in enumerate(sources):
        start = 0
        for part in facts.parts():
            at = np.flatnonzero(part[key][:, 0] % shares == share)
            keys.append(part[key][at])
            owners.append(np.full(len(at), i))
            places.append(start + at)
            start += len(part)
    if not keys:
        return np.zeros((0, 2), "<u8"), np.zeros(0, int), np.zeros(0, int)
    return np.concatenate(keys), np.concatenate(owners), np.concatenate(places)


def _matched(keys: NDArray[Any], owners: NDArray[Any], places: NDArray[Any]) -> Iterator[Match]:
    order = np.lexsort((places, owners, keys[:, 1], keys[:, 0]))
    same = (keys[order][1:] == keys[order][:-1]).all(1)
    first = -1
    for i in np.flatnonzero(same):
        if i == 0 or not same[i - 1]:
            first = order[i]
        at = order[i + 1]
        yield int(owners[at]), int(places[at]), int(owners[first]), int(places[first])
