"""Pre-training a nano base from a seeded random start: fixed token budget, Muon for matrices, AdamW for the rest.

The library's own loop adapts models that exist: it sorts rows by length, keeps the originals and measures the base
first. None of it serves a random start, and the time of one core is what limits these bases, so the loop is written out
here. Muon is orthogonalised momentum (Jordan 2024), with updates as large as AdamW's (Liu et al. 2025); torch's own
rounds to bfloat16 inside, which many processors compute slowly, and takes one matrix at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tunewright.files.tensors import save_tensors

LENGTH = 256
EVERY = 200  # steps between held-out measurements, each with a checkpoint


@dataclass(frozen=True)
class Budget:
    """How long and how fast: `tokens` in all, `batch` sequences a step, peak learning rates of matrices and of the
    rest.
    """

    tokens: int
    batch: int = 16
    matrices: float = 5e-3
    rest: float = 3e-3
    warmup: int = 60
    seed: int = 0


@dataclass
class Curve:
    """What a training run measured: (tokens, held-out loss in nats) points, seconds in steps, and the device's
    threads.
    """

    points: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    threads: int = 1

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz: g [..., m, n] with its singular values brought near 1."""
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, made orthogonal, for 2-D weights; weights of one shape go in one batched product.

    Step sizes as AdamW's (x 0.2 sqrt(max side)).
    """

    def __init__(self, weights: list[nn.Parameter], decay: float = 0.1, momentum: float = 0.95):
        self.groups: dict[torch.Size, list[nn.Parameter]] = {}
        for w in weights:
            self.groups.setdefault(w.shape, []).append(w)
        self.held = {shape: torch.zeros(len(ws), *shape) for shape, ws in self.groups.items()}
        self.decay, self.momentum = decay, momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at learning rate `rate`."""
        for shape, weights in self.groups.items():
            g, m = torch.stack([w.grad for w in weights if w.grad is not None]), self.held[shape]
            m.lerp_(g, 1 - self.momentum)
            update = orthogonal(g.lerp(m, self.momentum)) * (0.2 * max(shape) ** 0.5)
            for w, u in zip(weights, update, strict=True):
                w.mul_(1 - rate * self.decay).add_(u, alpha=-rate)


class Optimizer:
    """Muon for the matrices between the embeddings, AdamW for embeddings, norms and biases; linear warm-up and
    decay over the budget.
    """

    def __init__(self, model: nn.Module, budget: Budget, steps: int):
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in model.named_parameters():
            inner = p.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "decoder", "classifier"))
            (matrices if inner else rest).append(p)
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(rest, lr=budget.rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.budget, self.steps, self.done = budget, steps, 0
        self.parameters = [*matrices, *rest]

    def step(self) -> None:
        """Clip, update, clear the gradients."""
        share = min(1.0, (self.done + 1) / self.budget.warmup) * max(0.02, 1 - self.done / self.steps)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step(self.budget.matrices * share)
        self.adam.param_groups[0]["lr"] = self.budget.rest * share
        self.adam.step()
        self.adam.zero_grad()
        self.done += 1
        for p in self.parameters:
            p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the number of steps done: "muon.<i>" and "adam.<parameter>.<moment>"."""
        adam = {
            f"adam.{i}.{key}": t for i, moments in self.adam.state_dict()["state"].items() for key, t in moments.items()
        }
        return adam | {f"muon.{i}": t for i, t in enumerate(self.muon.held.values())}

    def restore(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on after `done` steps from `tensors`."""
        self.done = done
        state: dict[int, dict[str, Tensor]] = {}
        for name, t in tensors.items():
            if name.startswith("adam."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = t
        self.adam.load_state_dict({"state": state, "param_groups": self.adam.state_dict()["param_groups"]})
        self.muon.held = {shape: tensors[f"muon.{i}"] for i, shape in enumerate(self.muon.groups)}


def batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Indices below `count`, `size` at a time without end, each once per epoch, in an order drawn by `seed`."""
    generator, waiting = torch.Generator().manual_seed(seed), list[int]()
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def windows(tokens: np.ndarray, indices: list[int], length: int = LENGTH) -> Tensor:
    """Windows of `length` + 1 tokens: int64 [B, length + 1]."""
    return torch.from_numpy(np.stack([tokens[i * length : (i + 1) * length + 1] for i in indices]).astype(np.int64))


def _write_point(point: Path, model: nn.Module, optimizer: Optimizer, curve: Curve) -> None:
    """A checkpoint; it takes its name when it is whole."""
    named = {f"model.{n}": p for n, p in model.named_parameters()} | optimizer.tensors()  # a tied weight once
    words = {"done": str(optimizer.done), "curve": json.dumps(asdict(curve))}
    aside = point.with_suffix(".writing")
    save_tensors({n: t.detach().contiguous() for n, t in named.items()}, aside, words)
    aside.replace(point)


def _read_point(point: Path, model: nn.Module, optimizer: Optimizer) -> Curve:
    """Put a checkpoint into model and optimizer; the curve until there."""
    with safe_open(point, "pt") as file:
        words, tensors = file.metadata(), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118  (no mapping)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(tensors[f"model.{n}"])
    optimizer.restore(int(words["done"]), tensors)
    curve = Curve(**json.loads(words["curve"]))
    curve.points = [(int(at), float(loss)) for at, loss in curve.points]
    return curve


def train(
    model: nn.Module,
    budget: Budget,
    count: int,
    loss: Callable[[list[int], int], Tensor],
    held: Callable[[], float],
    folder: Path,
    tokens_each: int = LENGTH,
    save: Callable[[Path], None] | None = None,
) -> Curve:
    """Train until the budget's tokens are used; `folder` holds checkpoints, and a run begun there goes on.

    `loss(indices, step)` is the mean loss of those rows, `held()` the held-out loss in nats; `save(folder)` writes the
    model for others at every measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = max(1, budget.tokens // (budget.batch * tokens_each))
    optimizer, curve, point = (
        Optimizer(model, budget, steps),
        Curve(threads=torch.get_num_threads()),
        folder / "training.safetensors",
    )
    if point.exists():
        curve = _read_point(point, model, optimizer)
    order = batches(count, budget.batch, budget.seed)
    for _ in range(optimizer.done):
        next(order)
    model.train()
    while optimizer.done < steps:
        started = time.perf_counter()
        value = loss(next(order), optimizer.done)
        value.backward()
        optimizer.step()
        curve.seconds += time.perf_counter() - started
        curve.tokens += budget.batch * tokens_each
        if optimizer.done % 20 == 0:
            print(
                f"{optimizer.done}/{steps} {curve.tokens} tokens {curve.seconds:.0f} s loss {value.item():.3f}",
                flush=True,
            )
        if optimizer.done % EVERY == 0 or optimizer.done == steps:
            model.eval()
            curve.points.append((curve.tokens, held()))
            model.train()
            print(f"held-out {curve.points[-1][1]:.4f} nats at {curve.tokens} tokens", flush=True)
            _write_point(point, model, optimizer, curve)
            if save is not None:
                save(folder / "early")
    model.eval()
    return curve
