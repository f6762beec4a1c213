"""STEEL: a new task's adapter is picked, without a gradient, among a fixed number of draws from a diffusion model of
other tasks' adapters, which certifies its error (Rezk et al. 2025, arXiv:2502.06970; papers: steel).

Upstream, J tasks were trained from the same base by low-rank changes D_j = B_j A_j (stages of this run, other runs,
adapters), with a head where the model has a new one. Here, once, before any row is read:

    U [out, p], V [q, in]   the leading left and right directions of all D_j of a layer, p, q <= rank
    u_j in R^m              U^T D_j V^T of every layer, and the head, each scaled to the same spread over tasks
    z_j in R^c              u_j in its principal components (c <= J - 1), each at a spread of 1 over tasks
    p(z)                    a diffusion model fitted to z_1 ... z_J; h_1 ... h_K drawn from it

Then each of the stage's n rows is read once by all K: h* is the one of highest likelihood. Nothing trains. K was fixed
and the draws were made before the rows were seen, so that with probability `confidence` = 1 - d over the rows, for all
K at once (e errors of n, r = e / n):

    R(h*) <= r + sqrt(ln(K / d) / 2n)                                (the paper's; Hoeffding and a union bound)
    R(h*) <= the largest p with P(Bin(n, p) <= e) >= d / K           (never looser: what is reported first)

However large the model is. What is learnt by gradients over m numbers would be certified by r + sqrt((m + 2 ln m +
ln(1 / d)) / 2n) at best (a bit a number, Lotfi et al. 2024), which is reported beside it, at r = 0. The bounds are of
the 0-1 loss and hold for rows drawn independently from what the model will meet: not for rows that were chosen, that an
upstream task saw, or by which K, the seed or any other parameter was chosen. A row that comes again counts once.

The result is one low-rank change: it folds and is a PEFT adapter like any other.

Defaults: 0.95 and Hoeffding's bound are the paper's; K there is 10,000 to 20,000, here 1,000 (it costs K forwards, and
a tenth changes the bound little). T 100, three layers of 128, 2,000 steps of fitting: ours, the paper's are not known
to us. Raises MethodError for changes that are not low-rank, of other layers or of another base, NonFiniteError where
the fit diverges or no draw gives a finite likelihood.

Differs from the paper in: directions come from the upstream changes, not from the base's weight (there LoRA-XS: r x r
numbers between its singular vectors), so that any LoRA adapters will do: their factors alone are known up to a rotation
only. No hierarchical search: all K are read. The binomial bound is ours to add.
Source: arXiv:2502.06970 by its abstract and by others' notes of its formulas and settings; no code of the authors'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from tunewright.contract.change import Change
from tunewright.contract.found import Found
from tunewright.contract.method import Choice, Method, Need, Needs, Plan, State, torch_generator
from tunewright.errors import MethodError, NonFiniteError
from tunewright.methods.needs.upstream_changes import UpstreamChanges
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, deltas_of
from tunewright.models.sites import Site
from tunewright.pieces import certificates
from tunewright.pieces.diffusion import TINY, Diffusion, whitened
from tunewright.training.inner import Inner

FEW = 10
"""Upstream tasks under which draws are mostly those tasks again."""


def directions(pairs: Sequence[tuple[Tensor, Tensor]], rank: int) -> tuple[Tensor, Tensor]:
    """(U [out, p], V [q, in]), orthonormal: the leading left and right singular directions of all B A side by side.

    p and q are at most `rank`, and no more than there are. MethodError where all are zero.
    """
    left, right = [], []
    for A, B in pairs:
        left.append(B.double() @ torch.linalg.qr(A.double().T).R.T)
        right.append(torch.linalg.qr(B.double()).R @ A.double())
    U, S, _ = torch.linalg.svd(torch.cat(left, 1), full_matrices=False)
    _, T, V = torch.linalg.svd(torch.cat(right), full_matrices=False)
    if not float(S[0]) > 0:
        raise MethodError(
            "the upstream changes are all zero", where="upstream", remedy="name tasks that were trained for longer"
        )
    p, q = (min(rank, int((s > TINY * s[0]).sum())) for s in (S, T))
    return U[:, :p].contiguous(), V[:q].contiguous()


class STEEL(Method):
    """Pick among draws from a diffusion model of other tasks' adapters, and certify the error on new rows."""

    upstream: tuple[str, ...] = Field(
        min_length=1,
        description="tasks whose changes are drawn from: stages (every earlier one), stages.NAME, or folders (./zoo) "
        "of runs, finished stages or adapters",
        examples=[["./others"]],
    )
    samples: PositiveInt = Field(1000, description="draws K among which the rows pick; each reads every row once")
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="probability 1 - d with which the certificate holds", examples=[0.99]
    )
    rank: PositiveInt = Field(
        16, description="directions of each layer's inputs and outputs that are kept", examples=[1]
    )
    components: PositiveInt | None = Field(
        None, description="principal components that are drawn; none: all, one less than tasks", examples=[1]
    )
    timesteps: int = Field(100, ge=2, description="steps T of the diffusion from noise to a draw")
    hidden: PositiveInt = Field(128, description="width of the denoiser's three hidden layers")
    fit_steps: PositiveInt = Field(2000, description="optimizer steps of fitting the denoiser, 128 noised vectors each")

    category: ClassVar[str] = "reparameterised"
    alone: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...] | None] = ("text-classification", "image-classification")
    papers: ClassVar[tuple[str, ...]] = ("steel",)
    conformance: ClassVar[dict[str, object]] = {
        "upstream": ["./tasks"],
        "samples": 5,
        "rank": 4,
        "timesteps": 4,
        "hidden": 8,
        "fit_steps": 4,
    }

    def needs(self) -> Sequence[Need]:
        return (UpstreamChanges(names=self.upstream),)

    def attach(self, site: Site, needs: Needs, state: State) -> LowRank | None:
        """A layer's change in the directions of all upstream ones; zero until the first rows are read."""
        changes: list[Change] = needs.upstream_changes
        if site.name not in changes[0].pairs:
            return None
        U, V = directions([c.pairs[site.name] for c in changes], self.rank)
        state.set_buffer(f"left.{site.name}", U.float())
        return LowRank(V.float(), torch.zeros(site.out_features, len(V)), 1.0)

    def choose(self) -> Choice:
        """Nothing trains."""
        return Choice()

    def step(self, inner: Inner, adapted: Adapted, plan: Plan, needs: Needs, state: State) -> None:
        if state.get("draws") is None:
            self._draw(adapted, needs.upstream_changes, state)
        seen = set(state.data["seen"])
        places: list[int] = []
        for i, row in enumerate(inner.rows):
            if row.id not in seen and row.source not in plan.replay:
                places.append(i)
                seen.add(row.id)
        batches = inner.batches(places)
        nll, wrong = state.get_buffer("nll").clone(), state.get_buffer("wrong").clone()
        with inner.reading() as read:
            for k in range(self.samples) if batches else ():
                self._put(adapted, state, k)
                for batch in batches:
                    outputs = read(batch)
                    nll[k] -= outputs.log_probs().double().sum()
                    # a draw that overflows is one of the K as well: what it says is wrong
                    right = (outputs.logits.argmax(-1) == outputs.labels) & outputs.logits.isfinite().all(-1)
                    wrong[k] += (~right).sum()
                    state.data["classes"] = outputs.logits.shape[-1]
        nll = nll.nan_to_num(nan=math.inf, posinf=math.inf)
        best = int(nll.argmin())
        if not math.isfinite(float(nll[best])):
            raise NonFiniteError(
                f"none of {self.samples} draws gives the rows a finite likelihood",
                where="steel",
                remedy="look at the upstream changes: one may be far larger than the others",
            )
        state.set_buffer("nll", nll)
        state.set_buffer("wrong", wrong)
        state.data |= {"seen": sorted(seen), "best": best}
        self._put(adapted, state, best)
        n, errors = len(seen), int(wrong[best])
        bound = certificates.binomial(errors, n, self.samples, 1 - self.confidence) if n else 1.0
        inner.tell(float(nll[best]) / max(1, n), len(places), training_error=errors / max(1, n), certificate=bound)

    def found(self, state: State) -> Found | None:
        seen = len(state.data.get("seen", ()))
        if not seen:
            return None
        errors, failure = int(state.get_buffer("wrong")[state.data["best"]]), 1 - self.confidence
        of = (errors, seen, self.samples, failure)
        chance, tasks = 1 - 1 / state.data["classes"], state.data["tasks"]
        bound = certificates.binomial(*of)
        notes = [
            f"with {100 * self.confidence:g} % confidence, at most {100 * bound:.1f} % of new rows are answered "
            f"wrongly if they come as the stage's {seen:,} came ({errors} of those are wrong, {self.samples:,} draws)"
        ]
        if bound >= chance:
            notes.append(
                f"the certificate is empty: an error of at most {bound:.3f}, and guessing errs at {chance:.3f}"
            )
        if tasks < FEW:
            notes.append(f"{tasks} upstream tasks are few: what is drawn is mostly those tasks again")
        return Found(
            title="Certified error on new rows",
            description=f"With probability {self.confidence:g} over the stage's {seen:,} rows, were they drawn "
            "independently from what the model will meet: its share of wrong answers there is at most this. It is of "
            "the change as this stage left it.",
            values={
                "certified error (binomial)": bound,
                "certified error (Hoeffding, the paper's)": certificates.hoeffding(*of),
                "certified error (Chernoff, kl)": certificates.chernoff(*of),
                "error on the stage's rows": errors / seen,
                "error of guessing": chance,
                "rows": seen,
                "draws": self.samples,
                "draw": state.data["best"],
                "upstream tasks": tasks,
                "numbers of an upstream change": state.data["numbers"],
                "what gradients over as many add to their error, at least": certificates.continuous(
                    seen, state.data["numbers"], failure
                ),
                "share of the upstream changes outside of the kept directions": state.data["lost"],
                "loss of the denoiser": state.data["fit"],
            },
            notes=notes,
        )

    def _draw(self, adapted: Adapted, changes: Sequence[Change], state: State) -> None:
        """Fit the diffusion model and draw from it: `draws` [K, c], and how one becomes a change."""
        first = changes[0]
        parts: list[Tensor] = []
        kept = whole = 0.0
        for site, left, delta in self._sites(adapted, state):
            U, V = (t.detach().double().cpu() for t in (left, delta.lora_A))
            pairs = [(A.double(), B.double()) for A, B in (c.pairs[site] for c in changes)]
            parts.append(torch.stack([((U.T @ B) @ (A @ V.T)).flatten() for A, B in pairs]))
            kept += float(parts[-1].pow(2).sum())
            whole += sum(float(((B.T @ B) * (A @ A.T)).sum()) for A, B in pairs)
        parts += [torch.stack([c.values[n].double().flatten() for c in changes]) for n in sorted(first.values)]
        means = [p.mean(0) for p in parts]
        spreads = [float((p - m).pow(2).mean().sqrt()) for p, m in zip(parts, means, strict=True)]
        scaled = [(p - m) / (s or 1.0) for p, m, s in zip(parts, means, spreads, strict=True)]
        z, back, _ = whitened(torch.cat(scaled, 1), self.components)
        if not z.shape[1]:
            raise MethodError(
                "all upstream changes are one and the same", where="upstream", remedy="name different tasks"
            )
        generator = torch_generator(state.rng)
        model = Diffusion(z.shape[1], hidden=self.hidden, timesteps=self.timesteps, generator=generator)
        state.data |= {"fit": model.fit(z.float(), self.fit_steps), "lost": max(0.0, 1 - kept / whole)}
        state.data |= {"tasks": len(changes), "numbers": first.parameters}
        state.data |= {"values": sorted(first.values), "seen": [], "best": 0}
        by_entry = torch.cat([torch.full((len(m),), s, dtype=m.dtype) for m, s in zip(means, spreads, strict=True)])
        state.set_buffer("draws", model.draw(self.samples))
        state.set_buffer("entries", (back * by_entry).float())
        state.set_buffer("mean", torch.cat(means).float())
        for name in ("nll", "wrong"):
            state.set_buffer(name, torch.zeros(self.samples, dtype=torch.float64))
        for name in first.values:
            adapted.remember(name)  # before it moves for the first time: the way back to the base

    @staticmethod
    def _sites(adapted: Adapted, state: State) -> list[tuple[str, Tensor, Any]]:
        """(name, U, delta) of each layer that this method changes, in the model's order."""
        named = [(s, state.get(f"left.{s.name}")) for s in adapted.structure.sites]
        return [(s.name, U, *deltas_of(s).values()) for s, U in named if U is not None]  # type: ignore[misc]

    @torch.no_grad()
    def _put(self, adapted: Adapted, state: State, k: int) -> None:
        """Make the model the k-th draw."""
        # in float64: a product of a vector may round by where in memory it lies, and what is read from a checkpoint
        # lies elsewhere
        mean, draws, entries = (state.get_buffer(n).double() for n in ("mean", "draws", "entries"))
        u = mean + draws[k] @ entries
        place = 0
        for _, U, delta in self._sites(adapted, state):
            p, q = U.shape[1], delta.rank
            delta.lora_B.copy_(U.double() @ u[place : place + p * q].view(p, q))
            place += p * q
        own = adapted.base_parameters()
        for name in state.data["values"]:
            own[name].copy_(u[place : place + own[name].numel()].view_as(own[name]))
            place += own[name].numel()
