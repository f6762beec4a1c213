"""HPrompt-CPT: domains are read on one after the other behind prompts that a network makes of each row (Jiang et al.
2023, arXiv:2310.13024; papers: hprompt-cpt).

Before a row x the model f reads n virtual tokens P(x) that the network F makes of the row's own tokens, so that nobody
has to name a domain, then or later. h(x; P) [L, D] are the last block's states of the row's tokens, f' and F' model and
network as the stage began, P~ [n, D] a prompt that is drawn anew each step:

    P(x)          = P_0 + W2 relu(W1 e(x) + b1),   e(x) [D]: mean of the row's embeddings, at a root mean square of 1
    agreement     mean over tokens and dimensions of (h(x; P~) - h'(x; P~))^2                                  a row
    disagreement  squared cosine of the row's means of h(x; P(x)) and of h'(x; P'(x)),  from the second domain on
    loss          the task's + a agreement + d disagreement                                                   a target

Under a prompt of no domain the model is held to what it was, so that domains to come find it as general; under the
domain's own it is to say what it did not say before. Model (or the deltas beside this method) and F train together, F
at a rate of its own; P_0 starts at embeddings of tokens drawn from the vocabulary, W2 at zero, P~ is normal with the
deviation of the embeddings. Each domain is a stage that starts from the one before with `carry: frozen`; F is left to
it by name (`network`, `domains`). The change does not fold: F stays with the model.

Costs four forwards a step, two of them with gradient. Defaults: a 1, d 1, 10 tokens, a rate of 1e-3 for F: ours.
Raises MethodError for decoders, and for a network of another shape than the stage before left.
Differs from the paper in: reconstructed from its abstract and summaries; the forms of F, of both distances and of what
is drawn are ours. It is a masked model's reading on alone: a task is tuned behind the prompts in no run here.
The authors' repository (gangwJiang/HPrompt-CPT) holds no code.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Candidates, Choice, Method, Plan, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.row_prompts import PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.network_prompts import NOTE, Network, Prompted, agreement, behind, disagreement
from tunewright.pieces.prompts import start_prompt

NAME = "hprompt-cpt"


class HPromptCPT(Method):
    """Read on, domain by domain, behind prompts made of each row; held to the model of before under drawn ones."""

    length: PositiveInt = Field(10, description="virtual tokens before each row, n", examples=[3])
    hidden: PositiveInt = Field(64, description="inner width of the network", examples=[8])
    agreement: NonNegativeFloat = Field(1.0, description="a, weight of the agreement", examples=[9.0])
    disagreement: NonNegativeFloat = Field(1.0, description="d, weight of the disagreement", examples=[9.0])
    network_rate: PositiveFloat = Field(1e-3, description="learning rate of the network", examples=[0.1])

    reference: ClassVar[str] = "start"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-5}
    tasks: ClassVar[tuple[str, ...] | None] = ("fill-mask",)
    carries: ClassVar[Literal["frozen"]] = "frozen"
    leaves: ClassVar[tuple[str, ...]] = ("network", "domains")
    category: ClassVar[str] = "prompt"
    papers: ClassVar[tuple[str, ...]] = (NAME,)

    def setup(self, run: Setup) -> State:
        table: Any = run.adapted.model.get_input_embeddings().weight  # type: ignore[operator]
        before = run.earlier.inherited(NAME)
        state = State(domains=1 + (before.values["domains"] if before else 0), seed=run.rng.getrandbits(31))
        state.network = Network(start_prompt(table, self.length, run.rng), self.hidden, torch_generator(run.rng))
        if before:
            left, here = before.values["network"], state.network.state_dict()
            if {n: t.shape for n, t in left.items()} != {n: t.shape for n, t in here.items()}:
                raise MethodError(
                    "the stage before left a network of another shape",
                    where=f"{NAME}.length, hidden",
                    remedy="write the same length and hidden in every stage",
                )
            state.network.load_state_dict({n: t.detach().clone() for n, t in left.items()})
        state.data["deviation"] = float(table.detach().float().std()) if not table.is_meta else 0.0
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        return Prompted(PromptPlaces(model, structure, NAME), state.get_submodule("network"))

    def choose(self, candidates: Candidates) -> Choice:
        return Choice(tuple(candidates.deltas) or tuple(candidates.base))

    def rates(self, parameters: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
        return {n: self.network_rate / plan.learning_rate for n in parameters if n.startswith(f"{NAME}.network.")}

    def objective(
        self, outputs: Outputs, batch: Batch, forward: Callable[..., Outputs], step: int, state: State
    ) -> Loss:
        mask, (own,) = batch.inputs["attention_mask"], outputs.present.notes[NOTE]
        mask, value, logs = mask.to(own.dtype), -outputs.log_probs(), dict[str, Tensor]()
        if self.agreement:
            rng = random.Random(f"{state.data['seed']}/{step}")
            prompt = torch.randn(self.length, own.shape[-1], generator=torch_generator(rng)) * state.data["deviation"]
            with behind(prompt.to(own)):
                now, then = _states(forward(batch)), _states(forward(batch, start=True))
            logs["agreement"] = agreement(now, then, mask)[batch.rows]
            value = value + self.agreement * logs["agreement"]
        if self.disagreement and state.data["domains"] > 1:
            logs["disagreement"] = disagreement(own, _states(forward(batch, start=True)), mask)[batch.rows]
            value = value + self.disagreement * logs["disagreement"]
        return Loss(value, logs=logs)


def _states(outputs: Outputs) -> Tensor:
    (states,) = outputs.present.notes[NOTE]
    return states  # type: ignore[no-any-return]
