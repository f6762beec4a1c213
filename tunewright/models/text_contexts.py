"""Virtual words in the text tower of a model of two towers (CLIP and its kin), and one space for several of them.

A context [n, W] is read as n words of a text, behind its beginning token where there is one; texts that leave it no
place are cut, their ends kept. The tower is not touched: its embeddings' output is exchanged at n places while it
reads. P contexts, R rows, N texts, L tokens, W width of the embeddings, D size of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from transformers.utils import ModelOutput

Table = tuple[Tensor, Tensor | None]
"""Ids and mask [N, L] of texts as a model reads them; no mask where it reads padding too."""


def as_read(config: Any, ids: Tensor, mask: Tensor) -> Table:
    """Padded texts as the model knows them: padding by its own id; SigLIP's at their whole length, unmasked, since it
    reads a text from its last place, padding or not.
    """
    text = getattr(config, "text_config", None)
    own = getattr(text, "pad_token_id", None)
    ids = ids.masked_fill(mask == 0, own if own is not None else 0)
    if str(getattr(config, "model_type", "")).startswith("siglip"):
        longest = int(text.max_position_embeddings)  # type: ignore[union-attr]
        return pad(ids, (0, longest - ids.shape[1]), value=own), None
    return ids, mask


def padded(config: Any, texts: Sequence[Sequence[int]], device: torch.device) -> Table:
    """Texts as ids, side by side."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in texts], device=device)
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts], device=device)
    return as_read(config, ids, mask)


def stacked(first: Table, second: Table) -> Table:
    """The texts of both, one after the other."""
    width = max(first[0].shape[1], second[0].shape[1])
    ids, mask = (
        None if a is None or b is None else torch.cat([pad(t, (0, width - t.shape[1])) for t in (a, b)])
        for a, b in zip(first, second, strict=True)
    )
    assert ids is not None
    return ids, mask


def text_features(model: Any, texts: Table, context: Tensor | None = None, after: int = 0) -> Tensor:
    """[N, D] of texts, of the length that the model gives them; `context` [n, W] is read behind `after` tokens."""
    ids, mask = texts
    if context is None:
        return _read(model, ids, mask)
    n, text = len(context), model.config.get_text_config()
    ids, mask = _cut(ids, mask, int(text.max_position_embeddings) - n)
    other = int(text.eos_token_id == 0)  # any token but the one that a text is read from
    ids = torch.cat([ids[:, :after], ids.new_full((len(ids), n), other), ids[:, after:]], 1)
    if mask is not None:
        mask = torch.cat([mask.new_ones(len(mask), n), mask], 1)

    def put(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        words = context.to(out.dtype).expand(len(out), -1, -1)
        return torch.cat([out[:, :after], words, out[:, after + n :]], 1)

    hook = token_embedding(model).register_forward_hook(put)
    try:
        return _read(model, ids, mask)
    finally:
        hook.remove()


def token_embedding(model: Any) -> nn.Module:
    """The layer that reads tokens of texts."""
    found: nn.Module = model.text_model.get_input_embeddings()
    return found


def side_by_side(features: Tensor) -> Tensor:
    """[N, P D] of length 1 from [P, N, D]: products of such vectors are the mean over p of the cosines."""
    return normalize(features.float(), dim=-1).transpose(0, 1).flatten(1) / len(features) ** 0.5


class InContexts(nn.Module):
    """A model of two towers that reads each text in P contexts and says the mean of their cosines.

    `contexts()` gives [P, n, W]; `classes()`, while it trains, ids of texts whose features [P, C, D], as long as the
    tower gives them, are `class_features` of the output.
    """

    def __init__(
        self,
        model: nn.Module,
        contexts: Callable[[], Tensor],
        classes: Callable[[], Sequence[Sequence[int]]],
        after: int,
    ):
        super().__init__()
        self.model: Any = model
        self.config = self.model.config
        self._held = (contexts, classes, after)

    @property
    def logit_scale(self) -> Tensor:
        """Of the model."""
        found: Tensor = self.model.logit_scale
        return found

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any
    ) -> ModelOutput:
        given, classes, after = self._held
        contexts, texts = given(), (input_ids, attention_mask)
        asked = classes() if self.training else ()
        if asked:
            texts = stacked(padded(self.config, asked, input_ids.device), texts)
        pictures = self.model.get_image_features(pixel_values=pixel_values, **more)
        once, where = _once(texts)
        features = torch.stack([text_features(self.model, once, c, after) for c in contexts])[:, where]
        seen = pictures.pooler_output[None].expand(len(contexts), -1, -1)
        return ModelOutput(
            image_embeds=side_by_side(seen),
            text_embeds=side_by_side(features[:, len(asked) :]),
            vision_model_output=pictures,
            class_features=features[:, : len(asked)],
        )


def _once(texts: Table) -> tuple[Table, Tensor]:
    """Each text once, and where each of the given ones is among them."""
    ids, mask = texts
    both = ids if mask is None else torch.cat([ids, mask.to(ids.dtype)], 1)
    found, where = both.unique(dim=0, return_inverse=True)
    width = ids.shape[1]
    return (found[:, :width], None if mask is None else found[:, width:]), where


def _read(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    given = {} if mask is None else {"attention_mask": mask}
    found: Tensor = model.get_text_features(input_ids=ids, **given).pooler_output
    return found


def _cut(ids: Tensor, mask: Tensor | None, room: int) -> Table:
    """Texts of at most `room` tokens; of longer ones the last token is kept."""
    if ids.shape[1] <= room:
        return ids, mask
    ends = ids.new_full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1)
    last = ids.gather(1, ends[:, None] - 1)[:, 0]
    short = ids[:, :room].clone()
    short[:, -1] = torch.where(ends > room, last, short[:, -1])
    return short, None if mask is None else mask[:, :room]
