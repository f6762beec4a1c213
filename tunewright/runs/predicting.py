"""Predictors at work: several models that read every token, as one.

A predictor names its `speakers()`: "tuned" (the run's model as it is), "base" (the same model untouched) or one of the
recipe's `models`. Each of them reads every token, and `predict` makes one set of logits of theirs. What measures the
tuned model then measures that; nothing of it is stored.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from tunewright import catalogue
from tunewright.contract.method import Method, call
from tunewright.errors import MethodError
from tunewright.measure._kv import caches_plainly
from tunewright.models.attention import prepare_attention
from tunewright.models.together import Together
from tunewright.recipe import MethodUse
from tunewright.runs.predictors import others, predicts
from tunewright.runs.session import Session


def load(session: Session) -> None:
    """Load the models that predictors name, before anything is measured.

    MethodError for one that speaks other tokens or cannot pack.
    """
    for use in filter(predicts, session.recipe.after):
        for name in others(catalogue.build(use)):
            _other(session, name)


def build(use: MethodUse, session: Session, tuned: nn.Module) -> Together:
    """The models of a predictor as one, `tuned` first. MethodError where one of them has no plain cache."""
    method: Any = catalogue.build(use)
    models: dict[str, nn.Module] = {}
    for speaker in sorted(method.speakers(), key=lambda s: s != "tuned"):
        models[speaker] = (
            tuned if speaker == "tuned" else _untouched(session) if speaker == "base" else _other(session, speaker)
        )
    for speaker, model in models.items():
        if not caches_plainly(model):  # type: ignore[arg-type]
            raise MethodError(
                f"'{use.name}' decodes step by step, and the model '{speaker}' has no plain cache of keys and values",
                where="after",
                remedy="use causal decoders without sliding windows, and no method that wraps the model",
            )
    session.notes.append(
        f"the tuned figures are of {use.name}, which decodes with {len(models)} models ({', '.join(models)}): what "
        "is saved, exported "
        "and chatted with is the trained model alone"
    )
    return Together(models, lambda logits: _predicted(method, logits)).eval()


def _predicted(method: Method, logits: Any) -> Any:
    return call(method, "predict", logits=logits, state=None)


def _untouched(session: Session) -> nn.Module:
    """A frozen copy of the run's model before anything changed it: it speaks beside the tuned one at every token."""
    with session.adapted.base() as model:
        return copy.deepcopy(model).requires_grad_(False)


def _other(session: Session, name: str) -> nn.Module:
    model: Any = session.other(name).model  # one with another tokenizer is refused there, by the tokens that differ
    if session.packed and not prepare_attention(model):
        raise MethodError(
            f"the attention of the model '{name}' cannot take packed rows",
            where=f"models.{name}",
            remedy="write data.packing: false",
        )
    return model
