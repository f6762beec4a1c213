"""wav2vec 2.0's own training: find the quantised sound of a masked place among others of its recording (Baevski et al.
2020, arXiv:2006.11477). No label and no text is read. What Hsu et al. (2021) do with audio of several domains, and
Nowakowski et al. (2023) go on with in a new language (papers: robust-wav2vec-2-0, wav2vec2-to-ainu).

Convolutions make places z_1 .. z_T [D] of a recording. Spans of `mask_length` places are drawn, so many that they
would cover `mask_prob` of all if none overlapped; there the encoder reads the model's own mask vector, and gives c_t. A
target q_t is made of z_t by G = `groups` codebooks of V = `codes` entries each: scores W z_t [G, V], and of each group
the entry of the highest score with Gumbel noise at temperature tau (the gradient is the softmax's). Per recording

    loss = mean over masked t of  -log softmax over q in (q_t and its negatives) of cos(c_t, q) / k, at q_t
           + diversity (G V - sum over groups of exp H(p_g)) / (G V)

c and q each through a linear layer; `negatives` drawn from the recording's other masked places, of which those that are
equal to q_t do not count; k = `temperature`; p_g the mean softmax of group g's scores over the masked places, H its
entropy. tau falls geometrically from the first to the second number of `gumbel` over the stage. Codebooks and linear
layers are the method's own and train beside the model; a later stage that goes on from this one goes on with them.

The model is a wav2vec 2.0 for audio-classification or speech recognition: a stage of this makes the encoder that the
next stage tunes. Recordings of a stage's own `data.train` need no `label` and no `text` (for speech recognition
`placeholder` stands in, which must be spelt in the model's alphabet). Each recording runs alone at its own length,
without padding; what is drawn is keyed by (seed, epoch, row). The model's own forward runs too, unused: a step costs
about twice.

Defaults: those of the paper's base model (0.065 of the places begin a span of 10, 0.65 as transformers counts it; two
groups of 320 entries of 128 numbers, 100 negatives, k 0.1, diversity 0.1, tau from 2 to 0.5).
Errors: MethodError for a model that is no wav2vec 2.0 or has no mask vector.
Differs from the paper in: the diversity is of a recording's own places, where the paper's is of a batch's; each
recording counts alike, where there each masked place does; tau ends where the stage does, whatever its length;
codebooks start anew also on a published checkpoint, whose own are no part of a classifier's or recogniser's weights.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss
from tunewright.contract.method import Method, Plan, Setup, State, torch_generator
from tunewright.contract.records import Record
from tunewright.errors import MethodError

NAME = "wav2vec2"
HEAD = ("scores_weight", "scores_bias", "codebook", "target_weight", "target_bias", "context_weight", "context_bias")
"""What trains beside the model: scores [G V, D] of a place, codebook [G, V, d], layers to the space of cosines."""


def masked_places(places: int, share: float, length: int, rng: random.Random) -> np.ndarray:
    """[T] bool: spans that would cover a share if none overlapped, one at least; never so long that nothing is left."""
    mask = np.zeros(places, bool)
    if places < 3:
        return mask
    length = min(length, max(2, places // 2))
    count = max(1, min(int(share * places / length + rng.random()), places - length))
    for start in rng.sample(range(places - length + 1), count):
        mask[start : start + length] = True
    if mask.all():  # spans that happen to lie end to end
        mask[rng.randrange(places)] = False
    return mask


def negatives_of(mask: np.ndarray, count: int, rng: random.Random) -> np.ndarray:
    """[M, count] places: for each masked place others that are masked, with replacement."""
    at, draws = np.flatnonzero(mask), np.random.default_rng(rng.getrandbits(64))
    if len(at) < 2:
        return np.zeros((len(at), 0), np.int64)
    drawn = draws.integers(0, len(at) - 1, (len(at), count))
    return at[drawn + (drawn >= np.arange(len(at))[:, None])]  # behind its own place all move by one


def quantised(z: Tensor, head: Mapping[str, Tensor], tau: float, noise: Tensor | None) -> tuple[Tensor, Tensor]:
    """(codes [T, G d], softmax of the scores [T, G, V]) of places [T, D]; `noise` [T, G, V] is Gumbel's, None: none."""
    groups, entries, _ = head["codebook"].shape
    scores = F.linear(z.float(), head["scores_weight"], head["scores_bias"]).view(len(z), groups, entries)
    soft = ((scores if noise is None else scores + noise) / tau).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), entries).to(soft)
    chosen = (hard - soft).detach() + soft
    return torch.einsum("tgv,gvd->tgd", chosen, head["codebook"].float()).flatten(1), scores.softmax(-1)


