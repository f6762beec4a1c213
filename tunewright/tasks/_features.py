"""What a model reads of recordings: made by its own feature extractor (transformers' class), when a batch is made.

Rows keep samples, at the model's rate: four bytes each, whatever the extractor makes of them. Whisper's features of a
recording of one second take 960 kB, its samples 64 kB; making them takes a few percent of the model's forward.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.records import Record, RowProblem
from tunewright.errors import ModelError
from tunewright.tasks._recordings import read_recording

A_SECOND = 50
"""Tokens that a second counts as, in sizes of rows and batches: what encoders of Whisper and wav2vec 2.0 make."""
WHERE = "preprocessor_config.json"
_PLAIN = ("feature_extractor_type", "processor_class", "sampling_rate")
_SPECTROGRAM_STEP = 0.01


def audio_options(extractor: Any, config: Any) -> dict[str, Any]:
    """How a model wants recordings, as JSON values: `rate` in samples a second; `longest`, the seconds that it reads at
    most (None: any), to which every recording is padded; `extractor`, its class and what differs from its defaults.

    Of models that write: `most`, the tokens of the longest text, and `multilingual`, whether a text's language is told;
    of those with a CTC loss `convolutions`, the kernels and strides by which places are counted.
    ModelError where the extractor is none of recordings, or makes other lengths than the model reads.
    """
    rate = getattr(extractor, "sampling_rate", None)
    if not isinstance(rate, int) or rate <= 0:
        what = f"the model's {type(extractor).__name__} names no sampling rate"
        raise ModelError(what, where=WHERE, remedy="use a model with a feature extractor of recordings")
    told = json.loads(extractor.to_json_string())
    plain = json.loads(type(extractor)().to_json_string())
    settings = {k: v for k, v in told.items() if k not in _PLAIN and (k not in plain or plain[k] != v)}
    longest = _window(extractor)
    out: dict[str, Any] = {
        "rate": rate,
        "longest": longest,
        "extractor": {"kind": type(extractor).__name__, "rate": rate, "settings": settings},
        "most": getattr(config, "max_target_positions", None),
        "convolutions": _convolutions(config),
        "multilingual": (getattr(config, "vocab_size", 0) or 0) >= MULTILINGUAL,
    }
    if (reads := getattr(config, "max_source_positions", None)) and longest is not None:
        frames = int(features([np.zeros(rate // 2, np.float32)], out["extractor"])["input_features"].shape[-1])
        if frames != 2 * reads:
            what = f"the extractor makes {frames} frames of a recording, and the model reads {2 * reads}"
            raise ModelError(what, where=WHERE, remedy="download the model again: its files are of two models")
    return out


def _convolutions(config: Any) -> list[list[int]] | None:
    """(kernel, stride) of the layers that make places of samples, of models with a CTC loss."""
    if not hasattr(config, "ctc_loss_reduction") or not getattr(config, "conv_kernel", None):
        return None
    return [list(pair) for pair in zip(config.conv_kernel, config.conv_stride, strict=True)]


MULTILINGUAL = 51865
"""Tokens from which on a Whisper model is one of many languages, as its authors' code tells it."""


def _window(extractor: Any) -> float | None:
    """Seconds that every recording is padded to; None where they keep their lengths."""
    if samples := getattr(extractor, "n_samples", None):
        return float(samples) / extractor.sampling_rate
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return float(extractor.max_length) * _SPECTROGRAM_STEP
    return None


def of_record(record: Record, options: dict[str, Any] | None) -> dict[str, Any]:
    """What a row keeps of a record's recording: `audio` its samples, `extractor`, `size` in tokens, `text` for readers.

    RowProblem for what is no recording that the model reads.
    """
    if "audio" not in record:
        has = ", ".join(sorted(record)) or "nothing"
        remedy = "add it, or name its column in the source: columns: {audio: your_column}"
        raise RowProblem("audio", f"the row has no recording (it has: {has})", remedy)
    assert options is not None
    rate, longest = options["rate"], options["longest"]
    samples = read_recording(record["audio"], record.base, rate, longest, record.get("sampling_rate"))
    seconds = len(samples) / rate
    return {
        "audio": samples,
        "extractor": options["extractor"],
        "size": np.array(math.ceil(A_SECOND * (longest or seconds)), np.int32),
        "text": f"{_name(record['audio'])}{seconds:.2f} s",
    }


def _name(value: Any) -> str:
    path = value.get("path") if isinstance(value, Mapping) else value
    return f"{path}, " if isinstance(path, str) else ""


def features(recordings: Sequence[Any], extractor: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's inputs [R, ...] of samples [n] each, by the names of its forward."""
    made = _built(json.dumps(extractor, sort_keys=True))
    how: dict[str, Any] = {} if _window(made) is not None else {"padding": True}
    given = [np.array(r, np.float32) for r in recordings]
    out = made(given, sampling_rate=made.sampling_rate, return_tensors="pt", **how)
    return {name: value if isinstance(value, Tensor) else torch.as_tensor(value) for name, value in out.items()}


@lru_cache(maxsize=4)
def _built(extractor: str) -> Any:
    import transformers

    about = json.loads(extractor)
    settings = {**about["settings"], "sampling_rate": about["rate"]}
    return getattr(transformers, about["kind"]).from_dict(settings)


def apart(batch: Batch) -> list[tuple[Tensor, Batch]]:
    """(places, batch) of rows that may be read side by side: all of them, or, where lengths differ and no attention
    mask says where sound ends, those of one length, without padding.
    """
    samples = batch.fields["samples"]
    padded = batch.inputs.get("input_values")
    every = torch.arange(len(samples), device=samples.device)
    if padded is None or padded.dim() != 2 or "attention_mask" in batch.inputs or bool((samples == samples[0]).all()):
        return [(every, batch)]
    return [(at, _part(batch, at, int(n))) for n in samples.unique() for at in [every[samples == n]]]


def _part(batch: Batch, at: Tensor, length: int) -> Batch:
    places = at.tolist()
    return batch.replace(
        inputs={"input_values": batch.inputs["input_values"][at, :length]},
        labels=batch.labels[at],
        weights=batch.weights[at],
        rows=torch.arange(len(places), device=at.device),
        row_ids=[batch.row_ids[i] for i in places],
        sources=[batch.sources[i] for i in places],
        epochs=[batch.epochs[i] for i in places],
        fields={"samples": batch.fields["samples"][at]},
    )


def together(states: Sequence[Tensor]) -> Tensor:
    """[r, L, D] of several lengths as one [R, L, D], zeros behind the shorter ones."""
    longest = max(s.shape[1] for s in states)
    return torch.cat([torch.nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for s in states])
