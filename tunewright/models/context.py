"""What the rows of the present forward are: for deltas that read more than their site's input.

A delta sees its site's input and output, tokens in a row behind each other. One that reads positions (the first, the
last, the prompt's), a row's id or its task asks `present()`, and whoever runs the model says it, for as long as the
forward runs:

    with reading(of_batch(batch)):       # training and measuring: each task's `forward` does so
        model(**batch.inputs)
    with following(model, rows):         # a library's own generation: where tokens lie is read off its calls
        model.generate(...)

Outside such a block there is no present forward: `present()` refuses in words, so that no delta ever acts on the rows
of another batch. A block that is computed again in the backward pass finds the rows of its own forward
(`models/recompute.py`). Shapes: R rows, [B, L] the model's input, where packed rows are [1, T].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.arguments import reads_two_texts

Layout = tuple[Tensor | None, Tensor | None]
"""(row, place) of `Present`."""
PADDING = -1
"""The place of what is padding and no token of a row."""


@dataclass(frozen=True)
class Rows:
    """R rows: their ids, the sources that they come from, and how many of their first tokens are the prompt.

    `prompts` [R] int64; None where the task says nothing of prompts. A row that is read to be judged whole (a text to
    classify) is all prompt, a plain text has none. `ids` and `sources` may be empty: nothing is known of them.
    """

    prompts: Tensor | None = None
    ids: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def select(self, rows: Tensor) -> Rows:
        """These rows alone, in this order; repeats are allowed."""
        picked = rows.tolist()
        return Rows(
            None if self.prompts is None else self.prompts[rows.to(self.prompts.device)],
            tuple(self.ids[i] for i in picked) if self.ids else (),
            tuple(self.sources[i] for i in picked) if self.sources else (),
        )

    def to(self, device: torch.device) -> Rows:
        return replace(self, prompts=None if self.prompts is None else self.prompts.to(device))


class Present:
    """The rows of the present forward, and whose token stands at each place of its input.

    `row` [B, L]: the row; `place` [B, L]: the place in it, from 0, `PADDING` for no token. None: each row of the input
    is one, without padding, from its first token on (pictures, whose tokens nobody counts). `later` gives both where
    they are worked out only if somebody asks. `notes` are what deltas said of the forward, by name, in the order of the
    layers.
    """

    def __init__(
        self,
        rows: Rows,
        row: Tensor | None = None,
        place: Tensor | None = None,
        later: Callable[[], Layout] | None = None,
    ):
        self.rows, self.notes = rows, dict[str, list[Tensor]]()
        self._layout, self._later = (row, place), later

    def _laid_out(self) -> Layout:
        if self._later is not None:
            self._layout, self._later = self._later(), None
        return self._layout

    @property
    def row(self) -> Tensor | None:
        return self._laid_out()[0]

    @property
    def place(self) -> Tensor | None:
        return self._laid_out()[1]

    def note(self, key: str, value: Tensor) -> None:
        """Let a delta say something of this forward, layer by layer: objectives read it as `outputs.present.notes`."""
        self.notes.setdefault(key, []).append(value)

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(row, place), each [B, L], of a site's tensor x [B, L, ..].

        MethodError where x holds other tokens than the model was given: something between lengthens or picks them.
        """
        if self.row is None or self.place is None:
            shape = x.shape[:2]
            rows = torch.arange(shape[0], device=x.device)[:, None].expand(shape)
            return rows, torch.arange(shape[1], device=x.device).expand(shape)
        if x.shape[:-1] != self.row.shape:
            raise MethodError(
                f"a delta reads positions of {list(self.row.shape)} tokens, and the layer is given "
                f"{list(x.shape[:-1])}: something before it adds or leaves out tokens",
                where="target_modules",
                remedy="use it without the method that does so, or on a layer that sees every token",
            )
        return self.row.to(x.device), self.place.to(x.device)

    def asked(self, x: Tensor) -> Tensor:
        """[B, L]: for each token of x [B, L, ..] how many tokens its row's prompt has. MethodError where nobody said.

        Pictures are all prompt.
        """
        row, _ = self.at(x)
        if self.row is None:
            return torch.full_like(row, x.shape[1])
        if self.rows.prompts is None:
            raise MethodError(
                "a delta reads where prompts end, and this task does not say",
                remedy="use it on a task whose `collate` gives `fields['prompt_lengths']`",
            )
        return self.rows.prompts.to(x.device)[row]

    def sources(self) -> tuple[str, ...]:
        """The source (task) of each row. MethodError where it is not known, as of a message typed in a chat."""
        if not self.rows.sources:
            raise MethodError(
                "a delta reads which source a row comes from, and nothing is known of these rows",
                remedy="run it on rows of a data set; `Rows(sources=...)` says it for others",
            )
        return self.rows.sources

    def ids(self) -> tuple[str, ...]:
        """The id of each row. MethodError where it is not known."""
        if not self.rows.ids:
            raise MethodError(
                "a delta reads the rows' ids, and nothing is known of these rows",
                remedy="run it on rows of a data set; `Rows(ids=...)` says it for others",
            )
        return self.rows.ids

    def cut(self, rows: int, tokens: int) -> Present:
        """The same of the first tokens of the input's first rows."""
        if self.row is None or self.place is None:
            return self
        return Present(self.rows, self.row[:rows, :tokens], self.place[:rows, :tokens])


