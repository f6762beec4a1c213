"""Choosing by likelihood: which of some labels does a model find likeliest after a prompt?

Beside a generated metric it tells knowledge from format. A label's score is the sum of the log-probabilities of its
tokens **and of the token that ends it**: the probability that the model gives to answering exactly that. `mean=True`
divides by the number of tokens instead (longer labels are then not held back). Nothing is scored twice: prompts are
read once, and a label is left at the token from which it is less likely than a whole other label, which cannot
change the choice since log-probabilities only add up downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunewright.contract.batch import Row
from tunewright.errors import DataError
from tunewright.measure import _kv
from tunewright.measure._mode import measuring
from tunewright.measure.rows import RowResult
from tunewright.measure.text import prompt_ids, prompt_text, reference, same_text
from tunewright.tasks import get_task

_PAIRS = 64  # (prompt, label) pairs read at once: bounds the copies of keys and values


def answer_tokens(row: Row) -> tuple[int, ...]:
    """The trained tokens after a row's prompt: its answer with what ends it."""
    start = len(row.fields["prompt_ids"])
    return tuple(t for t, w in zip(row.input_ids[start:], row.weights[start:], strict=True) if w > 0)


def label_tokens(tokenizer: Any, rows: Sequence[Row], labels: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens of each label with its end: as the rows that have it as answer were encoded, else encoded afresh plus EOS.

    Raises DataError when two labels have the same tokens, since no model can choose between them.
    """
    seen = {same_text(reference(row)): answer_tokens(row) for row in reversed(rows)}
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    encodings = [
        seen.get(same_text(label)) or (*tokenizer(label, add_special_tokens=False)["input_ids"], *end)
        for label in labels
    ]
    for i, tokens in enumerate(encodings):
        if tokens in encodings[:i]:
            raise DataError(
                f"labels '{labels[encodings.index(tokens)]}' and '{labels[i]}' have the same tokens",
                where="labels",
                remedy="give each label once",
            )
    return encodings


def distinct_labels(rows: Sequence[Row], most: int = 100) -> list[str] | None:
    """The rows' answers, sorted, when they are few enough to be classes: at most `most`, each two rows on average."""
    labels = sorted({reference(row) for row in rows})
    return labels if 2 <= len(labels) <= min(most, len(rows) // 2) else None


def choose_after(
    model: PreTrainedModel, part: _kv.Read, labels: Sequence[Sequence[int]], *, mean: bool = False, full: bool = False
) -> Tensor:
    """Scores [B, N] of N labels after each read prompt; -inf for labels that cannot win (none with `full`).

    The read may be gone on with afterwards. Needs room for the longest label less one.
    """
    tokens = [list(x) for x in labels]
    size = torch.tensor([len(x) if mean else 1 for x in tokens], device=part.logits.device)
    first = torch.log_softmax(part.logits, -1)
    bound = first[:, [x[0] for x in tokens]] / size
    whole = torch.tensor([len(x) == 1 for x in tokens], device=bound.device).expand_as(bound).clone()
    leaders = torch.zeros_like(whole).scatter(1, bound.argmax(-1, keepdim=True), True)
    rows, names = (~whole if full else ~whole & leaders).nonzero(as_tuple=True)
    order = sorted(range(len(rows)), key=lambda i: len(tokens[int(names[i])]))
    for k in range(0, len(order), _PAIRS):
        pick = torch.tensor(order[k : k + _PAIRS], device=rows.device)
        r, c = rows[pick], names[pick]
        bound[r, c] += _rest(model, part, r, [tokens[i] for i in c.tolist()]) / size[c]
    whole[rows, names] = True
    best = bound.masked_fill(~whole, -torch.inf).amax(-1)
    rows, names = (~whole & (bound > best[:, None])).nonzero(as_tuple=True)  # what may still beat the likeliest start
    for k in range(0, len(rows), _PAIRS):
        r, c = rows[k : k + _PAIRS], names[k : k + _PAIRS]
        sums, ended = _race(model, part, r, [tokens[i] for i in c.tolist()], bound[r, c], size[c], best)
        bound[r, c], whole[r, c] = sums, ended
    return bound.masked_fill(~whole, -torch.inf)


def _race(
    model: PreTrainedModel,
    part: _kv.Read,
    rows: Tensor,
    labels: list[list[int]],
    sums: Tensor,
    size: Tensor,
    best: Tensor,
) -> tuple[Tensor, Tensor]:
    """Read labels after the prompts of their rows token by token, and leave each once it is behind the `best` [B] of
    its row, which rises. Gives the scores [P] so far, begun with `sums` of the first tokens, and which are whole [P].
    """
    device, whole = rows.device, torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    at = torch.arange(len(rows), device=device)
    cache, mask = _kv.select(part.cache, rows, max(map(len, labels)) - 1), part.mask
    mask = None if mask is None else mask[rows]
    for step in range(max(map(len, labels)) - 1):
        here = [labels[i] for i in at.tolist()]
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(at), 1)], 1)
        said, wanted = (torch.tensor([[x[k]] for x in here], device=device) for k in (step, step + 1))
        places = part.lengths[rows[at], None] + step
        sums[at] += _kv.log_probs_at(model, said, places, cache, mask, wanted, part.rows.select(rows[at])) / size[at]
        ended = torch.tensor([len(x) == step + 2 for x in here], device=device)
        whole[at] = ended
        best.scatter_reduce_(0, rows[at[ended]], sums[at[ended]], "amax")
        going = (~ended & (sums[at] > best[rows[at]])).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(at):
            cache.batch_select_indices(going)
            at, mask = at[going], None if mask is None else mask[going]
    return sums, whole


