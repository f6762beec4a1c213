"""What a GGUF file says, against the model that it was written from.

First its values: every tensor, dequantised by `gguf`, lies within its type's error. Then the model with those values:
how far its logits and its writing are from the source's, which is what the type costs. Then other readers of the file
(transformers' own, and llama.cpp where llama-cpp-python is installed), which must agree with those values.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunewright.errors import ModelError
from tunewright.loading.quiet import quiet
from tunewright.shipping import gguf_layout, gguf_tokenizer, gguf_types
from tunewright.shipping.comparing import Compared, compare, continued, fits_in_memory, logits_of, model_of, tokens_for
from tunewright.weights.naming import in_memory
from tunewright.weights.source import Source

FLOATS = {"f32": 1e-3, "f16": 0.05, "bf16": 0.35}
"""Largest difference of logits, over their standard deviation, that rounding to a type of floats explains."""
READERS_AGREE = 2e-3
"""Root mean square difference of logits, over their standard deviation, of two readers of one file in float32."""
LLAMA_CPP_AGREES = 0.3
"""The same of llama.cpp, which rounds what enters a matrix too (0.06 to 0.09 were seen on SmolLM2 in 8 and 4 bits); a
model that is read wrongly differs by about 1."""


@dataclass
class Written:
    """A GGUF file and what was checked of it.

    `stored`: how many tensors of each type. `largest_error`: over all tensors, a value's largest error over the one
    that its type allows (none for types that llama.cpp makes, of which no bound is stated). `logits`: of the file,
    read by `gguf` and put into the model, against the source's. `same_tokens`: the share of greedily written tokens
    that are the source's. `readers`: what read the file beside, each with its logits against the file's own values.
    `tokenizer`: what read the tokenizer back as the source's.
    """

    file: Path
    kind: str
    bytes: int
    tensors: int
    stored: dict[str, int]
    made_by: str = "gguf"
    largest_error: float | None = None
    logits: Compared | None = None
    same_tokens: float | None = None
    readers: dict[str, Compared] = field(default_factory=dict)
    tokenizer: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": str(self.file)}


def check(written: Written, file: Path, source: Source) -> None:
    """Fill in what was checked. ModelError for a file that does not say what its source says."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    layout = gguf_layout.layout_of(config, str(source.folder))
    seen = in_memory(source)
    named = dict(gguf_layout.placed(seen.entries, config, layout, str(source.folder)))
    why = fits_in_memory(source.folder, 2)
    model: Any = None if why else model_of(source)
    before = None if why else logits_of(model)
    ids = None if why else tokens_for(model)
    wrote = None if ids is None else continued(model, ids)
    written.largest_error = _values(written.kind, file, seen, named, layout, config, model)
    if why or before is None or ids is None or wrote is None:
        written.notes.append(str(why))
    else:
        own = logits_of(model)
        written.logits = compare(before, own)
        written.same_tokens = float((continued(model, ids) == wrote).float().mean())
        del model
        limit = FLOATS.get(written.kind)
        if limit is not None and written.logits.largest > limit:
            raise ModelError(
                f"the file's logits differ by {written.logits.largest:.2g} standard deviations, where rounding to "
                f"{written.kind} explains {limit}",
                remedy="report this as a defect",
            )
        _transformers(written, file, config, ids, own)
        _llama_cpp(written, file, ids, own)
    _tokenizer(written, file, AutoTokenizer.from_pretrained(source.folder, local_files_only=True))


