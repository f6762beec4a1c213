"""One vocabulary for models of several: rows of embeddings and heads are put in the order of the result's tokenizer.

What stands in a row that a model does not have: the row that was chosen for the token; else that of the only model
which knows it; else the base's; else the mean of those who do; zero where nobody does. Rows behind the last token are
the mean of the others. All as mergekit does it.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ModelError, RecipeError, did_you_mean
from tunewright.weights import names
from tunewright.weights.layers import block_of
from tunewright.weights.opening import located
from tunewright.weights.request import Request, Token, same_model
from tunewright.weights.source import Source
from tunewright.weights.views import Array, Made

ABSENT = -1


@dataclass
class Places:
    """Where rows come from, for each of the result's tokens and some models. `own` [models, V]: rows of the models
    themselves, ABSENT where a model lacks the token; `kind` [V]: 0 zero, 1 a model's row, 2 the mean of those who have
    it; `model`, `row` [V]: which row; `force` [V]: in every model.
    """

    own: np.ndarray[Any, Any]
    kind: np.ndarray[Any, Any]
    model: np.ndarray[Any, Any]
    row: np.ndarray[Any, Any]
    force: np.ndarray[Any, Any]


def size_of(config: Mapping[str, Any]) -> int | None:
    """How many rows a config says that the vocabulary has."""
    for place in (config, config.get("text_config")):
        if isinstance(place, Mapping) and isinstance(place.get("vocab_size"), int):
            return int(place["vocab_size"])
    return None


def untie(config: dict[str, Any]) -> None:
    """Say in a config that the head is a tensor of its own."""
    config["tie_word_embeddings"] = False
    if isinstance(config.get("text_config"), dict):
        config["text_config"]["tie_word_embeddings"] = False


def by_token(name: str, shape: tuple[int, ...], rows: int | None) -> bool:
    """Whether a tensor has a row for every token: an embedding, a head, or a head's bias."""
    if not shape or shape[0] != rows or block_of(name) is not None:
        return False
    return len(shape) == 2 or (len(shape) == 1 and name.endswith("bias"))