def _rest(model: PreTrainedModel, part: _kv.Read, rows: Tensor, labels: list[list[int]]) -> Tensor:
    """Sum of log-probabilities [P] of all but the first token of each label, after the read prompt of its row."""
    device, width = rows.device, max(map(len, labels)) - 1
    inputs = torch.tensor([x[:-1] + [0] * (width - len(x) + 1) for x in labels], device=device)
    shifted = torch.tensor([x[1:] + [-1] * (width - len(x) + 1) for x in labels], device=device)
    cache = _kv.select(part.cache, rows, width)
    mask = None if part.mask is None else torch.cat([part.mask[rows], part.mask.new_ones(len(rows), width)], 1)
    places = part.lengths[rows, None] + torch.arange(width, device=device)
    picked = _kv.log_probs_at(model, inputs, places, cache, mask, shifted, part.rows.select(rows))
    return torch.zeros(shifted.shape, device=device).masked_scatter(shifted >= 0, picked).sum(-1)


def _scores_whole(model: PreTrainedModel, rows: Sequence[Row], labels: Sequence[Sequence[int]], mean: bool) -> Tensor:
    """Scores [R, N] by whole forwards of prompt and label, for models whose cache is of another kind."""
    task = get_task("text-generation")
    out = torch.empty(len(rows), len(labels))
    for i, row in enumerate(rows):
        prompt = prompt_ids(row)
        sides = [Row(row.id, row.source, [*prompt, *x], [0.0] * len(prompt) + [1.0] * len(x)) for x in labels]
        batch = task.collate(sides)
        log_probs = task.forward(model, batch.to(next(model.parameters()).device)).log_probs().cpu()
        out[i] = torch.zeros(len(labels)).index_add(0, batch.rows, log_probs)
    return out / torch.tensor([len(x) for x in labels]) if mean else out


def likelihood_choice(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: Sequence[Row],
    labels: Sequence[str],
    *,
    mean: bool = False,
    full: bool = False,
    batch_tokens: int = 2048,
) -> list[RowResult]:
    """For each row the label that the model finds likeliest after its prompt; score 1 where it is the reference.

    `full` scores every label to its end (several times slower) and fills `confidence`: the chosen label's share of the
    labels' total probability.
    """
    tokens = label_tokens(tokenizer, rows, labels)
    scores = torch.full((len(rows), len(labels)), -torch.inf)
    with measuring(model):
        if _kv.caches_plainly(model):
            room = max(map(len, tokens))
            asked = [prompt_ids(row) for row in rows]
            for part in _kv.read(model, asked, room=room, batch_tokens=batch_tokens, asked=rows):
                scores[part.indices] = choose_after(model, part, tokens, mean=mean, full=full).cpu()
        else:
            scores = _scores_whole(model, rows, tokens, mean)
    return choice_results(tokenizer, rows, labels, scores, full=full)


def choice_results(
    tokenizer: Any, rows: Sequence[Row], labels: Sequence[str], scores: Tensor, *, full: bool
) -> list[RowResult]:
    """Rows' results from scores [R, N]."""
    chosen, shares = scores.argmax(-1).tolist(), torch.softmax(scores.double(), -1).amax(-1).tolist()
    return [
        RowResult(
            id=row.id,
            source=row.source,
            prompt=prompt_text(tokenizer, row),
            answer=labels[i],
            reference=reference(row),
            score=float(same_text(labels[i]) == same_text(reference(row))),
            confidence=share if full else None,
        )
        for row, i, share in zip(rows, chosen, shares, strict=True)
    ]
