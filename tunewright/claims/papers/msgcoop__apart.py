"""The diversity term keeps contexts apart where they read classes that they were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunewright.claims.claim import Arm, Claim
from tunewright.claims.papers import _two_towers as lab
from tunewright.claims.papers.msgcoop import SEVERAL

if TYPE_CHECKING:
    from tunewright.claims.claim_run import ClaimRun

CLAIM = Claim(
    paper="msgcoop",
    says="Of thirty classes that no row of training has, the mean squared cosine of what two contexts make of a class "
    "is lower by at least a tenth with the diversity term than without.",
    task="topics",
    method=SEVERAL,
    baselines=[Arm(name="without", methods=[{"msgcoop": {"descriptions": lab.DESCRIBED, "diversity": 0.0}}])],
    metric="measured",
    direction="lower",
    relative=True,
    smallest=0.1,
    seeds=5,
    rates=(),
    strengths=(1.0,),
    scales=("nano",),
    differs="contexts start with noise on them (the authors' start as copies, which nothing but rounding parts); two "
    "small towers that know coloured digits",
)


def measure(run: ClaimRun, seed: int) -> dict[str, float]:
    """Mean over new classes and pairs of contexts of the squared cosine, at the end."""
    import numpy as np
    import torch

    from tunewright.finished.finished import open_run
    from tunewright.methods.adapters.msgcoop import alike
    from tunewright.models.text_contexts import padded, text_features

    names, found = np.load(lab.files()["eval"])["names"].tolist(), {}
    for arm in run.claim.arms:
        tuned = open_run(lab.few(run, arm.name, seed, keep_artefacts=True).folder)
        by, model = tuned.adapted.wrapped_by, tuned.adapted.model
        assert by is not None
        texts = padded(model.config, [tuned.tokenizer(n)["input_ids"] for n in names], tuned.adapted.device)
        with torch.no_grad():
            contexts, after = by.state.get_parameter("contexts"), by.state.data["after"]
            found[arm.name] = float(alike(torch.stack([text_features(model, texts, c, after) for c in contexts])))
    return found
