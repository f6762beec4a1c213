"""aTLAS: task vectors composed with learned coefficients (Zhang et al. 2024, arXiv:2407.02880; papers: atlas).

Each tensor j has one coefficient for each fine-tuned model i: theta_j = theta0_j + sum_i c_ij (theta_ij - theta0_j).
Only c is learned, from `start` (0: the base): on labelled rows by the task's own loss (few-shot), or without labels by
the mean entropy of the model's answers on the rows that it will meet (test time). AdamW, clipped at norm 1, cosine to
zero.

parts: K > 1 splits every matrix by a random mask into K parts with a coefficient each; other tensors keep one. The
masks come from the seed and the tensor's name, so they need no file.

c = 0 is the base and c_i = 1 alone is model i, bit for bit. A tensor whose shape differs from the base's (a task's
head) stays the base's. The whole forward and backward are needed: memory is the base, the models, one composed copy and
the activations of a batch; a gradient is turned into its coefficients' (sum of g (theta_i - theta0), exactly) as soon
as the backward has made it, and let go.

Source: fredzzhang/atlas. Differs from the paper in: entropy at test time instead of pseudo-labels from weak and strong
views; with parts, biases and norms are scaled too; masks differ between tensors of one shape; fp32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Needs
from tunewright.errors import MethodError, NonFiniteError
from tunewright.weights.blocks import Learning, state_of
from tunewright.weights.operator import Merge


def parts_of(shape: Sequence[int], count: int, key: str, device: torch.device | None = None) -> Tensor | None:
    """int64 of a matrix's shape: which of `count` parts an entry belongs to, drawn evenly from `key` on the CPU; None
    for one part.
    """
    if count == 1 or len(shape) < 2:
        return None
    generator = torch.Generator().manual_seed(random.Random(key).getrandbits(62))
    return torch.randint(0, count, tuple(shape), generator=generator).to(device)


def composed(base: Tensor, tensors: Sequence[Tensor], c: Tensor, part: Tensor | None = None) -> Tensor:
    """base + sum_i c_i (t_i - base). c [models, K]; part: which of K an entry takes, None: the first.

    Exact where it must be: no model, or one model whole.
    """
    used = [i for i in range(len(tensors)) if bool((c[i] if part is not None else c[i, :1]).any())]
    if len(used) == 1 and bool(((c[used[0]] if part is not None else c[used[0], :1]) == 1).all()):
        return tensors[used[0]].clone()
    out, c = base.clone(), c.to(base.device)
    for i in used:
        out += (c[i, 0] if part is None else c[i][part]) * (tensors[i] - base)
    return out


def coefficient_gradient(
    g: Tensor, base: Tensor, tensors: Sequence[Tensor], count: int, part: Tensor | None = None
) -> Tensor:
    """[models, K] d loss / d c from g = d loss / d theta: sums of g (t_i - base), part by part."""
    sums = torch.zeros(len(tensors), count, device=g.device)
    for i, t in enumerate(tensors):
        product = g.float() * (t.float() - base.float())
        if part is None:
            sums[i, 0] = product.sum()
        else:
            sums[i].index_add_(0, part.flatten(), product.flatten())
    return sums


def entropy(logits: Tensor) -> Tensor:
    """Mean over items of -sum p log p, in nats; logits [S, V]."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


class Composer:
    """The base's module, running with the composition of any coefficients; gradients of a loss come back as theirs.

    `c` [models, tensors, K] in the order of `names`. Used as a context: the module's weights come back at its end.
    """

    def __init__(self, module: nn.Module, models: Sequence[dict[str, Tensor]], parts: int, key: str):
        self.module, self.parts, self.key = module, parts, key
        own = {
            n: p
            for n, p in module.named_parameters()
            if all(n in m and m[n].shape == p.shape for m in models) and p.is_floating_point()
        }
        self.parameters, self.names = own, tuple(own)
        self.base = {n: p.data for n, p in own.items()}
        self.models = [{n: m[n].to(p.dtype) for n, p in own.items()} for m in models]

    def part(self, name: str) -> Tensor | None:
        return parts_of(self.base[name].shape, self.parts, f"{self.key}/{name}", self.base[name].device)

    def __enter__(self) -> Composer:
        self._wanted = {n: p.requires_grad for n, p in self.module.named_parameters()}
        for n, p in self.module.named_parameters():
            p.requires_grad_(n in self.parameters)
        return self

    def __exit__(self, *error: object) -> None:
        for n, p in self.module.named_parameters():
            p.requires_grad_(self._wanted[n])
            if n in self.base:
                p.data, p.grad = self.base[n], None

    def put(self, c: Tensor) -> None:
        """Give the module the composition's weights."""
        for j, n in enumerate(self.names):
            self.parameters[n].data = composed(self.base[n], [m[n] for m in self.models], c[:, j], self.part(n))

    def gradient(self, c: Tensor, loss: Callable[[nn.Module], Tensor]) -> tuple[float, Tensor]:
        """(loss, d loss / d c) at c."""
        self.put(c)
        gradients = torch.zeros_like(c)
        at = {n: j for j, n in enumerate(self.names)}

        def reduce(name: str, p: Tensor) -> None:
            assert p.grad is not None
            gradients[:, at[name]] = coefficient_gradient(
                p.grad, self.base[name], [m[name] for m in self.models], self.parts, self.part(name)
            )
            p.grad = None

        hooks = [p.register_post_accumulate_grad_hook(lambda p, n=n: reduce(n, p)) for n, p in self.parameters.items()]
        try:
            with torch.enable_grad():
                value = loss(self.module)
                value.backward()  # type: ignore[no-untyped-call]
        finally:
            for h in hooks:
                h.remove()
        return float(value.detach()), gradients


