"""PPO: proximal policy optimization of answers (Schulman et al. 2017, arXiv:1707.06347), held to a reference as in
InstructGPT (Ouyang et al. 2022, arXiv:2203.02155), with the trained model's own value head.

Each prompt of a step is answered `samples` times by the present model pi_old. With q the reference, R the reward of a
sample (at its last token T, or given token by token) and V_t what the value head says before token t (V_(T+1) = 0):

    r_t     = -beta log(pi_old(o_t) / q(o_t)) + [t = T] R
    delta_t = r_t + gamma V_(t+1) - V_t
    A_t     = delta_t + gamma lambda A_(t+1)                                   (GAE, Schulman et al. 2016)
    G_t     = A_t + V_t                                                        the value's target

A is then whitened over all tokens of the samples (`whiten`): mean 0, unbiased variance 1. The loss of a token is, with
rho_t = pi(o_t) / pi_old(o_t) and v_t the present value,

    max(-rho_t A_t, -clip(rho_t, 1 - clip, 1 + clip) A_t)
        + value_weight / 2 max((v_t - G_t)^2, (clip(v_t, V_t - value_clip, V_t + value_clip) - G_t)^2)

and the step's loss its mean over tokens. Samples are trained on in `reuse` steps. pi, pi_old and q are all softmax(
logits / temperature). v = w h + c, of the last hidden state h [D] that the language head reads; w [D] and c start at 0,
train with everything else and are no part of the result.

Logged: reward, reward/<name>, sample_length; kl (mean of log(pi / q) over the sampled tokens), clipped, value_loss,
value_clipped (shares of tokens at the clips).

Defaults: beta 0.05, gamma 1, lambda 0.95, clip and value_clip 0.2, value_weight 0.1, four steps a set of samples: those
of trl's PPO; the temperature 1 is the paper's (trl: 0.7). The formulas are trl's, too, but for the value head.
Differs from the paper in: a value head on the policy's own states instead of a second network of the reward model's
size (as in trl's AutoModelForCausalLMWithValueHead); no pretraining loss beside it; no entropy bonus; every step trains
on all samples, without mini-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Method, Need, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.hidden_states import HiddenStates
from tunewright.methods.needs.reference_log_probs import log_probs_at
from tunewright.methods.reinforcement._policy import clipped_loss
from tunewright.training.rollouts import Rollout, Sample

TINY = 1e-8


def advantages_of(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """Generalised advantages and the values' targets of one sample's tokens: [T], [T]."""
    after, advantage = 0.0, 0.0
    found: list[float] = []
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        advantage = reward + gamma * after - value + gamma * lam * advantage
        found.append(advantage)
        after = value
    found.reverse()
    return found, [a + v for a, v in zip(found, values, strict=True)]


def whitened(values: Tensor) -> Tensor:
    """[N]: mean 0 and unbiased variance 1; of a single value, 0."""
    around = values - values.mean()
    return around * torch.rsqrt(around.square().sum() / max(1, len(values) - 1) + TINY)


def value_loss(now: Tensor, before: Tensor, target: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the larger squared distance of each token [S], and whether the clip decides it; all arguments [S]."""
    free = (now - target).square()
    held = (before + (now - before).clamp(-clip, clip) - target).square()
    return 0.5 * torch.maximum(free, held), (held > free).to(now.dtype)


