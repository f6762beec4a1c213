"""Tinker's messages, by its own library: what a client sends as a datum, and what it is answered.

MissingExtraError where the library is not there: pip install tinker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.serve.errors import ApiError
from tunewright.serve.requests import Result
from tunewright.serve.tinker.learner import LOSSES, Datum

MOST_DATA, MOST_TOKENS = 4096, 1 << 20
_NEEDED = {"cross_entropy": ("weights",)}
_OTHERWISE = ("logprobs", "advantages")


def messages() -> Any:
    """The library's protocol buffers."""
    from tinker.proto import tinker_public_pb2

    return tinker_public_pb2


def forward_backward(body: bytes) -> Any:
    """The message of a request. ApiError where the bytes are none."""
    from google.protobuf.message import DecodeError

    message = messages().ForwardBackwardRequest()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise ApiError(400, "The body is no ForwardBackwardRequest.") from None
    return message


def data_of(message: Any, vocabulary: int, longest: int) -> list[Datum]:
    """What is learnt from. ApiError names the datum and field that cannot be used."""
    if message.loss_fn not in LOSSES:
        raise ApiError(400, f"loss_fn is one of {', '.join(LOSSES)} here.", param="loss_fn")
    if not 0 < len(message.data) <= MOST_DATA:
        raise ApiError(400, f"A request has 1 to {MOST_DATA} data.", param="data")
    data = [_datum(d, i, message.loss_fn, vocabulary, longest) for i, d in enumerate(message.data)]
    if sum(len(d.tokens) for d in data) > MOST_TOKENS:
        raise ApiError(400, f"A request has at most {MOST_TOKENS:,} tokens.", param="data")
    return data


def _datum(datum: Any, i: int, loss: str, vocabulary: int, longest: int) -> Datum:
    where = f"data[{i}]"
    tokens: list[int] = []
    for chunk in datum.model_input:
        if chunk.WhichOneof("chunk") != "encoded_text":
            raise ApiError(400, f"{where}: text alone is read.", param="data")
        tokens += _numbers(chunk.encoded_text.tokens, np.int32, where).tolist()
    check_tokens(tokens, where, vocabulary, longest)
    given = {name: _tensor(t, f"{where}.{name}") for name, t in datum.loss_fn_inputs.items()}
    for name in ("target_tokens", *_NEEDED.get(loss, _OTHERWISE)):
        if name not in given and name != "weights":
            raise ApiError(400, f"{where} has no '{name}'.", param="data")
    given.setdefault("weights", torch.ones(len(tokens)))
    for name, t in given.items():
        if t.shape != (len(tokens),):
            raise ApiError(400, f"{where}.{name}: {list(t.shape)} numbers for {len(tokens)} tokens.", param="data")
        if not bool(torch.isfinite(t).all()):
            raise ApiError(400, f"{where}.{name}: a number is not finite.", param="data")
    targets = given.pop("target_tokens").long()
    check_tokens(targets.tolist(), f"{where}.target_tokens", vocabulary, longest)
    return Datum(tokens, targets, {k: t.float() for k, t in given.items()})


def check_tokens(tokens: Sequence[int], where: str, vocabulary: int, longest: int) -> None:
    """ApiError for no tokens, too many, or ones that the model does not have."""
    if not 0 < len(tokens) <= longest:
        raise ApiError(400, f"{where}: {len(tokens)} tokens; 1 to {longest} are read.", param="data")
    if bad := [t for t in tokens if not 0 <= t < vocabulary]:
        raise ApiError(400, f"{where}: {bad[0]} is no token of this model.", param="data")


def _numbers(raw: bytes, kind: Any, where: str) -> np.ndarray:
    if len(raw) % np.dtype(kind).itemsize:
        raise ApiError(400, f"{where}: the bytes are cut short.", param="data")
    return np.frombuffer(raw, dtype=kind)


def _tensor(message: Any, where: str) -> Tensor:
    pb = messages()
    kinds = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64, pb.DTYPE_INT32: np.int32}
    if message.WhichOneof("encoding") != "dense" or message.dtype not in kinds:
        raise ApiError(400, f"{where}: dense numbers of float32, int64 or int32 are read.", param="data")
    values = torch.from_numpy(_numbers(message.dense, kinds[message.dtype], where).copy())
    shape = list(message.shape)
    if shape and int(np.prod(shape)) != values.numel():
        raise ApiError(400, f"{where}: {values.numel()} numbers do not make {shape}.", param="data")
    return values.reshape(shape) if shape else values


def learnt(log_probs: Sequence[Tensor], metrics: Mapping[str, float]) -> bytes:
    """The answer to forward_backward: each datum's log-probabilities [T]."""
    pb = messages()
    offsets = np.cumsum([0, *(4 * len(x) for x in log_probs)]).astype(np.int64)
    flat = np.concatenate([x.float().cpu().numpy() for x in log_probs]).astype(np.float32)
    batched = pb.BatchedTensor(data=flat.tobytes(), offsets=offsets.tobytes(), dtype=pb.DTYPE_FLOAT32)
    record = pb.ArrayRecord(type_tag="ArrayRecord", fields={"logprobs": batched}, num_datums=len(log_probs))
    out = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", loss_fn_outputs=[record], metrics=metrics)
    return bytes(out.SerializeToString())


def sampled(results: Sequence[Result], prompt: Sequence[float] | None, cached: int) -> bytes:
    """The answer to asample; `prompt`: log-probabilities of the prompt's tokens, nan for the first."""
    pb = messages()
    sequences = []
    for result in results:
        tokens = np.array([s.token for s in result.said], dtype=np.int32)
        shares = np.array([s.logprob for s in result.said], dtype=np.float32)
        stop = pb.STOP_REASON_STOP if result.reason == "stop" else pb.STOP_REASON_LENGTH
        sequences.append(pb.SampledSequence(stop_reason=stop, tokens=tokens.tobytes(), logprobs=shares.tobytes()))
    out = pb.SampleResponse(sequences=sequences, prompt_cache_hit_tokens=cached)
    if prompt is not None:
        out.prompt_logprobs = np.array(prompt, dtype=np.float32).tobytes()
    return bytes(out.SerializeToString())