class Atlas(Merge):
    """Learn how much of each model's change every tensor takes."""

    objective: Literal["labels", "entropy"] = Field(
        "labels",
        description="labels: the task's loss on labelled rows; entropy: no label is used",
        examples=["entropy"],
    )
    samples: PositiveInt = Field(128, description="rows to learn from", examples=[4])
    epochs: PositiveInt = Field(10, description="passes over them", examples=[2])
    learning_rate: PositiveFloat = Field(
        0.1, description="of the coefficients; the paper takes 0.1 for a few shots, 1e-3 at test time"
    )
    weight_decay: NonNegativeFloat = Field(0.1, description="AdamW's, towards coefficients of 0", examples=[1.0])
    parts: PositiveInt = Field(1, description="K, coefficients for each matrix and model", examples=[3])
    start: float = Field(0.0, description="first value of every coefficient; 0: the base", examples=[0.3])

    takes_gradients: ClassVar[bool] = True
    papers: ClassVar[tuple[str, ...]] = ("atlas",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "needed"
    symmetric: ClassVar[bool] = True
    models: ClassVar[tuple[int, int | None]] = (1, None)
    learns: ClassVar[bool] = True

    def learn(self, learning: Learning) -> dict[str, Any]:
        base = learning.needed_base("atlas")
        composer = Composer(base, [state_of(m) for m in learning.models], self.parts, "atlas")
        c = torch.full((len(learning.models), len(composer.names), self.parts), self.start)
        losses: list[float] = []
        with composer:
            batches = list(learning.batches(self.samples))
            if not batches:
                raise MethodError(
                    "coefficients are learned from rows, and there are none",
                    remedy="give rows: --data FILE --task TASK",
                )
            optimizer = torch.optim.AdamW([c], lr=self.learning_rate, weight_decay=self.weight_decay)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * len(batches))
            for _ in range(self.epochs):
                for batch in batches:
                    value, c.grad = composer.gradient(c, partial(self._loss_of, learning, batch))
                    if not torch.isfinite(c.grad).all():
                        raise NonFiniteError(
                            f"the coefficients' gradient is not finite at step {len(losses)}",
                            remedy="lower learning_rate, or check the models",
                        )
                    torch.nn.utils.clip_grad_norm_([c], 1.0)
                    optimizer.step()
                    schedule.step()
                    losses.append(value)
        learning.log(loss_first=losses[0], loss_last=losses[-1], coefficients=c.numel())
        by_name = {n: c[:, j].clone() for j, n in enumerate(composer.names)}
        return {
            "coefficients": by_name,
            "report": {"losses": losses, "coefficients": {n: v.tolist() for n, v in by_name.items()}},
        }

    def _loss_of(self, learning: Learning, batch: Batch, model: nn.Module) -> Tensor:
        return self._loss(learning.forward(model, batch), batch, learning.task)

    def _loss(self, outputs: Outputs, batch: Batch, task: Any) -> Tensor:
        """What is minimised on one batch, a scalar in nats."""
        if self.objective == "entropy":
            return entropy(outputs.logits)
        each = task.loss(outputs, batch)
        weights: Tensor = batch.weights if each.weight is None else each.weight
        total: Tensor = (each.value * weights).sum() / batch.weights.sum()
        return total

    def merge(self, name: str, base: Tensor, tensors: Sequence[Tensor], needs: Needs) -> Tensor:
        c = needs.coefficients.get(name)
        return (
            base
            if c is None
            else composed(base, tensors, c, parts_of(base.shape, self.parts, f"atlas/{name}", base.device))
        )
