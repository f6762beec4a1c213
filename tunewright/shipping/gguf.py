"""A model as a GGUF file: written tensor by tensor, then read back by two readers and compared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from tunewright.errors import FolderError, ModelError
from tunewright.files.aside import set_aside
from tunewright.files.cache import sync
from tunewright.loading.locate import licence_of
from tunewright.shipping import gguf_check, gguf_layout, gguf_tokenizer, gguf_types
from tunewright.shipping.gguf_check import Written
from tunewright.weights.naming import in_memory
from tunewright.weights.source import Source


def write(folder: Path, file: Path, kind: str = "f16", *, splitter: str | None = None) -> Written:
    """Write the model of a transformers folder as `file` and check it. `kind`: a type of `gguf_types.KINDS`.

    FolderError for a file that exists; MethodError for an architecture, setting or tokenizer that cannot be written
    here; MissingExtraError for a type that only llama.cpp's tools make, where they are not; ModelError for a file that
    does not say what the model says (it is left as `file`.broken).
    """

    kind = gguf_types.kind_of(kind)
    if file.exists():
        raise FolderError("the output exists already", where=str(file), remedy="give another file, or move it away")
    by_tool = not gguf_types.KINDS[kind].bounded
    if by_tool:
        gguf_types.tool()  # refused before anything is written
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.part")
    floats = file.with_name(f".{file.name}.floats")
    source = Source(folder, str(folder), f"folder {folder}", licence_of(folder))
    try:
        written = _file(source, floats if by_tool else aside, "f16" if by_tool else kind, splitter)
        if by_tool:
            written.made_by = gguf_types.requantise(floats, aside, kind)
            written.kind, written.stored = kind, stored_types(aside)
        written.file, written.bytes = file, aside.stat().st_size
        try:
            gguf_check.check(written, aside, source)
        except ModelError as error:
            error.where = str(set_aside(aside, file))
            raise
        sync(aside)
        aside.rename(file)
    finally:
        source.close()
        for left in (aside, floats):
            left.unlink(missing_ok=True)
    return written


def stored_types(file: Path) -> dict[str, int]:
    """How many tensors a file has of each type."""
    from gguf import GGUFReader

    return dict(Counter(t.tensor_type.name for t in GGUFReader(file).tensors))


def _file(source: Source, file: Path, kind: str, splitter: str | None) -> Written:
    import gguf
    from transformers import AutoConfig, AutoTokenizer

    where = str(source.folder)
    config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
    layout = gguf_layout.layout_of(config, where)
    seen = in_memory(source)
    named = list(gguf_layout.placed(seen.entries, config, layout, where))
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, layout.arch)])
    writer.add_name(source.folder.name)
    if source.licence:
        writer.add_license(source.licence)
    writer.add_file_type(gguf_types.KINDS[kind].file)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    more = gguf_layout.settings(writer, config, layout, where)
    rows = seen.entries[next(n for n, g in named if g == "token_embd.weight")].shape[0]
    gguf_tokenizer.write(
        writer, AutoTokenizer.from_pretrained(source.folder, local_files_only=True), rows, where, splitter
    )
    # the header names every tensor's type and size before any is written: types are told by shapes alone
    kinds: dict[str, str] = {}
    for name, stored in named:
        shape = seen.entries[name].shape
        turned = shape[::-1] if layout.transposed and gguf_layout.is_linear(stored) else shape
        kinds[stored] = _kind_for(stored, turned, kind)
        empty, which = gguf_types.quantised(np.zeros((1, *turned[1:]) if len(turned) > 1 else turned, np.float32),
                                            kinds[stored])  # fmt: skip
        bytes_of = (turned[0], *empty.shape[1:]) if len(turned) > 1 else empty.shape
        size = int(np.prod(bytes_of)) * empty.itemsize
        writer.add_tensor_info(stored, bytes_of, empty.dtype, size, raw_dtype=which)
    for stored, values in more.items():
        writer.add_tensor_info(stored, values.shape, values.dtype, values.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored in named:
        laid = gguf_layout.to_gguf(stored, seen.whole(name), layout, config)
        writer.write_tensor_data(gguf_types.quantised(laid, kinds[stored])[0])
    for values in more.values():
        writer.write_tensor_data(values)
    writer.close()
    return Written(file, kind, 0, len(named) + len(more), stored_types(file))


def _kind_for(stored: str, shape: tuple[int, ...], kind: str) -> str:
    """Vectors and positions stay in float32, as llama.cpp's converter has them; short rows fall back to float16."""
    if len(shape) < 2 or stored == "position_embd.weight":
        return "f32"
    return "f16" if gguf_types.KINDS[kind].steps and shape[-1] % gguf_types.BLOCK else kind


def page(written: Written) -> str:
    """The result in a few lines."""
    kinds = ", ".join(f"{n} {k}" for k, n in sorted(written.stored.items(), key=lambda x: -x[1]))
    lines = [
        f"{written.file} is written: GGUF, {written.kind}, {written.bytes / 1e6:.1f} MB, {written.tensors} tensors "
        f"({kinds}), made by {written.made_by}"
    ]
    if written.largest_error is not None:
        lines.append(
            f"read back by gguf, every value is within its type's error (the largest is {written.largest_error:.2g} "
            "of it)"
        )
    if written.logits is not None:
        lines.append(f"its values in the model, against the source: {written.logits}")
        lines.append(f"{100 * (written.same_tokens or 0):.3g} % of greedily written tokens are the source's")
    for reader, told in written.readers.items():
        lines.append(f"read by {reader}, against those values: {told}")
    lines += [f"its tokenizer, read by {who}, gives the source's tokens" for who in written.tokenizer]
    return "\n".join([*lines, *(f"note: {n}" for n in written.notes)])
