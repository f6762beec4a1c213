"""TPT: for one row alone, tune the prompt until the surest of many views agree; then forget it (Shu et al. 2022,
arXiv:2209.07511; papers: tpt).

Of a row x, N views x_0 = x, x_1 ... with logits z_n [V]; K are those of the `confident` share with least entropy:

    p = mean over n in K of softmax(z_n);   loss = H(p);   one AdamW step on what is tuned;   answer f(x);   reset

What is tuned: of texts the prompt, that is what is added to the embeddings of each row's first `prompt_tokens` tokens
(its beginning token among them; write the prompt in `data.template`, as in "Which topic? {text}"), [n, D] from zero; of
pictures, scale and shift of the norms. Each row begins anew (`reset: row`), so that the order of a stream means
nothing; with `reset: never` the prompt is kept from row to row.

Defaults: 64 views, a tenth of them, one step, AdamW at 5e-3, 4 tokens (the authors' code). Differs from the paper in:
one classifier in the place of CLIP's two towers, so that a picture has no text prompt beside it and its norms move
instead; a view of a picture is a crop that keeps its proportions, mirrored or not, without AugMix; a view of a text has
some of its tokens unread (ours). `mirror` must be off where a mirrored picture means another thing, as of digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Method, Setup, State
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.errors import MethodError
from tunewright.pieces.entropies import entropy, mean_log_probs
from tunewright.pieces.norms import norm_parameters
from tunewright.pieces.views import Changes, many

PROMPT = "prompt"


def confident(logits: Tensor, share: float) -> Tensor:
    """[K, R] places of the surest views of each row, the surest first, out of logits [N, R, V]; one at least."""
    count = max(1, int(len(logits) * share))
    return entropy(logits).argsort(dim=0, stable=True)[:count]


def agreement(logits: Tensor, chosen: Tensor) -> Tensor:
    """[R] entropy of the mean distribution over the chosen views [K, R] of logits [N, R, V]."""
    some = logits.gather(0, chosen[..., None].expand(*chosen.shape, logits.shape[-1]))
    log_p = mean_log_probs(some)
    return -(log_p.exp() * log_p).sum(-1)


def _embedding(model: Any) -> nn.Embedding:
    """The layer that reads a text's tokens. MethodError for a model that reads none."""
    try:
        found = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        found = None
    if not isinstance(found, nn.Embedding):
        raise MethodError(
            f"{type(model).__name__} reads no tokens that could be a prompt",
            where="test_time",
            remedy="write tpt: {tunes: norms}",
        )
    return found


@contextmanager
def prompted(model: nn.Module, prompt: Tensor | None) -> Iterator[None]:
    """Inside, `prompt` [n, D] is added to the embeddings of each row's first n tokens; None adds nothing."""
    if prompt is None:
        yield
        return

    def added(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        n = min(len(prompt), out.shape[1])
        return torch.cat([out[:, :n] + prompt[:n].to(out.dtype), out[:, n:]], 1)

    hook = _embedding(model).register_forward_hook(added)
    try:
        yield
    finally:
        hook.remove()


class TPT(Method):
    """Tune a prompt on the surest of many views of one row, answer it, and reset."""

    views: PositiveInt = Field(64, description="views of each row, itself among them", examples=[6])
    confident: float = Field(0.1, gt=0, le=1, description="share of the views that count: the surest", examples=[1.0])
    steps: PositiveInt = Field(1, description="steps on each row")
    learning_rate: PositiveFloat = Field(5e-3, description="of AdamW, a step")
    tunes: Literal["auto", "prompt", "norms"] = Field(
        "auto", description="what moves; auto: a text's prompt, of pictures the norms"
    )
    prompt_tokens: PositiveInt = Field(4, description="first tokens of a text that are its prompt", examples=[1])
    crop: float = Field(0.08, gt=0, le=1, description="least share of a picture that a view shows", examples=[0.9])
    mirror: bool = Field(True, description="half of the views of pictures are mirrored")
    drop: float = Field(0.1, ge=0, lt=1, description="share of a text's tokens that a view does not read")

    resets: ClassVar[Literal["never", "source", "batch", "row"]] = "row"
    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("tpt",)
    conformance: ClassVar[dict[str, object]] = {"views": 8, "confident": 0.5, "learning_rate": 0.05}

    def setup(self, run: Setup) -> State:
        state = State()
        if self.tunes == "prompt" or (self.tunes == "auto" and run.task != "image-classification"):
            width = _embedding(run.adapted.outer).weight.shape[1]
            state.prompt = nn.Parameter(torch.zeros(self.prompt_tokens, width))
        return state

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """The norms, unless a prompt is tuned, which is the state's own."""
        return [] if any(n.endswith(f".{PROMPT}") for n in candidates.owned) else norm_parameters(candidates)

    def adapt(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        weights: Moving,
        model: nn.Module,
        state: State,
        row_rng: Callable[[int], random.Random],
    ) -> Tensor:
        changes = Changes(area=(self.crop, 1.0), mirror=self.mirror, drop=self.drop)
        seen = many(batch, changes, self.views, row_rng, plain=True)
        chosen: Tensor | None = None
        with prompted(model, dict(state.named_parameters()).get(PROMPT)):
            for _ in range(self.steps):
                logits = forward(seen, grad=True).logits.unflatten(0, (self.views, -1))
                if chosen is None:
                    chosen = confident(logits, self.confident)
                weights.descend(agreement(logits, chosen).mean(), self._optimizer)
            return forward(batch).logits

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.learning_rate)
