"""Several low-rank changes of one base, trained step by step by whoever asks.

The base's weights are those that are served, in memory once: its modules are copied around the same tensors, so that a
change that trains never hangs on the model that answers. Losses are sums over tokens, as Tinker's are. Shapes: B rows,
T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tunewright.contract.method import torch_generator
from tunewright.errors import ModelError
from tunewright.files.cache import written_aside
from tunewright.files.tensors import save_tensors
from tunewright.models import deltas as forms
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import kaiming
from tunewright.serve.errors import ApiError
from tunewright.serve.tinker.asked import Adam
from tunewright.serve.tinker.pieces import Pace, Pieces

ALPHA = 32.0
"""Tinker's: a change is scaled by ALPHA / rank."""
MICRO_TOKENS = 2048
WEIGHTS, ABOUT, MOMENTS = "weights.safetensors", "about.json", "optimizer.safetensors"
LOSSES = ("cross_entropy", "importance_sampling", "ppo", "cispo")
CLIP = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}


@dataclass(frozen=True)
class Shape:
    """What of the base a change is of."""

    rank: int
    mlp: bool = True
    attention: bool = True
    unembed: bool = True


@dataclass
class Datum:
    """Tokens that the model reads, and for each of them what should follow and what that counts."""

    tokens: Sequence[int]
    targets: Tensor
    given: Mapping[str, Tensor]


@dataclass
class Change:
    """One client's change: a low-rank delta a site, its optimizer and what it is of."""

    shape: Shape
    deltas: dict[str, LowRank]
    optimizer: torch.optim.AdamW | None = None
    steps: int = 0
    parameters: list[nn.Parameter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [p for _, d in sorted(self.deltas.items()) for p in d.parameters()]

    def own_optimizer(self) -> torch.optim.AdamW:
        """Its optimizer, made at the first step."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(self.parameters)
        return self.optimizer

    def forget(self) -> None:
        """Drop the gradient."""
        for p in self.parameters:
            p.grad = None

    def copied(self) -> dict[str, LowRank]:
        """Deltas of their own, as they are now, that nothing trains."""
        out = {}
        for site, delta in self.deltas.items():
            own = copy.deepcopy(delta).requires_grad_(False).eval()
            own.zero_grad(set_to_none=True)
            out[site] = own
        return out


def shared(model: nn.Module) -> nn.Module:
    """A copy of the modules around the same parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})


