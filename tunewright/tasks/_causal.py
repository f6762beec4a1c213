"""A causal model's forward with logits only where a target needs them.

Where the model is a decoder followed by a plain linear head (checked by structure, and once by numbers), the head runs
on the supervised positions alone and, for log-probabilities, without ever keeping the logits. Elsewhere the model's own
forward is called, with `logits_to_keep` where it takes that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunewright.contract.batch import Batch, Outputs
from tunewright.models import context
from tunewright.models.arguments import takes
from tunewright.models.divided import divided
from tunewright.models.flops import uncounted

_PLAIN: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def causal_outputs(model: nn.Module, batch: Batch, *, hidden: bool = False) -> Outputs:
    """Run `model` on a packed or padded batch.

    `Outputs.logits` [S, V] and `log_probs()` [S] are lazy where they can be.
    """
    with context.reading(context.of_batch(batch)):
        return _outputs(model, batch, hidden)


def _outputs(model: nn.Module, batch: Batch, hidden: bool) -> Outputs:
    assert batch.positions is not None
    inputs = model_inputs(batch)
    if hidden:
        inputs["output_hidden_states"] = True
    if has_plain_head(model, inputs):
        assert isinstance(model, PreTrainedModel)
        out = model.base_model(**inputs)
        head: nn.Module = model.get_output_embeddings()
        states = out.last_hidden_state.flatten(0, 1)[batch.positions]
        log_probs = None if _touched(head) else _fused(states, head, batch.labels)
        now = context.told()
        return Outputs(
            lambda: head(states), batch.labels, log_probs=log_probs, hidden=out.hidden_states, raw=out, present=now
        )
    packed = batch.cu_seqlens is not None
    if packed and takes(model, "logits_to_keep"):
        out = model(**inputs, logits_to_keep=batch.positions)
        logits = out.logits[0]
    else:
        out = model(**inputs)
        logits = out.logits.flatten(0, 1)[batch.positions]
    states_kept = out.hidden_states if hidden else None
    return Outputs(logits, batch.labels, hidden=states_kept, raw=out, present=context.told())


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Keywords of the model's forward; packed rows come with their boundaries, under transformers' names."""
    inputs: dict[str, Any] = {**batch.inputs, "use_cache": False}
    if batch.cu_seqlens is not None:
        longest = batch.fields["max_length"]
        inputs |= {
            "cu_seq_lens_q": batch.cu_seqlens,
            "cu_seq_lens_k": batch.cu_seqlens,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    return inputs


def has_plain_head(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether the logits are head(decoder(inputs)) and nothing more (no cap, no scale, no replaced forward)."""
    parts = divided(model)
    hooked = bool(model._forward_hooks or model._forward_pre_hooks) if parts is None else not parts.is_together
    if not isinstance(model, PreTrainedModel) or "forward" in model.__dict__ or hooked:
        return False
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module) or model.base_model is model:
        return False
    if model not in _PLAIN:
        _PLAIN[model] = isinstance(head, nn.Linear) and _agree(model, head, inputs)
    return _PLAIN[model]


def _agree(model: PreTrainedModel, head: nn.Module, inputs: dict[str, Any]) -> bool:
    """Compare both ways once on a few tokens, in eval mode: no dropout, so no random numbers are drawn."""
    ids = inputs["input_ids"][:1, :16]
    now = context.told()
    first = None if now is None else now.cut(*ids.shape)
    with torch.no_grad(), evaluating(model), uncounted(), context.reading(first):
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        ours, theirs = head(states), model(input_ids=ids, use_cache=False).logits
    return ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-5)


def _touched(head: nn.Module) -> bool:
    """Whether something hangs on the head (a delta, a hook), so that its weight alone does not tell its output."""
    hooked = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "parametrizations")
    return type(head) is not nn.Linear or "forward" in head.__dict__ or bool(hooked)


def _fused(states: Tensor, head: nn.Module, labels: Tensor) -> Callable[[], Tensor] | None:
    try:
        from tunewright.models.head import head_log_probs
    except ModuleNotFoundError:
        return None

    return lambda: head_log_probs(states, head, labels)


@contextmanager
def evaluating(model: nn.Module) -> Any:
    """Eval mode inside, every module's own mode restored after."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
