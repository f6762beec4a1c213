"""The plain padded loops that tutorials show, a step at a time: what "before" means in `benchmarks.profile`.

LoRA by PEFT; full by torch; HFT with the other half's `requires_grad` off; LIFT with dense gradients times a mask and
dense moments, as its authors' code trains; DPO with both answers in one padded batch and PEFT's adapter switched off
for the reference. Phases are named for the profiler as in our own loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.worker import ALPHA, RANK, RATE, Work
from benchmarks.workload import PAD, Example


def _padded(b: list[Example]) -> dict[str, Any]:
    import torch

    longest = max(len(r.ids) for r in b)
    return {
        "input_ids": torch.tensor([[*r.ids, *[PAD] * (longest - len(r.ids))] for r in b]),
        "labels": torch.tensor(
            [[-100] * r.prompt + list(r.ids[r.prompt :]) + [-100] * (longest - len(r.ids)) for r in b]
        ),
        "attention_mask": torch.tensor([[1] * len(r.ids) + [0] * (longest - len(r.ids)) for r in b]),
    }


def _peft(work: Work) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        work.make(), LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear")
    )


def _loop(
    work: Work, model: Any, loss: Callable[[Any, dict[str, Any]], Any], masks: dict[Any, Any] | None = None
) -> Iterator[float]:
    import torch
    from torch.profiler import record_function

    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    for b in work.batches():
        with record_function("phase:data"):
            inputs = _padded(b)
        with record_function("phase:forward"):
            value = loss(model, inputs)
        value.backward()
        for p, mask in (masks or {}).items():
            p.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield float(value.detach())


def _own_loss(model: Any, inputs: dict[str, Any]) -> Any:
    return model(**inputs).loss


def lora(work: Work) -> Iterator[float]:
    return _loop(work, _peft(work), _own_loss)


def full(work: Work) -> Iterator[float]:
    return _loop(work, work.make(), _own_loss)


def hft(work: Work) -> Iterator[float]:
    import random

    from tunewright.contract.method import Candidates
    from tunewright.methods.parameter_selection.hft import HalfFineTuning
    from tunewright.models.adapted import Adapted

    model = work.make()
    chosen = set(HalfFineTuning().choose(Candidates(Adapted(model), {}), random.Random(work.seed)).names)
    for n, p in model.named_parameters():
        p.requires_grad_(n in chosen)
    return _loop(work, model, _own_loss)


def lift(work: Work) -> Iterator[float]:
    import torch

    from tunewright.contract.method import Candidates
    from tunewright.methods.parameter_selection.lift import LIFT
    from tunewright.models.adapted import Adapted

    model = work.make()
    entries = LIFT(rank=RANK, refresh_steps=None).choose(Candidates(Adapted(model), {})).entries
    parameters = dict(model.named_parameters())
    masks = {}
    for n, places in entries.items():
        mask = torch.zeros(parameters[n].numel())
        mask[places] = 1.0
        masks[parameters[n].requires_grad_(True)] = mask.view_as(parameters[n])
    return _loop(work, model, _own_loss, masks)


def dpo(work: Work) -> Iterator[float]:
    import torch
    from torch.profiler import record_function

    def sums(model: Any, inputs: dict[str, Any]) -> Any:
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        labels = inputs["labels"][:, 1:]
        found = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp_min(0)[..., None])[..., 0]
        return (found * (labels != -100)).sum(1)

    def loss(model: Any, inputs: dict[str, Any]) -> Any:
        with torch.no_grad(), model.disable_adapter(), record_function("phase:reference"):
            reference = sums(model, inputs)
        ratio = sums(model, inputs) - reference
        return -torch.nn.functional.logsigmoid(0.1 * (ratio[::2] - ratio[1::2])).mean()

    return _loop(work, _peft(work), loss)


PLAIN: dict[str, Callable[[Work], Iterator[float]]] = {f.__name__: f for f in (lora, full, hft, lift, dpo)}
