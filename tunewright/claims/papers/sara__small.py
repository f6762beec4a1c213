"""The smallest weights of a model hardly matter for what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.lab import corpus
from tunewright.loading.load import load
from tunewright.methods.parameter_selection.sara import threshold_of

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

SHARE, DOCUMENTS, TOKENS = 0.1, 8, 256
CLAIM = Claim(
    paper="sara",
    says="Setting the tenth of a model's weights that is smallest to zero raises its loss on text by less than a tenth "
    "of what setting a random tenth to zero does.",
    task="intents",
    method=Arm(name="smallest", methods=["sara"], uses=["sara"]),
    baselines=[Arm(name="random", methods=["full"])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.9,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    differs="language models and the loss on general text instead of Stable Diffusion and its scores",
)


@torch.no_grad()
def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Rise of the loss on general text, nats a token, with a tenth of all weights at zero."""
    whole = corpus.QUICKSTART_KEEP.read_text(encoding="utf-8")
    documents = [d for d in whole.split("\n\n") if len(d) > 200][:DOCUMENTS]
    out: dict[str, float] = {}
    for arm in ("smallest", "random"):
        loaded = load(run.task["model"], run.task["task"])
        model, tokenizer = cast(Any, loaded.model), cast(Any, loaded.tokenizer)
        texts = [tokenizer(d, return_tensors="pt").input_ids[:, :TOKENS] for d in documents]

        def loss(model: Any = model, texts: Any = texts) -> float:
            return sum(float(model(input_ids=t, labels=t).loss) for t in texts) / len(texts)

        before, weights = loss(), dict(model.named_parameters())
        tau, generator = threshold_of(weights, SHARE), torch.Generator().manual_seed(seed)
        for w in weights.values():
            gone = w.abs() < tau if arm == "smallest" else torch.rand(w.shape, generator=generator) < SHARE
            w[gone] = 0.0
        out[arm] = loss() - before
    return out