class PPO(Method):
    """Make answers likelier whose tokens did better than a value head expected, and hold to a reference."""

    samples: PositiveInt = Field(1, description="answers a prompt", examples=[2])
    max_new_tokens: PositiveInt = Field(32, description="longest answer, in tokens", examples=[2])
    temperature: PositiveFloat = Field(
        1.0, description="divides the logits that answers are drawn from", examples=[0.7]
    )
    reference: Literal["base", "start"] = Field(
        "base", description="what the divergence is from: the untouched base, or the model that the stage starts with"
    )
    beta: NonNegativeFloat = Field(
        0.05, description="what a nat of divergence from the reference costs, in reward", examples=[0.5]
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards, a token", examples=[0.5])
    lam: float = Field(
        0.95, ge=0, le=1, description="lambda: 1 takes the sampled return, 0 the next value", examples=[0.0]
    )
    whiten: bool = Field(True, description="bring advantages to mean 0 and variance 1 over all tokens")
    clip: PositiveFloat = Field(
        0.2, lt=1, description="largest change of a token's probability, relative, that is rewarded", examples=[0.01]
    )
    value_clip: PositiveFloat = Field(
        0.2, description="largest change of a value that its loss counts", examples=[0.001]
    )
    value_weight: NonNegativeFloat = Field(0.1, description="weight of the values' loss", examples=[5.0])
    reuse: PositiveInt = Field(4, description="optimizer steps on one set of samples", examples=[1])
    weight: PositiveFloat = Field(1.0, description="weight of this objective in the sum", examples=[0.5])

    tasks: ClassVar[tuple[str, ...] | None] = ("text-generation",)
    requires: ClassVar[tuple[str, ...]] = ("reward",)
    rate_factor: ClassVar[float] = 0.25
    papers: ClassVar[tuple[str, ...]] = ("reft-rl", "mistral-plus")
    conformance: ClassVar[dict[str, object]] = {"samples": 3, "max_new_tokens": 3, "reuse": 2}
    conformance_beside: ClassVar[dict[str, dict[str, Any]]] = {"numeric-answer": {"near": 1.0}}

    def needs(self) -> Sequence[Need]:
        return (HiddenStates(),)

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise MethodError(
                "the model's language head is no linear layer, so that there is no state for a value head to read",
                remedy="use grpo or reinforce, which know no values",
            )
        state = State()
        value: Any = nn.utils.skip_init(nn.Linear, head.in_features, 1)  # draws nothing
        nn.init.zeros_(value.weight)
        nn.init.zeros_(value.bias)
        state.value = value
        return state

    def rollout(
        self,
        generate: Callable[..., list[list[Sample]]],
        token_rewards: Callable[[list[Sample]], list[list[float]]],
        read: Callable[..., list[list[float]]],
        state: State,
    ) -> Rollout:
        groups = generate(self.samples, self.max_new_tokens, self.temperature)
        told = [(i, s) for i, g in enumerate(groups) for s in g]
        samples = [s for _, s in told]
        rewards, plain = token_rewards(samples), [s.row() for s in samples]
        values = read(plain, lambda outputs, batch: _values(state, outputs, batch), hidden=True)
        reference = read(plain, lambda outputs, batch: log_probs_at(outputs, self.temperature), at=self.reference)
        estimates = []
        for s, reward, value, theirs in zip(samples, rewards, values, reference, strict=True):
            shaped = [r - self.beta * (p - q) for r, p, q in zip(reward, s.log_probs, theirs, strict=True)]
            estimates.append(advantages_of(shaped, value, self.gamma, self.lam))
        flat = torch.tensor([a for above, _ in estimates for a in above], dtype=torch.float64)
        above = iter((whitened(flat) if self.whiten else flat).tolist())
        rows = []
        for (i, s), value, theirs, (_, targets) in zip(told, values, reference, estimates, strict=True):
            carried = {"sampled_log_probs": s.log_probs, "reference": theirs, "value": value, "target": targets}
            rows.append((i, s.row(advantage=[next(above) for _ in s.ids], **carried)))
        return Rollout(rows, self.reuse)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        fields, log_probs = batch.fields, log_probs_at(outputs, self.temperature)
        loss, clipped = clipped_loss(log_probs, fields["sampled_log_probs"], fields["advantage"], self.clip)
        values = _values(state, outputs, batch)
        apart, held = value_loss(values, fields["value"], fields["target"], self.value_clip)
        logs = {"clipped": clipped, "kl": log_probs - fields["reference"], "value_loss": apart, "value_clipped": held}
        return Loss(loss + self.value_weight * apart, logs=logs)


def _values(state: State, outputs: Outputs, batch: Batch) -> Tensor:
    """[S], fp32: what the value head says before each target."""
    assert outputs.hidden is not None and batch.positions is not None
    head: Any = state.value
    values: Tensor = head(outputs.hidden[-1].flatten(0, 1)[batch.positions].float())
    return values[:, 0]
