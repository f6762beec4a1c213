"""What two models say to the same tokens: the check that stands behind every format that is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.files.hashing import weight_files
from tunewright.loading.quiet import quiet
from tunewright.loading.save import inputs_of
from tunewright.machine import host
from tunewright.models.aligned import align
from tunewright.models.arguments import said_in
from tunewright.tasks._sampled import inputs_at_random
from tunewright.weights.naming import in_memory
from tunewright.weights.source import Source, Tuned

ROWS, LENGTH = 4, 32
NEW_TOKENS = 16
_PICTURES = ("image_token_id", "image_token_index", "video_token_id")
"""Keys of the tokens in whose places pictures are read, of models that see: there are none in these texts."""


@dataclass
class Compared:
    """Logits of one model against another's, over `tokens` places: the largest and the root mean square difference,
    both over the reference's standard deviation; the mean divergence KL(reference | other) in nats a place; the share
    of places whose likeliest output is the same. `place`: "token", or "row" of a model that says one thing a row;
    `numbers`: what it says has no likelihoods that are compared here (a number a row; forecasts, actions, boxes).
    """

    tokens: int
    largest: float
    rms: float
    kl: float
    same_top: float
    place: str = "token"
    numbers: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.numbers:
            return (
                f"what they say differs by {self.rms:.2g} (largest {self.largest:.2g}) of its standard deviation, at "
                f"{self.tokens} places"
            )
        what = "token" if self.place == "token" else "class"
        return (
            f"logits differ by {self.rms:.2g} (largest {self.largest:.2g}) of their standard deviation, "
            f"KL {self.kl:.2g} nats/{self.place}, the same likeliest {what} at {100 * self.same_top:.3g} % of "
            f"{self.tokens}"
        )


def compare(reference: Tensor, other: Tensor, *, numbers: bool = False) -> Compared:
    """Two logits of one shape [R, T, V] (or [R, V]), in fp32. `numbers`: they are none, but values. ModelError where
    their shapes differ.
    """
    if reference.shape != other.shape:
        raise ModelError(
            f"logits of {tuple(reference.shape)} cannot be compared with those of {tuple(other.shape)}",
            remedy="compare models of one vocabulary",
        )
    spread = float(reference.std()) or 1.0  # of what says the same everywhere, a gap is its own measure
    gap = reference - other
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    same = (reference.argmax(-1) == other.argmax(-1)).float().mean()
    return Compared(
        tokens=reference[..., 0].numel(),
        largest=float(gap.abs().max()) / spread,
        rms=float(gap.square().mean().sqrt()) / spread,
        kl=max(0.0, float((p.exp() * (p - q)).sum(-1).mean())),
        same_top=float(same),
        place="token" if reference.ndim > 2 else "row",
        numbers=numbers or reference.shape[-1] == 1,
    )


def model_of(source: Source) -> Any:
    """A source as transformers' model in float32, in evaluation mode. ModelError for a class that it does not have."""
    base = source.base if isinstance(source, Tuned) else source
    kinds = source.config.get("architectures") or []
    kind = getattr(transformers, str(kinds[0]), None) if kinds else None
    if kind is None:
        raise ModelError(
            f"transformers has no class {kinds[:1]} to compute its logits by",
            where=source.ref,
            remedy="check config.json",
        )
    with quiet():
        model = kind.from_pretrained(base.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    if isinstance(source, Tuned):
        changed = in_memory(source)
        state = model.state_dict()
        with torch.no_grad():
            for name in changed.entries:
                if name in state and changed.touches(name):
                    state[name].copy_(torch.from_numpy(changed.whole(name)))
    align(model)
    return model.eval()


def reads_tokens(model: Any) -> bool:
    """Whether token ids are what a model reads first; others are compared on inputs that their configs describe."""
    return getattr(model, "main_input_name", "input_ids") == "input_ids" and inputs_at_random(model) is None


def tokens_for(model: Any) -> Tensor:
    """Token ids [4, 32], spread over the vocabulary, the same each time. ModelError for a model that reads none."""
    embeddings = model.get_input_embeddings() if reads_tokens(model) else None
    if embeddings is None:
        raise ModelError(
            f"a {type(model).__name__} reads no tokens, by which models are compared here",
            remedy="write the run as a plain folder, which is checked on inputs of its own: tunewright export RUN",
        )
    draw = torch.Generator().manual_seed(0)
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    count = int(embeddings.weight.shape[0])
    ids = torch.randint(0, count, (ROWS, LENGTH), generator=draw)
    for held in (pad, *(getattr(model.config, name, None) for name in _PICTURES)):
        ids = torch.where(ids == held, (ids + 1) % count, ids) if isinstance(held, int) else ids
    return ids


@torch.no_grad()
def logits_of(model: Any, ids: Tensor | None = None) -> Tensor:
    """A model's logits in fp32, on `tokens_for` it; what one says that reads no tokens, on inputs at random."""
    given = inputs_at_random(model) if ids is None else None
    return said_in(model(**inputs_of(model, given or (tokens_for(model) if ids is None else ids)))).float()


@torch.no_grad()
def continued(model: Any, ids: Tensor) -> Tensor:
    """Greedy continuations [R, 16] of the first half of some rows, whatever would end them."""
    prompts = ids[:, : ids.shape[1] // 2]
    for _ in range(NEW_TOKENS):
        # a plain forward each time: the rows are short, and no setting of a model's own generation can interfere
        following = said_in(model(input_ids=prompts))[:, -1].argmax(-1, keepdim=True)
        prompts = torch.cat([prompts, following], 1)
    return prompts[:, -NEW_TOKENS:]


def fits_in_memory(folder: Path, models: int = 1) -> str | None:
    """Why a folder's model is not loaded in float32 to compare its logits; None where memory is free for it."""
    free = host.available_memory()
    needed = models * sum(2 * f.stat().st_size for f in weight_files(folder))
    if free is None or needed < 0.8 * free:
        return None
    return (
        f"logits were not compared: the model takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
    )
