"""Any GGUF file -> a plain transformers folder: the direct way for Llama with a byte-level BPE, else transformers'
own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.errors import ModelError
from tunewright.loading import gguf_llama
from tunewright.loading.portable import portable_tokenizer


def convert(file: Path, folder: Path) -> None:
    """Write the model of `file`, dequantised, into an existing empty folder. ModelError when it cannot be read."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError) as e:
        raise ModelError(f"not a readable GGUF file: {e}", where=str(file), remedy="download it again") from e
    if gguf_llama.fits(reader):
        gguf_llama.convert(file, folder, dtype="float32")
    else:
        _by_transformers(file, folder)
    (folder / "README.md").write_text(_card(reader, file), encoding="utf-8")


def _by_transformers(file: Path, folder: Path) -> None:
    """Build the model as transformers does, and save it unquantised."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunewright.loading.quiet import quiet

    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, OSError, ImportError, KeyError, NotImplementedError) as e:
        raise ModelError(
            f"transformers cannot read this GGUF file: {e}",
            where=str(file),
            remedy="use the model's safetensors folder or hub id",
        ) from e
    # saving right after a GGUF load is refused as "quantized", although every weight is plain by now
    state = model.state_dict()
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    plain: Any = type(model)(model.config)
    plain.to(dtype=model.dtype)
    plain.load_state_dict(state)
    with quiet():
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    portable_tokenizer(folder)


def _card(reader: object, file: Path) -> str:
    fields = reader.fields  # type: ignore[attr-defined]
    licence = fields["general.license"].contents() if "general.license" in fields else None
    header = f"---\nlicense: {licence}\n---\n\n" if licence else ""
    return f"{header}# {file.stem}\n\nConverted from the GGUF file `{file.name}`, weights dequantised.\n"
