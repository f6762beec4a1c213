"""Adapters of different ranks, more than there is room for at once, are answered in shared batches as each alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.loading.load import load
from tunewright.measure.generate import greedy
from tunewright.models import deltas as forms
from tunewright.serve.limits import Limits
from tunewright.serve.requests import Request
from tunewright.serve.sampling import Sampling
from tunewright.serve.server import Server

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

ADAPTERS, ROWS, TOKENS = 24, 96, 8
RANKS = (2, 3, 8)
CLAIM = Claim(
    paper="s-lora",
    says="Adapters of different ranks that do not all fit beside the model are paged in and out between the steps of "
    "shared batches, and rows are answered as by each adapter alone.",
    task="intents",
    method=Arm(name="same", methods=["full"]),
    metric="measured",
    direction="higher",
    smallest=0.98,
    seeds=5,
    rates=(),
    scales=("nano",),
    differs="the answers, not the speed: 24 random adapters on a nano model on one processor, with room for six; no "
    "unified pool of pages and no kernels of its own",
)


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Share of rows whose greedy answer in shared batches is that of base and adapter alone."""
    loaded = load(run.task["model"], run.task["task"])
    rng, g = random.Random(f"{seed}/s-lora"), torch.Generator().manual_seed(seed)
    tokens = loaded.model.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    prompts = [[rng.randrange(10, tokens) for _ in range(rng.randint(4, 40))] for _ in range(ROWS)]
    whose = [rng.randrange(ADAPTERS) for _ in range(ROWS)]
    adapters = []
    sites = loaded.adapted().structure.linear_sites()
    for k in range(ADAPTERS):
        r = RANKS[k % len(RANKS)]
        parts = {
            s.name: (torch.randn(r, s.in_features, generator=g), torch.randn(s.out_features, r, generator=g))
            for s in sites
        }
        adapters.append({n: forms.LowRank(A / A.shape[1] ** 0.5, B * 0.1, 1.0) for n, (A, B) in parts.items()})
    expected = []
    adapted = loaded.adapted()
    for prompt, k in zip(prompts, whose, strict=True):
        for name, delta in adapters[k].items():
            forms.attach(adapted.structure.site(name), "alone", delta)
        with adapted.at_strength(1.0) as model:
            expected.append(greedy(model, loaded.tokenizer, [prompt], TOKENS, ())[0])  # type: ignore[arg-type]
        adapted.forget_changes()
    with Server(loaded, "base", None, Limits(max_batch=6)) as server:
        for k, deltas in enumerate(adapters):
            server.library.add(f"a{k}", deltas)
        sampling = Sampling(TOKENS, temperature=0.0)
        handles = [
            server.engine.submit(Request(p, sampling, server.library.find(f"a{k}")))
            for p, k in zip(prompts, whose, strict=True)
        ]
        said = [[s.token for s in h.result()[0].said] for h in handles]
    return {"same": sum(a == b for a, b in zip(said, expected, strict=True)) / ROWS}
