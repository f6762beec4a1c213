"""Measurements of untouched bases, kept outside the run folders, so that a base is measured once.

An entry's name is a hash of all that decides its numbers: the base's weights with its config, tokenizer and other files
beside them, the rows, the settings, and the source of the modules that compute it with the libraries' versions. An
entry that does not read back whole is made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunewright.contract.batch import Row
from tunewright.errors import FolderError
from tunewright.files.cache import cache_folder, written_aside
from tunewright.files.tensors import save_tensors
from tunewright.loading import load, pipeline_parts, pipelines
from tunewright.loading import next_scale as next_scale_folder
from tunewright.machine import installed
from tunewright.measure import (
    _kv,
    _mode,
    actions,
    asking,
    calls,
    checkers,
    choose,
    drift,
    environments,
    episodes,
    few_shot,
    forecasts,
    frechet,
    generate,
    kept,
    languages,
    likely,
    linear_probe,
    metrics,
    numeric,
    overlap,
    ranked,
    sample,
    sampled,
    several,
    spans,
    squad,
    target,
    text,
    trees,
)
from tunewright.models import (
    attention,
    denoiser,
    drawer,
    head,
    layout,
    next_scale,
    next_scale_blocks,
    pooling,
    residual_quantizer,
    varlen,
)
from tunewright.models.aligned import aligned
from tunewright.pieces import contrast, heads, means, similarity, views
from tunewright.tasks import (
    _causal,
    _denoising,
    _drawing,
    _embedded,
    _forecasters,
    _forecasts,
    _next_scale,
    _passages,
    _placed,
    _policies,
    _pooled,
    _problems,
    _random_features,
    _series,
    _shown,
    _table,
    _tabular,
    _trajectories,
    _views,
    base,
    fill_mask,
    image_classification,
    image_feature_extraction,
    image_text_to_text,
    multiple_choice,
    question_answering,
    reinforcement_learning,
    reward_modeling,
    sentence_similarity,
    tabular_classification,
    tabular_regression,
    text2text_generation,
    text_classification,
    text_generation,
    text_ranking,
    text_to_image,
    time_series_forecasting,
    token_classification,
    unconditional_image_generation,
    zero_shot_image_classification,
)

log = logging.getLogger(__name__)

MODULES: tuple[ModuleType, ...] = (
    *(_kv, _mode, choose, drift, few_shot, generate, kept, linear_probe, metrics, overlap, sample, sampled),
    *(numeric, several, spans, squad, target, text),
    *(asking, calls, checkers, languages),
    *(attention, head, heads, layout, load, means, varlen),
    *(_causal, _passages, _pooled, _problems, base, fill_mask, image_classification, multiple_choice),
    *(likely, trees, _table, _tabular, tabular_classification, tabular_regression),
    *(question_answering, reward_modeling, text_classification, text_generation),
    *(text2text_generation, token_classification, ranked, pooling, similarity, sentence_similarity, text_ranking),
    *(zero_shot_image_classification, image_text_to_text, _placed, _shown),
    *(contrast, views, _embedded, _views, image_feature_extraction),
    *(denoiser, drawer, pipelines, pipeline_parts, frechet, _denoising, _drawing, _random_features),
    *(next_scale, next_scale_blocks, next_scale_folder, residual_quantizer, _next_scale),
    *(text_to_image, unconditional_image_generation),
    *(forecasts, _forecasters, _forecasts, _series, time_series_forecasting),
    *(actions, environments, episodes, _policies, _trajectories, reinforcement_learning),
)
"""The modules whose source decides what measuring a base gives: what measures, what makes the model, what runs it
on rows.
"""

Measured = tuple[dict[str, Any], dict[str, Tensor]]


@lru_cache
def code_hash(modules: tuple[ModuleType, ...] = MODULES) -> str:
    """Hash of the modules' source and of the versions of what they compute with; and of other packages' tasks and
    metrics.
    """
    h = hashlib.sha256()
    for module in modules:
        h.update(module.__name__.encode() + b"\0" + inspect.getsource(module).encode() + b"\0")
    for name in ("torch", "transformers", "tokenizers"):
        h.update(f"{name}={importlib.metadata.version(name)}\0".encode())
    h.update(installed.code_hash((installed.TASKS, installed.METRICS)).encode())
    return h.hexdigest()


def rows_hash(rows: Iterable[Row]) -> str:
    """Hash of rows as they are measured: ids, tokens, weights, labels and the fields that are plain values."""
    h = hashlib.sha256()
    for row in rows:
        values = [row.id, row.source, list(row.input_ids), list(row.weights), row.label, dict(row.fields)]
        h.update(json.dumps(values, default=_plain, sort_keys=True).encode() + b"\n")
    return h.hexdigest()


def _plain(value: Any) -> Any:
    """Of a tensor or an array the hash of its bytes, with type and shape: pixels as JSON take longer than to be seen
    by a model.
    """
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return [str(value.dtype), list(value.shape), hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return [value.dtype.str, list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a row's field of type {type(value).__name__} cannot be hashed")


class BaseCache:
    """Entries of JSON values and tensors by key, each a folder that appears whole or not at all."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder if folder is not None else cache_folder() / "measure"

    def key(self, base_hash: str, rows_hash: str, settings: dict[str, Any], code: str | None = None) -> str:
        """The entry's name.

        `settings`: everything else that changes the numbers (metric, lengths, precision, device).
        """
        what = [base_hash, rows_hash, code if code is not None else code_hash(), settings]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:40]

    def get(self, key: str) -> Measured | None:
        """An entry, or None when there is none or it does not read back as it was written."""
        folder = self.folder / key
        try:
            manifest = json.loads((folder / "values.json").read_text(encoding="utf-8"))
            values, files = manifest["values"], manifest["sha256"]
            if _digest(json.dumps(values, sort_keys=True).encode()) != files["values"]:
                raise ValueError("its values were altered")
            path = folder / "tensors.safetensors"
            if files["tensors"] is None:
                return values, {}
            if _digest(path.read_bytes()) != files["tensors"]:
                raise ValueError("its tensors were altered")
            return values, {n: aligned(t) for n, t in load_file(path).items()}  # they give what they gave when measured
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
            log.warning("the cached measurement %s cannot be used (%s); it is made again", folder, e)
            return None

    def put(self, key: str, values: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Write an entry aside and rename it.

        A cache that cannot be written is no error: it is said, and that is all.
        """
        files: dict[str, str | None] = {"values": _digest(json.dumps(values, sort_keys=True).encode()), "tensors": None}
        try:
            with written_aside(self.folder / key, replace=True) as aside:
                if tensors:
                    save_tensors(
                        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, aside / "tensors.safetensors"
                    )
                    files["tensors"] = _digest((aside / "tensors.safetensors").read_bytes())
                text = json.dumps({"values": values, "sha256": files}, ensure_ascii=False)
                (aside / "values.json").write_text(text, encoding="utf-8")
        except (OSError, FolderError) as e:
            log.warning("the measurement was not cached: %s", e)

    def cached(
        self, key: str, compute: Callable[[], Measured], may_take: Callable[[bool], bool] = bool
    ) -> tuple[Measured, bool]:
        """The entry and True, or what `compute` gives (kept from now on) and False. Values are JSON either way.

        `may_take`: whether it may be used, given whether it is there, where others would have to compute it too.
        """
        entry = self.get(key)
        if may_take(entry is not None) and entry is not None:
            return entry, True
        values, tensors = compute()
        values = json.loads(json.dumps(values))
        self.put(key, values, tensors)
        return (values, tensors), False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