class Learner:
    """Trains changes of `model`, one call at a time."""

    def __init__(self, model: nn.Module):
        self.adapted = Adapted(shared(model))
        for p in self.adapted.model.parameters():
            p.requires_grad_(False)
        self._sites = {s.name: s for s in self.adapted.structure.sites}
        self.pace = Pace()

    def begin(self, shape: Shape, seed: int) -> Change:
        """A new change: A drawn, B zero. ApiError where no layer is left."""
        sites = [s for s in self.adapted.structure.sites if self._of(s, shape)]
        if not sites:
            raise ApiError(400, "No layer of this model would train.", param="lora_config")
        deltas = {}
        for site in sites:
            generator = torch_generator(random.Random(f"{seed}/{site.name}"))
            deltas[site.name] = LowRank(*kaiming(site, shape.rank, generator), ALPHA / shape.rank).to(site.device)
        return Change(shape, deltas)

    def _of(self, site: Site, shape: Shape) -> bool:
        if site.kind not in ("linear", "conv1d") or site.unfit:
            return False
        if site.block is None:
            return shape.unembed and site.role == "head"
        return shape.attention if site.role == "attention" else shape.mlp

    @contextmanager
    def _on(self, deltas: Mapping[str, LowRank]) -> Iterator[None]:
        hung = []
        try:
            for name, delta in deltas.items():
                forms.attach(self._sites[name], "own", delta)
                hung.append(name)
            yield
        finally:
            for name in hung:
                forms.detach(self._sites[name], "own")

    def log_probs(self, deltas: Mapping[str, LowRank], data: Sequence[Datum]) -> list[Tensor]:
        """[T] of each datum's targets, without a gradient."""
        out: list[Tensor] = []
        with torch.no_grad(), self._on(deltas):
            for some in _micro(data):
                out += self._read([data[i] for i in some])
        return _in_order(data, out)

    def learn(
        self,
        change: Change,
        data: Sequence[Datum],
        loss: str,
        config: Mapping[str, float],
        run: Callable[[Iterator[Pieces]], None] | None = None,
    ) -> list[Tensor]:
        """Add the gradient of the sum of all losses to the change's; each datum's log-probabilities [T].

        `run` does the pieces (none: at once, here); where one fails the change's gradient is what it was.
        """
        out: list[Tensor] = []
        before = [None if p.grad is None else p.grad.clone() for p in change.parameters]
        try:
            with torch.enable_grad(), self._on(change.deltas):
                (run or _at_once)(self._pieces(data, loss, config, out))
        except BaseException:
            for p, g in zip(change.parameters, before, strict=True):
                p.grad = g
            raise
        return _in_order(data, out)

    def _pieces(
        self, data: Sequence[Datum], loss: str, config: Mapping[str, float], out: list[Tensor]
    ) -> Iterator[Pieces]:
        """The work of each group of rows; their log-probabilities go to `out` when it is done."""

        def of(log_p: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            return loss_of(loss, log_p, given, config)

        device = self.adapted.device
        for some in _micro(data):
            batch = [data[i] for i in some]
            lengths = [len(d.tokens) for d in batch]
            ids, targets = (torch.zeros(len(batch), max(lengths), dtype=torch.long) for _ in range(2))
            for i, d in enumerate(batch):
                ids[i, : lengths[i]], targets[i, : lengths[i]] = torch.tensor(list(d.tokens)), d.targets
            given = [d.given for d in batch]
            work = Pieces(self.adapted.model, ids.to(device), targets.to(device), lengths, given, of, self.pace)
            yield work
            out += [x[:n] for x, n in zip(work.read, lengths, strict=True)]

    def _read(self, batch: Sequence[Datum]) -> list[Tensor]:
        """[T] log-probabilities of each one's targets; rows are padded on the right."""
        device, longest = self.adapted.device, max(len(d.tokens) for d in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, d in enumerate(batch):
            ids[i, : len(d.tokens)] = torch.tensor(list(d.tokens))
            mask[i, : len(d.tokens)] = 1
        model: Any = self.adapted.model
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        out = []
        for own, d in zip(logits, batch, strict=True):
            shares = own[: len(d.tokens)].float().log_softmax(-1)
            out.append(shares.gather(-1, d.targets.to(device)[:, None])[:, 0])
        return out

    def step(self, change: Change, params: Adam) -> dict[str, float]:
        """One step of AdamW with what was added since the last; figures of it. ApiError where nothing was."""
        grads = [p.grad for p in change.parameters if p.grad is not None]
        if not grads:
            raise ApiError(400, "There is no gradient: call forward_backward first.")
        norm = torch.stack([g.norm() for g in grads]).norm()
        if not bool(torch.isfinite(norm)):
            change.forget()
            raise ApiError(400, "The gradient is not finite: it was dropped.")
        if params.grad_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(change.parameters, params.grad_clip_norm)
        own = change.own_optimizer()
        for group in own.param_groups:
            group.update(
                lr=params.learning_rate,
                betas=(params.beta1, params.beta2),
                eps=params.eps,
                weight_decay=params.weight_decay,
            )
        own.step()
        change.forget()
        change.steps += 1
        return {"grad_norm:mean": float(norm)}


def _at_once(work: Iterator[Pieces]) -> None:
    for pieces in work:
        while not pieces.done:
            pieces.piece(1e9, 1e9)


def _micro(data: Sequence[Datum]) -> list[list[int]]:
    """Places of data in groups of about MICRO_TOKENS padded tokens, the longest first."""
    order = sorted(range(len(data)), key=lambda i: -len(data[i].tokens))
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * len(data[groups[-1][0]].tokens) <= MICRO_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _in_order(data: Sequence[Datum], read: Sequence[Tensor]) -> list[Tensor]:
    places = [i for some in _micro(data) for i in some]
    by_place = dict(zip(places, read, strict=True))
    return [by_place[i] for i in range(len(data))]


def loss_of(name: str, log_p: Tensor, given: Mapping[str, Tensor], config: Mapping[str, float]) -> Tensor:
    """The loss of one datum, summed over its tokens: log_p [T] of its targets.

    cross_entropy: -sum w log p. With r = p / q of `logprobs` (log q) and A of `advantages`: importance_sampling
    -sum r A, ppo -sum min(r A, clip(r) A), cispo -sum clip(r) A log p with clip(r) held still.
    """
    given = {k: t.to(log_p.device) for k, t in given.items()}
    if name == "cross_entropy":
        return -(given["weights"] * log_p).sum()
    ratio, gain = (log_p - given["logprobs"]).exp(), given["advantages"]
    if name == "importance_sampling":
        return -(ratio * gain).sum()
    low, high = (float(config.get(k, v)) for k, v in CLIP.items())
    clipped = ratio.clamp(low, high)
    if name == "ppo":
        return -torch.minimum(ratio * gain, clipped * gain).sum()
    return -(clipped.detach() * gain * log_p).sum()


def save(change: Change, folder: Path, *, moments: bool, replace: bool) -> None:
    """Write a change, with its optimizer's moments where it is to be gone on with. FolderError where it is there."""
    with written_aside(folder, replace=replace) as aside:
        tensors = {f"{s}/{n}": t.detach().clone() for s, d in change.deltas.items() for n, t in d.state_dict().items()}
        save_tensors(tensors, aside / WEIGHTS)
        shape = change.shape
        about = {"rank": shape.rank, "mlp": shape.mlp, "attention": shape.attention, "unembed": shape.unembed}
        (aside / ABOUT).write_text(json.dumps({**about, "steps": change.steps}), encoding="utf-8")
        if moments and change.optimizer is not None:
            kept = change.optimizer.state_dict()["state"]
            save_tensors({f"{i}/{n}": t.clone() for i, s in kept.items() for n, t in s.items()}, aside / MOMENTS)


def shape_of(folder: Path) -> Shape:
    """What a saved change is of. ModelError where there is none."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return Shape(*(about[k] for k in ("rank", "mlp", "attention", "unembed")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("there are no such weights", remedy="name what save_weights gave") from error


def restore(change: Change, folder: Path, *, moments: bool) -> None:
    """Give a change the values of a saved one; with `moments` the optimizer's too. ModelError where they do not fit."""
    tensors = load_file(folder / WEIGHTS)
    own = {f"{s}/{n}": t for s, d in change.deltas.items() for n, t in d.state_dict().items()}
    if own.keys() != tensors.keys() or any(own[n].shape != t.shape for n, t in tensors.items()):
        raise ModelError("these weights are of another rank or of other layers", remedy="make a model of their shape")
    with torch.no_grad():
        for n, t in tensors.items():
            own[n].copy_(t)
    change.forget()
    change.optimizer = None
    change.steps = int(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["steps"])
    if moments and (folder / MOMENTS).exists():
        state: dict[int, dict[str, Tensor]] = {}
        for name, t in load_file(folder / MOMENTS).items():
            i, _, what = name.partition("/")
            state.setdefault(int(i), {})[what] = t
        optimizer = change.own_optimizer()
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
