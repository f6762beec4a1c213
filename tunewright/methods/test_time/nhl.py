"""NHL: let a model's first layer follow what it sees by a soft Hebbian rule, and its answers tune how strongly each
neuron there responds (Tang et al. 2023, arXiv:2303.00914; papers: nhl).

Of each batch x [R, ...], the first convolution's inputs a [R, I, H', W'] and weights w [K, I, h, w], responses
u = w * a [R, K, H, W] without bias, patches a_rs [I h w] under each of the S = H W places s:

    y = softmax_k(u / temperature)                                   the soft winner among the K neurons of a place
    D_k = sum_rs y_rks (a_rs - u_rks w_k);   w <- w + learning_rate D / max |D|       feed-forward, without a gradient
    u' = gain_k u + shift_k;   (gain, shift) <- Adam step down mean_r H(softmax f(x_r))      feedback from the answers

after which the batch is answered: three forwards and one backward. The rule pulls a neuron towards the mean of the
patches that it wins, and its length towards 1; gain and shift [K] begin at 1 and 0. `feedback: 0` is the Hebbian rule
alone, `learning_rate: 0` the modulator alone.

Defaults: ours. Dividing by the largest entry follows SoftHebb's code (NeuromorphicComputing/SoftHebb, hebbconv.py,
which was read), on whose rule the paper builds: the largest change of a weight at a batch is `learning_rate`. Raises
MethodError for a model without a convolution. Differs from the paper in: reconstructed from its abstract and figure,
whose own code was not found; the modulator is a gain and a shift for each neuron of the first convolution. Each source
of the stream begins anew, as each corruption does there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from tunewright.contract.method import Candidates, Method, Setup, State
from tunewright.contract.unlabelled import Moving, Unjudged, Unlabelled
from tunewright.errors import MethodError
from tunewright.pieces.entropies import entropy


def hebbian(layer: nn.Conv2d, given: Tensor, temperature: float) -> Tensor:
    """[K, I, h, w] by which the soft Hebbian rule would change the layer's weights, its largest entry 1 in size.

    `given` [R, I, H', W'] is what the layer reads. sum_rs y a is the gradient of sum y u by w for a fixed y, whatever
    stride, padding and groups are.
    """
    weight = layer.weight.detach().requires_grad_()
    with torch.enable_grad():
        # by the weights alone: without bias, and without hooks, where the modulator is
        responses = layer._conv_forward(given, weight, None)
        won = (responses.detach() / temperature).softmax(1)
        (pulled,) = torch.autograd.grad((won * responses).sum(), weight)
    held = (won * responses.detach()).sum((0, 2, 3))
    change = pulled - held[:, None, None, None] * weight.detach()
    return change / change.abs().amax().clamp_min(torch.finfo(change.dtype).tiny)


def _first(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The model's first convolution and its name. MethodError where there is none."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise MethodError(
        f"{type(model).__name__} has no convolution that reads the picture",
        where="test_time",
        remedy="use tent, or a model whose first layer is a convolution, as of patches",
    )


@contextmanager
def _modulated(layer: nn.Conv2d, state: State, seen: list[Tensor]) -> Iterator[None]:
    """Inside, what the layer reads is put into `seen`, and its responses are scaled and shifted."""
    own = dict(state.named_parameters())

    def changed(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        seen.append(given[0].detach())
        return out * own["gain"][:, None, None] + own["shift"][:, None, None] if own else out

    hook = layer.register_forward_hook(changed)
    try:
        yield
    finally:
        hook.remove()


class NHL(Method):
    """Move the first convolution by a soft Hebbian rule, and its neurons' gain and shift by the answers' entropy."""

    learning_rate: float = Field(1e-3, ge=0, description="largest change of a weight by the Hebbian rule at a batch")
    temperature: PositiveFloat = Field(1.0, description="of the soft choice of winning neurons", examples=[0.1])
    feedback: float = Field(
        1e-3, ge=0, description="learning rate of gain and shift (Adam); 0: the Hebbian rule alone", examples=[0.0]
    )
    batch_statistics: bool = Field(
        True, description="batch norm takes mean and variance of the present batch (no effect without batch norm)"
    )

    tasks: ClassVar[tuple[str, ...] | None] = ("image-classification",)
    resets: ClassVar[Literal["never", "source", "batch", "row"]] = "source"
    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("nhl",)
    conformance: ClassVar[dict[str, object]] = {"learning_rate": 0.05, "feedback": 0.05}

    def setup(self, run: Setup) -> State:
        state = State()
        _, layer = _first(run.adapted.outer)
        if self.feedback:
            state.gain = nn.Parameter(torch.ones(layer.out_channels))
            state.shift = nn.Parameter(torch.zeros(layer.out_channels))
        return state

    def adapts(self, candidates: Candidates) -> Sequence[str]:
        """The first convolution's weights; gain and shift are the state's own."""
        name, _ = _first(candidates.adapted.outer)
        return [f"{name}.weight"]

    def adapt(
        self,
        batch: Unlabelled,
        forward: Callable[..., Unjudged],
        weights: Moving,
        model: nn.Module,
        state: State,
    ) -> Tensor:
        name, layer = _first(model)
        seen: list[Tensor] = []
        with _modulated(layer, state, seen):
            forward(batch, batch_statistics=self.batch_statistics)
            change = hebbian(layer, seen[0], self.temperature)
            weights.set({f"{name}.weight": layer.weight.detach() + self.learning_rate * change})
            if self.feedback:
                logits = forward(batch, grad=True, batch_statistics=self.batch_statistics).logits
                weights.descend(
                    entropy(logits).mean(), lambda _: torch.optim.Adam(state.parameters(), lr=self.feedback)
                )
            return forward(batch, batch_statistics=self.batch_statistics).logits