class Rows:
    """The result's tokenizer, and how rows of models fit it. ModelError for a tokenizer that cannot be read."""

    def __init__(self, request: Request, sources: Sequence[Source]):
        assert request.vocabulary is not None
        self.request, self.asked, self.where = request, request.vocabulary, f"{request.where}: tokenizer"
        self._read = {id(s): _tokenizer(names.reader_folder(s), s.ref) for s in sources}
        self._known: dict[int, dict[str, int]] = {i: t.get_vocab() for i, t in self._read.items()}
        first = next((s for s in sources if same_model(s.ref, request.base)), sources[0])
        self.like, self.tokenizer = first, self._made(first, sources)
        present = self.tokenizer.get_vocab()
        self.tokenizer.add_tokens([t for t in self.asked.tokens if t not in present])
        self.ids: dict[str, int] = self.tokenizer.get_vocab()
        self.count = max(self.ids.values()) + 1
        multiple = self.asked.multiple or 1
        self.size = -(-self.count // multiple) * multiple
        self.tokens = sorted(self.ids, key=self.ids.__getitem__)

    def _made(self, first: Source, sources: Sequence[Source]) -> Any:
        made = copy.deepcopy(self._read[id(first)])
        if self.asked.source == "base":
            return made
        if self.asked.source != "union":
            own = next((s for s in sources if same_model(s.ref, self.asked.source)), None)
            if own is not None:
                return copy.deepcopy(self._read[id(own)])
            return _tokenizer(located(self.asked.source).folder, self.asked.source)
        listed = [first, *(s for s in sources if s is not first)]
        for s in listed[1:]:
            known, added, rows = self._known[id(s)], self._read[id(s)].added_tokens_decoder, size_of(s.config)
            plain = [
                t for t, i in sorted(known.items(), key=lambda k: k[1]) if i not in added and (rows is None or i < rows)
            ]
            present = made.get_vocab()
            made.add_tokens([t for t in plain if t not in present])
        for s in listed:
            rows = size_of(s.config)
            present = made.get_vocab()
            more = {i: t for i, t in self._read[id(s)].added_tokens_decoder.items() if rows is None or i < rows}
            made.add_tokens([t for _, t in sorted(more.items()) if t.content not in present])
        return made

    def resized(self, config: dict[str, Any]) -> None:
        """Put the number of rows, and the ids that special tokens have now, into a config."""
        old = {i: t for t, i in self._known[id(self.like)].items()}
        for place in (config, *(v for v in config.values() if isinstance(v, dict))):
            if isinstance(place.get("vocab_size"), int):
                place["vocab_size"] = self.size
            for key, value in place.items():
                if key.endswith("_token_id") and type(value) is int:
                    place[key] = self.ids.get(old.get(value, ""), value)
                elif key.endswith("_token_id") and isinstance(value, list):
                    place[key] = [self.ids.get(old.get(v, ""), v) for v in value]

    def shown(self, opened: Sequence[Source], views: Sequence[Source]) -> list[Source]:
        """Views whose rows are the result's. `opened`: the models that they are views of, as they were given here."""
        places = self._places(opened, views)
        return [self._shown(i, views, places) for i in range(len(views))]

    def _places(self, opened: Sequence[Source], views: Sequence[Source]) -> Places:
        own = np.full((len(opened), self.count), ABSENT, np.int64)
        for i, s in enumerate(opened):
            known, rows = self._known[id(s)], size_of(s.config)
            for token, at in self.ids.items():
                if (row := known.get(token, ABSENT)) >= 0 and (rows is None or row < rows):
                    own[i, at] = row
        kinds, donors, at_rows = (np.zeros(self.count, np.int64) for _ in range(3))
        places = Places(own, kinds, donors, at_rows, np.zeros(self.count, bool))
        present = own != ABSENT
        many, donor = present.sum(0), present.argmax(0)
        base = next((i for i, s in enumerate(opened) if same_model(s.ref, self.request.base)), None)
        if base is not None:
            donor = np.where(present[base], base, donor)
        single = (many == 1) | (present[base] if base is not None else False)
        places.kind[:] = np.where(single, 1, np.where(many > 0, 2, 0))
        places.model[:], places.row[:] = donor, own[donor, np.arange(self.count)]
        for token, chosen in self.asked.tokens.items():
            if chosen is not None:
                self._choose(places, token, chosen, opened)
        return places

    def _choose(self, places: Places, token: str, chosen: Token, opened: Sequence[Source]) -> None:
        at, where = self.ids[token], f"{self.where}: tokens: {token}"
        places.force[at] = chosen.force
        if chosen.kind == "zero":
            places.kind[at] = 0
            return
        i = next((i for i, s in enumerate(opened) if same_model(s.ref, chosen.model)), None)
        if i is None:
            raise RecipeError(
                f"'{chosen.model}' is none of the models that are merged there",
                where=where,
                remedy="name one of: " + ", ".join(s.ref for s in opened),
            )
        known, rows = self._known[id(opened[i])], size_of(opened[i].config)
        named = token if chosen.token is None else chosen.token
        row = known.get(named, ABSENT) if chosen.id is None else chosen.id
        if not 0 <= row < (rows or len(known)):
            what = f"token {named!r}" if chosen.id is None else f"row {row}"
            raise RecipeError(f"'{opened[i].ref}' has no {what}", where=where, remedy=did_you_mean(named, known))
        places.kind[at], places.model[at], places.row[at] = 1, i, row

    def _shown(self, i: int, views: Sequence[Source], places: Places) -> Source:
        view, rows = views[i], size_of(views[i].config)
        found = [n for n, e in view.entries.items() if e.floats and by_token(n, e.shape, rows)]
        own = places.own[i]
        if self.size == rows == self.count and (own == np.arange(self.count)).all() and not places.force.any():
            return view
        if not found:
            raise ModelError(
                f"no tensor has the {rows} rows of its vocabulary", where=view.ref, remedy="leave tokenizer: out"
            )

        def make(key: Hashable) -> dict[str, Array]:
            return {str(key): self._rows(str(key), i, views, places)}

        return Made(
            view,
            {n: n for n in view.entries if n not in found},
            {n: n for n in found},
            make,
            {n: (self.size, *view.entries[n].shape[1:]) for n in found},
            {n: view.stored_type(n) for n in found},
        )

    def _rows(self, name: str, i: int, views: Sequence[Source], places: Places) -> Array:
        mine = views[i].whole(name)
        out = np.zeros((self.size, *mine.shape[1:]), np.float32)
        body, own = out[: self.count], places.own[i]
        kept = (own != ABSENT) & ~places.force
        body[kept] = mine[own[kept]]
        for k, view in enumerate(views):
            given = ~kept & (places.kind == 1) & (places.model == k)
            shared = ~kept & (places.kind == 2) & (places.own[k] != ABSENT)
            if not (given.any() or shared.any()):
                continue
            if name not in view.entries or view.entries[name].shape[1:] != mine.shape[1:]:
                raise ModelError(
                    f"rows of '{name}' are to come from '{view.ref}', which has none of that width",
                    where=self.where,
                    remedy="merge models of one width, or choose other rows for these tokens",
                )
            theirs = view.whole(name)
            body[given] = theirs[places.row[given]]
            body[shared] += theirs[places.own[k][shared]]
        shared = ~kept & (places.kind == 2)
        many = (places.own != ABSENT).sum(0)[shared]
        body[shared] /= many.reshape(-1, *(1 for _ in mine.shape[1:]))
        if self.size > self.count:
            out[self.count :] = body.mean(0, dtype=np.float64)
        return out

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save_pretrained(folder)


def _tokenizer(folder: Path, ref: str) -> Any:
    from transformers import AutoTokenizer

    from tunewright.loading.guard import check_ids
    from tunewright.loading.quiet import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:  # whatever a tokenizer's files make of its class
        first = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ModelError(
            f"its tokenizer cannot be read: {first}",
            where=ref,
            remedy="download the model again, or leave tokenizer: out",
        ) from e
    check_ids(tokenizer, folder)
    return tokenizer