def _values(
    kind: str, file: Path, seen: Source, named: dict[str, str], layout: gguf_layout.Layout, config: Any, model: Any
) -> float | None:
    """Read every tensor back, hold it to its type, put it into the model; the largest error over the allowed one."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    stored = {t.name: t for t in GGUFReader(file).tensors}
    state = None if model is None else model.state_dict()
    worst: float | None = 0.0 if gguf_types.KINDS[kind].bounded else None
    for name, of in named.items():
        if (tensor := stored.get(of)) is None:
            raise ModelError(f"the file has no tensor '{of}'", remedy="report this as a defect")
        read = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        wanted = gguf_layout.to_gguf(of, seen.whole(name), layout, config)
        if read.shape != wanted.shape:
            raise ModelError(f"'{of}' is {read.shape} in the file and {wanted.shape} in the model")
        type_name = tensor.tensor_type.name.lower()
        if type_name in gguf_types.KINDS and worst is not None:
            allowed = gguf_types.bound(wanted, type_name)
            ratio = float((np.abs(read - wanted) / np.maximum(allowed, 1e-30)).max())
            if ratio > 1:
                raise ModelError(
                    f"'{of}', read back, is off by {ratio:.3g} times what {type_name} allows",
                    remedy="write a wider type: --type f32; float16 ends at 65504",
                )
            worst = max(worst, ratio)
        if state is not None:
            with torch.no_grad():
                state[name].copy_(torch.from_numpy(gguf_layout.from_gguf(of, read, layout, config)))
    return worst


def _agrees(written: Written, reader: str, own: Any, theirs: Any, limit: float) -> None:
    told = compare(own, theirs)
    if told.rms > limit:
        raise ModelError(
            f"{reader} reads the file as another model: {told}", remedy="report this as a defect; export a plain folder"
        )
    written.readers[reader] = told


def _transformers(written: Written, file: Path, config: Any, ids: Any, own: Any) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if config.model_type.removesuffix("_text") not in GGUF_SUPPORTED_ARCHITECTURES:
        written.notes.append(f"transformers reads no GGUF file of a {config.model_type}: no second reader")
        return
    if config.model_type == "mistral":  # a Llama in GGUF, and transformers reads it as nothing else
        config = LlamaConfig.from_dict({**config.to_dict(), "model_type": "llama", "architectures": None})
    # settings of positions, attention and widths that its reader leaves at their defaults come from the source
    with quiet(), redirect_stderr(StringIO()):  # its bar is tqdm's own, which no setting of its silences
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, local_files_only=True
        )
    _agrees(written, "transformers", own, logits_of(model.eval(), ids), READERS_AGREE)


def _llama_cpp(written: Written, file: Path, ids: Any, own: Any) -> None:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError):
        written.notes.append("llama.cpp did not read it: llama-cpp-python is not installed")
        return
    reader = llama_cpp.Llama(str(file), n_ctx=ids.shape[1], logits_all=True, verbose=False)
    said = []
    for row in ids.tolist():
        reader.reset()
        reader.eval(row)
        said.append(torch.from_numpy(np.array(reader.scores[: len(row)], dtype=np.float32)))
    _agrees(written, "llama.cpp", own, torch.stack(said), LLAMA_CPP_AGREES)
    written.readers = {k: written.readers[k] for k in sorted(written.readers)}


def _tokenizer(written: Written, file: Path, tokenizer: Any) -> None:
    """Readers of the tokenizer: llama.cpp's where it is there, and this package's for byte pairs over bytes."""
    from gguf import GGUFReader

    from tunewright.loading import gguf_llama, gguf_splitters

    reader = GGUFReader(file)
    if "tokenizer.ggml.merges" in reader.fields:
        if gguf_llama.read_field(reader, "tokenizer.ggml.pre") in gguf_splitters.SPLITTERS:
            own = gguf_llama.read_tokenizer(reader, max_length=2**20)
            if (text := gguf_tokenizer.read_differently(tokenizer, own)) is not None:
                raise ModelError(
                    f"the file's tokenizer reads {text!r} as other tokens", remedy="report this as a defect"
                )
            written.tokenizer.append("tunewright")
        else:
            written.notes.append("the tokenizer was not read back: how it splits text is known by name alone")
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError):
        return
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in gguf_tokenizer.TEXTS:
        ids = theirs.tokenize(text.encode(), add_bos=False, special=False)
        if ids != tokenizer.encode(text, add_special_tokens=False):
            written.notes.append(f"llama.cpp reads {text!r} as other tokens than the source's tokenizer")
            return
    written.tokenizer.append("llama.cpp")
