"""Models that give a distribution at each place of a recording and none at each letter of its text (wav2vec 2.0,
HuBERT): connectionist temporal classification (Graves et al. 2006).

A text's likelihood is the sum over all ways to lay it over the places, blanks between; it is the row's, and is shared
alike by the row's tokens, so that the loss is in nats per token as elsewhere. What a model says is its likeliest token
at each place, repeats taken together and blanks out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Outputs, Row
from tunewright.contract.records import RowProblem
from tunewright.contract.task import Task
from tunewright.errors import MethodError
from tunewright.tasks._features import apart, features, together
from tunewright.tasks.base import epochs_of, in_type

KIND = "ctc"


def text_ids(text: str, tokenizer: Any) -> list[int]:
    """A text in the model's alphabet. RowProblem for characters that it does not have."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    if tokenizer.unk_token_id in ids:
        lacks = sorted({c for c in text if tokenizer.unk_token_id in tokenizer(c, verbose=False)["input_ids"]})
        what = f"the model's alphabet lacks {' '.join(lacks) or 'a part of it'}"
        remedy = "write the text as the model does: in capitals, say, and without punctuation"
        raise RowProblem("text", what, remedy)
    return ids


def check_places(ids: Sequence[int], samples: int, convolutions: Sequence[Sequence[int]]) -> None:
    """RowProblem where a text has more tokens than its recording has places, and a blank between equal ones."""
    count = int(places(torch.tensor([samples]), convolutions)[0])
    needed = len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))
    if count < needed:
        what = f"it is too short for its text: {count} places for {needed} tokens and blanks"
        raise RowProblem("audio", what, "check that recording and text belong together, or take the row out")


def places(samples: Tensor, convolutions: Sequence[Sequence[int]]) -> Tensor:
    """Places [R] that convolutions, (kernel, stride) each, make of samples [R]."""
    for kernel, stride in convolutions:
        samples = (samples - kernel).div(stride, rounding_mode="floor") + 1
    return samples


def collate(rows: Sequence[Row], epochs: Sequence[int] | None) -> Batch:
    """A target for each token of a text; `fields["samples"]` and `fields["places"]` [R] are lengths of recordings."""
    owner = [k for k, row in enumerate(rows) for w in row.weights if w > 0]
    kept = [(i, w) for row in rows for i, w in zip(row.input_ids, row.weights, strict=True) if w > 0]
    recordings = [r.fields["audio"] for r in rows]
    samples = torch.tensor([len(r) for r in recordings])
    return Batch(
        inputs=features(recordings, rows[0].fields["extractor"]),
        labels=torch.tensor([i for i, _ in kept], dtype=torch.long),
        weights=torch.tensor([w for _, w in kept], dtype=torch.float32),
        rows=torch.tensor(owner, dtype=torch.long),
        row_ids=[r.id for r in rows],
        sources=[r.source for r in rows],
        tokens=sum(r.size for r in rows),
        epochs=epochs_of(rows, epochs),
        fields={"samples": samples, "places": places(samples, rows[0].fields["convolutions"])},
    )


def frames(model: nn.Module, batch: Batch, hidden: bool = False) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Logits [R, T, V], and hidden states [R, T, D] when asked; behind a recording's own places they mean nothing."""
    how = {"output_hidden_states": True} if hidden else {}
    parts = apart(batch)
    outs = [model(**in_type(model, part.inputs), **how) for _, part in parts]
    order = torch.cat([at for at, _ in parts]).argsort()
    states = None
    if hidden:
        states = tuple(together(layer)[order] for layer in zip(*(o.hidden_states for o in outs), strict=True))
    return together([o.logits for o in outs])[order], states


def forward(model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
    """`log_probs` [S]: each token's share of its text's log-likelihood. There are no logits a target."""
    logits, states = frames(model, batch, hidden)
    config: Any = model.config

    def none() -> Tensor:
        raise MethodError(
            "a CTC model gives a distribution at each place of a recording, and none at each token of its text",
            where=type(model).__name__,
            remedy="use a method without an objective of likelihoods (lora, full, penalties), or a Whisper model",
        )

    def shares() -> Tensor:
        tokens = torch.bincount(batch.rows, minlength=len(batch.row_ids))
        said = torch.log_softmax(logits.float(), -1).transpose(0, 1)
        lengths = batch.fields["places"], tokens
        loss = F.ctc_loss(said, batch.labels, *lengths, blank=config.pad_token_id, reduction="none")
        return -(loss / tokens)[batch.rows]

    return Outputs(none, batch.labels, log_probs=shares, hidden=states, raw=logits)


class Places(Task):
    """Speech recognition with a target at each place of a recording, where predictions of CTC models are compared."""

    name: ClassVar[str] = "automatic-speech-recognition"
    auto_class: ClassVar[str] = "AutoModelForCTC"
    reads_audio: ClassVar[bool] = True

    def collate(
        self, rows: Sequence[Row], packed: bool = False, *, epochs: Sequence[int] | None = None, seed: int = 0
    ) -> Batch:
        """`positions` [S] count in [R * T]; targets are none, and stand as zeros."""
        batch = collate(rows, epochs)
        count = batch.fields["places"]
        longest = int(count.max())
        owner, place = (torch.arange(longest)[None] < count[:, None]).nonzero(as_tuple=True)
        return batch.replace(
            labels=torch.zeros_like(owner),
            weights=torch.ones(len(owner)),
            rows=owner,
            positions=owner * longest + place,
        )

    def forward(self, model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
        """`logits` [S, V] at each place of each recording."""
        logits, states = frames(model, batch, hidden)
        assert batch.positions is not None
        logits = logits[:, : int(batch.fields["places"].max())]
        return Outputs(logits.flatten(0, 1)[batch.positions], batch.labels, hidden=states)


def said(model: nn.Module, recordings: Sequence[Any], batch: int) -> list[list[int]]:
    """The likeliest token of each place, repeats taken together and blanks out, of what `asked` gives of rows."""
    out: list[list[int]] = []
    config: Any = model.config
    first = next(model.parameters())
    for start in range(0, len(recordings), batch):
        some = recordings[start : start + batch]
        rows = [Row("", "", [0], [1.0], fields=asked) for asked in some]
        laid = collate(rows, None).to(first.device)
        logits, _ = frames(model, laid)
        for ids, count in zip(logits.argmax(-1), laid.fields["places"].tolist(), strict=True):
            once = torch.unique_consecutive(ids[:count]).tolist()
            out.append([i for i in once if i != config.pad_token_id])
    return out