def contrast(context: Tensor, targets: Tensor, others: Tensor, temperature: float) -> Tensor:
    """[M] nats: each context [M, p] finds its target [M, p] among its negatives [M, K, p]."""
    every = torch.cat([targets[:, None], others], 1)
    cosines = F.cosine_similarity(context[:, None].float(), every.float(), dim=-1) / temperature
    same = (others == targets[:, None]).all(-1)
    cosines = torch.cat([cosines[:, :1], cosines[:, 1:].masked_fill(same, -torch.inf)], 1)
    return -cosines.log_softmax(1)[:, 0]


def undiversity(p: Tensor) -> Tensor:
    """The share of all entries [T, G, V] that is left unused: 0 where each is as likely on average."""
    mean = p.mean(0)
    return 1 - torch.exp(-torch.xlogy(mean, mean).sum(-1)).sum() / mean.numel()


class Wav2Vec2(Method):
    """Find the quantised sound of masked places among others: training without labels."""

    mask_prob: float = Field(
        0.65, gt=0, le=1, description="share of places in spans, if none overlapped", examples=[0.3]
    )
    mask_length: PositiveInt = Field(10, description="places of a span", examples=[4])
    negatives: PositiveInt = Field(100, description="other masked places that each is told from", examples=[5])
    groups: PositiveInt = Field(2, description="codebooks", examples=[1])
    codes: PositiveInt = Field(320, description="entries of a codebook", examples=[8])
    code_dim: PositiveInt = Field(128, description="numbers of an entry", examples=[8])
    space: PositiveInt = Field(256, description="numbers of the space in which cosines are taken", examples=[16])
    temperature: PositiveFloat = Field(0.1, description="k, by which cosines are divided", examples=[0.5])
    diversity: NonNegativeFloat = Field(0.1, description="weight of the term that spreads the codes", examples=[0.0])
    gumbel: tuple[PositiveFloat, PositiveFloat] = Field(
        (2.0, 0.5), description="temperature of the drawn codes, at the stage's start and end", examples=[(1.0, 1.0)]
    )
    placeholder: str = Field(
        "A", min_length=1, description="text of recordings without one, for speech recognition: a letter of the model's"
    )

    couples: ClassVar[Literal["token", "row", "batch"]] = "row"
    quantised: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = ("audio-classification", "automatic-speech-recognition")
    leaves: ClassVar[tuple[str, ...]] = HEAD
    papers: ClassVar[tuple[str, ...]] = ("robust-wav2vec-2-0", "wav2vec2-to-ainu")

    def example(self, record: Record) -> Record | None:
        """What a task asks of rows and this objective never reads."""
        return None if "label" in record or "text" in record else record.replace(label=0, text=self.placeholder)

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        if getattr(model.config, "model_type", "") != NAME:
            raise MethodError(
                f"{type(model).__name__} is no wav2vec 2.0, whose masked places these are",
                where=f"'{NAME}', model",
                remedy="take a wav2vec 2.0 model, or leave the method out",
            )
        if not hasattr(model.base_model, "masked_spec_embed"):
            raise MethodError(
                "the model has no vector for masked places",
                where=f"'{NAME}', model",
                remedy="write mask_time_prob above 0 in its config",
            )
        config = model.config
        state = State(convolutions=[list(c) for c in zip(config.conv_kernel, config.conv_stride, strict=True)])
        vars(state)["model"] = model  # which the objective runs with masks: no part of the state
        left = run.earlier.inherited(NAME)
        for name, tensor in self._drawn(config.conv_dim[-1], config.hidden_size, torch_generator(run.rng)).items():
            before = left.values[name] if left is not None else None
            kept = before if before is not None and before.shape == tensor.shape else tensor
            state.register_parameter(name, nn.Parameter(kept.detach().clone().float()))
        return state

    def _drawn(self, width: int, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
        """What trains beside the model, as transformers draws it."""
        count, code = self.groups * self.codes, self.groups * self.code_dim

        def linear(rows: int, columns: int) -> Tensor:
            return (2 * torch.rand(rows, columns, generator=generator) - 1) / math.sqrt(columns)

        return {
            "scores_weight": torch.randn(count, width, generator=generator),
            "scores_bias": torch.zeros(count),
            "codebook": torch.rand(self.groups, self.codes, self.code_dim, generator=generator),
            "target_weight": linear(self.space, code),
            "target_bias": torch.zeros(self.space),
            "context_weight": linear(self.space, hidden),
            "context_bias": torch.zeros(self.space),
        }

    def batch(self, batch: Batch, state: State, row_rng: Callable[[int], random.Random]) -> Batch:
        """Draw each row's mask, its negatives and the seed of its noise."""
        samples = batch.fields["samples"].tolist()
        drawn = [self._draws(n, state.data["convolutions"], row_rng(i)) for i, n in enumerate(samples)]
        longest = max(len(mask) for mask, *_ in drawn)
        masks = torch.zeros(len(drawn), longest, dtype=torch.bool)
        others = torch.zeros(len(drawn), longest, self.negatives, dtype=torch.long)
        for i, (mask, places, _) in enumerate(drawn):
            masks[i, : len(mask)] = torch.from_numpy(mask)
            if places.size:
                others[i, torch.from_numpy(np.flatnonzero(mask))] = torch.from_numpy(places)
        more = {"masked": masks, "negatives": others, "noise": torch.tensor([seed for *_, seed in drawn])}
        return batch.replace(fields={**batch.fields, **more})

    def _draws(
        self, samples: int, convolutions: list[list[int]], rng: random.Random
    ) -> tuple[np.ndarray, np.ndarray, int]:
        places = samples
        for kernel, stride in convolutions:
            places = (places - kernel) // stride + 1
        mask = masked_places(places, self.mask_prob, self.mask_length, rng)
        return mask, negatives_of(mask, self.negatives, rng), rng.getrandbits(62)

    def objective(self, batch: Batch, step: int, plan: Plan, state: Any) -> Loss:
        first, last = self.gumbel
        tau = first * (last / first) ** (step / max(1, plan.steps - 1))
        head, model = dict(state.named_parameters()), vars(state)["model"]
        each = [self._row(batch, i, model, head, tau) for i in range(len(batch.row_ids))]
        found, spread = (torch.stack(some) for some in zip(*each, strict=True))
        return Loss(found + self.diversity * spread, logs={"contrast": found.detach(), "unused codes": spread.detach()})

    def _row(self, batch: Batch, i: int, model: Any, head: Mapping[str, Tensor], tau: float) -> tuple[Tensor, Tensor]:
        """(contrast, share of unused codes) of a recording."""
        mask = batch.fields["masked"][i]
        sound = batch.inputs["input_values"][i : i + 1, : int(batch.fields["samples"][i])]
        z, context = places_of(model, sound, mask)
        at = mask[: len(z)].nonzero()[:, 0]
        generator = torch.Generator().manual_seed(int(batch.fields["noise"][i]))
        noise = -torch.empty(len(z), *head["codebook"].shape[:2]).exponential_(generator=generator).log()
        codes, p = quantised(z, head, tau, noise.to(z.device))
        q = F.linear(codes, head["target_weight"], head["target_bias"])
        if len(at) < 2:  # no other place is masked: nothing to be told from
            return 0.0 * q.sum() + 0.0 * context.sum(), 0.0 * p.sum()
        c = F.linear(context[at].float(), head["context_weight"], head["context_bias"])
        others = q[batch.fields["negatives"][i, at]]
        return contrast(c, q[at], others, self.temperature).mean(), undiversity(p[at])


def places_of(model: Any, sound: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(normed places [T, D] of a recording, as convolutions make them; contexts [T, H] with the masked ones hidden)."""
    inner = model.base_model
    hidden, z = inner.feature_projection(inner.feature_extractor(sound).transpose(1, 2))
    hidden = torch.where(mask[None, : hidden.shape[1], None], inner.masked_spec_embed.to(hidden.dtype), hidden)
    return z[0], inner.encoder(hidden).last_hidden_state[0]
