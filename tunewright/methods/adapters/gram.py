"""GRAM: where a prompt starts, and how far each of its numbers steps, learnt on pictures with captions so that what is
learnt on some helps on others (Li et al. 2023; papers: gram).

A model of two towers (CLIP and its kin) stays as it is; n vectors P [n, W] are read before each text. L(P) of some rows
is the cross-entropy of each picture among their texts. A stage with `meta: true` needs no labels: its texts are put
into heaps by what the text tower makes of them, and each step cuts its rows into two parts of different heaps:

    P'     = P - inner_rate G * dL_first(P)/dP          G [n, W], `inner_steps` times
    step   down dL_second(P')/d(P, G)                    through the inner step, gradients of gradients in it

What it leaves starts a later stage, in which P alone trains on few rows with classes, and each change that the
optimizer proposes is multiplied by G:

    - {name: meta, methods: [{gram: {meta: true}}], data: {train: captions.jsonl}}
    - {name: few, start: base, methods: [gram]}

Under SGD that is a step along the regulated gradient; Adam would take a constant factor of a gradient away again. In a
stage without an earlier one P starts at `words` and G at 1, which is CoOp. Rows of any texts are answered behind P.

Start: P at the embeddings of `words`, G at 1. Defaults are ours: heaps 10, one inner step of 0.01, and the rate of
2e-3 of prompts here. The change does not fold.
Raises MethodError for words that are no token or leave texts no place, texts that begin with them already, fewer than
two texts, and in a stage with `meta` fewer than two heaps.
Reconstructed from the abstract; no code of the authors was found. The paper says that the function is light and that
tasks are made of unlabelled pairs: G, the heaps of texts, the cut and the numbers are ours.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, normalize

from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.method import Choice, Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.row_texts import RowTexts, Text
from tunewright.models.adapted import Adapted
from tunewright.models.modes import evaluating
from tunewright.models.text_contexts import InContexts, padded, side_by_side, text_features
from tunewright.pieces.class_texts import check_several, check_words, own_text, text_vectors, words_at
from tunewright.pieces.mixtures import clusters
from tunewright.training.inner import Inner

NAME = "gram"


def cut(heaps: Sequence[int], texts: Sequence[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """Places of a step's rows in two parts of different heaps, as even as that allows; each has two texts or more.

    `heaps` and `texts` say whose each row is. ([], []) where no cut leaves both parts two texts.
    """
    order = sorted(set(heaps))
    rng.shuffle(order)
    ways = []
    for k in range(1, len(order)):
        first = [i for i, h in enumerate(heaps) if h in order[:k]]
        second = [i for i, h in enumerate(heaps) if h not in order[:k]]
        if all(len({texts[i] for i in part}) > 1 for part in (first, second)):
            ways.append((abs(len(first) - len(second)), k, first, second))
    return min(ways)[2:] if ways else ([], [])


class GRAM(Method):
    """A prompt of CLIP whose start and step sizes were learnt over tasks that were made of captions."""

    words: str = Field(
        "a photo of a", description="words that the prompt stands for and starts at, a vector a token", examples=["red"]
    )
    meta: bool = Field(False, description="learn the start and G from pictures with captions, for later stages")
    heaps: PositiveInt = Field(10, description="heaps that the texts are put into, where `meta`", examples=[3])
    inner_rate: PositiveFloat = Field(0.01, description="rate of an inner step, where `meta`", examples=[1.0])
    inner_steps: PositiveInt = Field(1, description="inner steps on the first part, where `meta`", examples=[2])

    category: ClassVar[str] = "prompt"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 2e-3}
    tasks: ClassVar[tuple[str, ...] | None] = ("zero-shot-image-classification",)
    leaves: ClassVar[tuple[str, ...]] = ("start", "gain")
    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = (NAME,)

    def needs(self) -> tuple[Need, ...]:
        return (RowTexts(),)

    def setup(self, run: Setup) -> State:
        start, after = words_at(self.words, run.adapted, f"{NAME}.words")
        left = run.earlier.latest(NAME)
        if left is not None and not self.meta:
            start = left.values["start"].clone().to(start.device)
        gain = torch.ones_like(start) if left is None or self.meta else left.values["gain"].clone()
        state = State(after=after, classes=[], keys=[], heaps={}, seed=run.rng.getrandbits(32))
        state.register_parameter("prompt", nn.Parameter(start.clone()))
        if self.meta:
            state.register_parameter("gain", nn.Parameter(gain))
        else:
            state.set_buffer("gain", gain)
        state.set_buffer("start", start)
        return state

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        return InContexts(
            model, lambda: state.get_parameter("prompt")[None], lambda: state.data["classes"], state.data["after"]
        )

    def choose(self) -> Choice:
        return Choice()

    def begin_task(self, adapted: Adapted, needs: Needs, state: State) -> None:
        texts: list[Text] = needs.row_texts
        check_several(texts)
        check_words([t.words for t in texts], self.words)
        if not self.meta:
            state.data |= {"classes": [list(t.ids) for t in texts], "keys": [t.key for t in texts]}
            return
        own = clusters(
            text_vectors([t.ids for t in texts], adapted), self.heaps, random.Random(f"{state.data['seed']}")
        )
        if len(own.unique()) < 2:
            raise MethodError(
                "all texts are one heap, of which no two parts can be made",
                where=f"{NAME}.heaps",
                remedy="write 2 or more, and give captions of different things",
            )
        state.data["heaps"] = {str(t.key): int(h) for t, h in zip(texts, own, strict=True)}

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        assert outputs.features is not None
        texts = side_by_side(outputs.raw.class_features.float())
        return Loss(cross_entropy(outputs.features @ texts.T, own_text(batch, state.data["keys"]), reduction="none"))

    def step(self, inner: Inner, adapted: Adapted, step: int, state: State) -> None:
        if not self.meta:
            inner.gradients()
            return
        keys = [int(r.fields["keys"][1]) for r in inner.rows]
        heaps = [state.data["heaps"][str(k)] for k in keys]
        first, second = cut(heaps, keys, random.Random(f"{state.data['seed']}/{step}"))
        prompt, gain = (state.get_parameter(n) for n in ("prompt", "gain"))
        if not first:
            inner.tell(0.0, 0, skipped=1.0)
            inner.leave({})
            return
        with inner.reading() as read:
            pictures = [torch.cat([_seen(read(b)) for b in inner.batches(part)]) for part in (first, second)]
        told = [[inner.rows[i] for i in part] for part in (first, second)]
        moved: Tensor = prompt
        # fused attention has no gradient of its gradient
        with evaluating(adapted.model), sdpa_kernel(SDPBackend.MATH):
            for _ in range(self.inner_steps):
                loss = among(adapted.model, pictures[0], told[0], moved, state.data["after"])
                (gradient,) = torch.autograd.grad(loss, moved, create_graph=True)
                moved = moved - self.inner_rate * gain * gradient
            outer = among(adapted.model, pictures[1], told[1], moved, state.data["after"])
            by_prompt, by_gain = torch.autograd.grad(outer, (prompt, gain))
        inner.tell(float(outer), len(inner.rows), inner_loss=float(loss))
        inner.leave({f"{NAME}.prompt": by_prompt, f"{NAME}.gain": by_gain})

    def update(self, changes: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
        name = f"{NAME}.prompt"
        if self.meta or name not in changes:
            return dict(changes)
        return {**changes, name: state.get_buffer("gain") * changes[name]}

    def end_task(self, state: State) -> None:
        if self.meta:
            state.set_buffer("start", state.get_parameter("prompt").detach().clone())


def among(model: Any, pictures: Tensor, rows: Sequence[Row], prompt: Tensor, after: int) -> Tensor:
    """[] mean cross-entropy of pictures [R, D] (as long as the scale) among the texts of their rows behind a prompt."""
    texts = {int(row.fields["keys"][1]): list(row.input_ids) for row in rows}
    table = padded(model.config, list(texts.values()), pictures.device)
    said = normalize(text_features(model, table, prompt, after).float(), dim=-1)
    places = {key: i for i, key in enumerate(texts)}
    wanted = torch.tensor([places[int(row.fields["keys"][1])] for row in rows], device=pictures.device)
    return cross_entropy(pictures @ said.T, wanted)


def _seen(outputs: Outputs) -> Tensor:
    assert outputs.features is not None
    return outputs.features.float()