_present: ContextVar[Present | None] = ContextVar("tunewright_present_rows", default=None)


def present() -> Present:
    """What the rows of the present forward are. MethodError outside of one: see the module's text."""
    now = _present.get()
    if now is None:
        raise MethodError(
            "a delta reads what its rows are, and whoever runs the model has not said",
            remedy="run the model through its task (`task.forward(model, batch)`), or in "
            "`with tunewright.models.context.reading(...)`",
        )
    return now


def told() -> Present | None:
    """What is said of the present forward, None outside of one: to say it again elsewhere."""
    return _present.get()


@contextmanager
def reading(now: Present | None) -> Iterator[None]:
    """Inside, the forward's rows are these. None: nothing is known."""
    token = _present.set(now)
    try:
        yield
    finally:
        _present.reset(token)


def of_batch(batch: Any) -> Present:
    """What a batch says of its rows: `row_ids`, `sources`, `fields["prompt_lengths"]` [sequences] and where tokens lie.

    Rows that are pairs lie as two sequences each, which share id and source; where only some are, `fields["sequences"]`
    says whose each sequence is.
    """
    ids, sources, inputs = tuple(batch.row_ids), tuple(batch.sources), batch.inputs.get("input_ids")
    count = len(ids) if inputs is None else len(inputs) if batch.cu_seqlens is None else len(batch.cu_seqlens) - 1
    if ids and "sequences" in batch.fields:
        owners = batch.fields["sequences"].tolist()
        ids, sources = (tuple(values[i] for i in owners) for values in (ids, sources))
    elif ids and count == 2 * len(ids):
        ids, sources = (tuple(x for x in values for _ in range(2)) for values in (ids, sources))
    return Present(Rows(batch.fields.get("prompt_lengths"), ids, sources), later=lambda: _laid_out(batch))


def _laid_out(batch: Any) -> Layout:
    ids, mask = batch.inputs.get("input_ids"), batch.inputs.get("attention_mask")
    if ids is None:
        return None, None
    if batch.cu_seqlens is not None:
        lengths = batch.cu_seqlens.diff().long()
        row = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths)[None]
        starts = batch.cu_seqlens[:-1].long()
        return row, torch.arange(row.shape[1], device=ids.device)[None] - starts[row]
    row = torch.arange(len(ids), device=ids.device)[:, None].expand(ids.shape)
    if mask is None:
        return row, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return row, (mask.cumsum(1) - 1).masked_fill(mask == 0, PADDING)


def whole(ids: Tensor, rows: Rows) -> Present:
    """Rows of equal length without padding, each read from its first token on: ids [R, L]."""
    row = torch.arange(len(ids), device=ids.device)[:, None].expand(ids.shape)
    return Present(rows.to(ids.device), row, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape))


@contextmanager
def following(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Inside, every call of `model` goes on with these rows, of equal length and without padding, from its cache on.

    For generation that the library itself steers: how many tokens are behind a call is what its mask or its cache says.
    """

    def before(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        ids = given.get("input_ids", args[0] if args else None)
        ids = given["inputs_embeds"][..., 0] if ids is None else ids
        mask, cache = given.get("attention_mask"), given.get("cache", given.get("past_key_values"))
        behind = 0
        if isinstance(mask, Tensor) and mask.dim() == 2:
            behind = mask.shape[1] - ids.shape[1]
        elif cache is not None:
            behind = int(cache.get_seq_length())
        now = whole(ids, rows)
        assert now.place is not None
        _present.set(Present(now.rows, now.row, now.place + behind))

    token = _present.set(None)
    hook = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        _present.reset(token)


def reads_rows(model: nn.Module) -> bool:
    """Whether some delta on the model reads what its rows are, so that a token's state depends on more than the tokens
    before it.
    """
    return any(getattr(m, "reads_rows", False) is True for m in model.modules())


def check_one_text(model: nn.Module, name: str) -> None:
    """MethodError where the model reads two texts a row, for a method whose deltas read which token they are given."""
    if reads_two_texts(model):
        raise MethodError(
            f"'{name}' reads which token of a row it is given, and an encoder-decoder reads two texts a row",
            where=f"'{name}'",
            remedy="use it on a causal model or an encoder, or take lora here",
        )


def ids_and_sources(rows: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the rows of a data set (`contract.batch.Row`) are called, and the sources that they come from."""
    return tuple(r.id for r in rows), tuple(r.source for r in rows)


def rows_of_prompts(lengths: Sequence[int], ids: Sequence[str] = (), sources: Sequence[str] = ()) -> Rows:
    """Rows that are prompts to be answered: `lengths` in tokens, with ids and sources where they are known."""
    return Rows(torch.tensor(list(lengths), dtype=torch.long), tuple(ids), tuple(sources))
