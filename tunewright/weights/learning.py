"""Merges that learn from rows, given models and rows: what `weights.blocks.Learning` is made of, outside a claim or a
run.

Models stand whole in memory in the type asked for; rows are read and encoded as a recipe's are.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tunewright.contract.batch import Batch, Row
from tunewright.errors import MethodError, ModelError
from tunewright.models.sites import discover
from tunewright.tasks import get_task
from tunewright.weights.blocks import Learning


def calibration(task: Any, rows: Sequence[Row], samples: int, seed: int = 0, tokens: int = 2048) -> Iterator[Batch]:
    """`samples` of the rows, drawn without replacement by the seed, padded, in batches of about `tokens`."""
    picked = random.Random(f"{seed}/calibration").sample(range(len(rows)), min(samples, len(rows)))
    group: list[Row] = []
    for i in picked:
        if group and sum(r.size for r in group) + rows[i].size > tokens:
            yield task.collate(group, False, seed=seed)
            group = []
        group.append(rows[i])
    if group:
        yield task.collate(group, False, seed=seed)


def over_rows(
    models: Sequence[nn.Module], base: nn.Module | None, task: Any, rows: Sequence[Row], *, seed: int = 0
) -> Learning:
    """From models in memory, all on one device, and encoded rows.

    The models are changed by merges that align them: give copies to keep them.
    """
    device = next(models[0].parameters()).device
    return Learning(
        list(models),
        discover(models[0] if base is None else base),
        lambda n: (batch.to(device) for batch in calibration(task, rows, n, seed)),
        task,
        base=base,
    )


def copy_with(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module that holds these tensors, by name; what is not named stays.

    ModelError for one that does not fit.
    """
    twin = copy.deepcopy(module)
    own = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for name, t in tensors.items():
        if name not in own or own[name].shape != t.shape:
            raise ModelError(
                f"'{name}' of shape {tuple(t.shape)} does not fit the model", remedy="merge models of one architecture"
            )
        own[name].data = t.detach().to(own[name].dtype).clone()
    return twin.eval()


def from_folders(
    folders: Sequence[Path | str],
    base: Path | str | None,
    task: str,
    data: Sequence[Path | str],
    *,
    changes: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    precision: str = "float32",
    max_length: int = 1024,
) -> Learning:
    """From model folders (or built-in names) and data files, for `tunewright merge --data FILE --task TASK`.

    `changes` are put on the models, by tensor: what adapters make of their base. Rows are encoded with the first
    model's tokenizer and chat template. Raises what loading a model and reading data raise; MethodError without data.
    """
    from tunewright.data.dataset import build
    from tunewright.data.labels import labels_of
    from tunewright.files.cache import cache_folder
    from tunewright.loading.load import load
    from tunewright.loading.options import options_of
    from tunewright.recipe import DataSpec, Source

    if not data:
        raise MethodError(
            "this merge learns from rows, and none are given", remedy="give them: --data FILE --task TASK"
        )
    of = get_task(task)
    sources = [Source(path=str(f)) for f in data]
    labels = labels_of(sources, task=of) if of.labelled else None
    names = [str(f) for f in folders]
    loaded = [load(n, of, labels=labels, precision=precision) for n in ([] if base is None else [str(base)]) + names]
    if labels is not None:  # a checkpoint's head keeps its own order of the labels
        known: Any = loaded[0].model.config.id2label  # type: ignore[union-attr]
        labels = tuple(known[i] for i in sorted(known))
    spec = DataSpec(train=sources, max_length=max_length)
    reader = loaded[0].tokenizer if loaded[0].tokenizer is not None else loaded[0].processor
    rows = build(sources, of, reader, options_of(spec, labels, loaded[0]), cache_folder()).rows
    models: list[nn.Module] = [member.model for member in loaded]
    first = None if base is None else models.pop(0)
    if changes is not None:
        models = [copy_with(m, c) if c else m for m, c in zip(models, changes, strict=True)]
    return over_rows(models, first, of, rows, seed=seed)
