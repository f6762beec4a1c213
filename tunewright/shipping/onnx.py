"""A model as an ONNX graph: torch's own exporter, run by onnxruntime and compared."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tunewright.errors import MethodError, MissingExtraError, ModelError
from tunewright.loading.quiet import quiet
from tunewright.loading.tables import TABLE_FILE
from tunewright.models.arguments import sees_pictures
from tunewright.shipping.comparing import compare, fits_in_memory, logits_of, model_of, tokens_for
from tunewright.weights.card import READERS
from tunewright.weights.source import Source

AGREES = 1e-2
"""Root mean square difference of logits, over their standard deviation, of two libraries' float32 on one processor."""
KEPT = ("config.json", "generation_config.json", "README.md", TABLE_FILE, *READERS)


class _Says(torch.nn.Module):
    """Token ids and their mask -> logits, without a cache."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        from tunewright.models.arguments import said_in, takes

        more = {"use_cache": False} if takes(self.model, "use_cache") else {}
        return said_in(self.model(input_ids=input_ids, attention_mask=attention_mask, **more))


def write(folder: Path, target: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """Write model.onnx, config and tokenizer into an existing folder; return (checks, figures, notes).

    Inputs: input_ids and attention_mask, int64 [batch, sequence], both of any size. Output: logits [batch, sequence,
    vocabulary], or what the model's head says. MissingExtraError without onnx, onnxruntime and onnxscript; MethodError
    for a model that torch cannot trace, or that reads no single text; ModelError for a graph whose logits differ.
    """
    import shutil

    if missing := [m for m in ("onnx", "onnxruntime", "onnxscript") if find_spec(m) is None]:
        raise MissingExtraError(
            f"ONNX needs {', '.join(missing)}", where="--to onnx", remedy='pip install "tunewright[onnx]"'
        )
    if (why := fits_in_memory(folder, 3)) is not None:
        raise ModelError(why, where=str(folder), remedy="export on a machine with more memory")
    source = Source(folder, str(folder), "", None)
    model = model_of(source)
    source.close()
    if getattr(model.config, "is_encoder_decoder", False):
        raise MethodError(
            "a model of an encoder and a decoder is two graphs, and one is written here",
            where=str(folder),
            remedy="export a plain folder and use `optimum-cli export onnx`",
        )
    if sees_pictures(model):
        raise MethodError(
            "a model that reads pictures among words is several graphs, and one is written here",
            where=str(folder),
            remedy="export a plain folder: leave --to out",
        )
    try:
        ids = tokens_for(model)
    except ModelError as error:
        raise MethodError(
            f"the graph that is written here reads token ids, and a {type(model).__name__} reads none",
            where=str(folder),
            remedy="export a plain folder (leave --to out) and trace its model with torch.onnx.export on your inputs",
        ) from error
    mask = torch.ones_like(ids)
    batch, sequence = torch.export.Dim("batch", min=1), torch.export.Dim("sequence", min=2)
    shapes = {"input_ids": {0: batch, 1: sequence}, "attention_mask": {0: batch, 1: sequence}}
    model.config._attn_implementation = "eager"
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Says(model).eval(), (ids, mask), dynamo=True, input_names=["input_ids", "attention_mask"],
                output_names=["logits"], dynamic_shapes=shapes, verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(str(target / "model.onnx"), external_data=True)
    except torch.onnx.errors.OnnxExporterError as error:
        raise MethodError(
            f"torch cannot write this model as a graph: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            remedy="export a plain folder or to gguf",
        ) from error
    for name in KEPT:
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    return _checked(target, model, ids)


def _checked(target: Path, model: Any, ids: torch.Tensor) -> tuple[list[str], dict[str, Any], list[str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(target / "model.onnx"), providers=["CPUExecutionProvider"])
    figures: dict[str, Any] = {}
    checks = []
    # the second shape is none that the graph was traced with
    for what, rows in (("traced", ids), ("another", ids[:2, : ids.shape[1] - 11])):
        said = session.run(None, {"input_ids": rows.numpy(), "attention_mask": torch.ones_like(rows).numpy()})[0]
        told = compare(logits_of(model, rows), torch.from_numpy(said).float())
        if told.rms > AGREES:
            raise ModelError(f"onnxruntime says something else: {told}", where=str(target), remedy="report a defect")
        figures[what] = told.to_json()
        checks.append(f"run by onnxruntime on {list(rows.shape)} tokens, against transformers: {told}")
    writes = getattr(model, "can_generate", lambda: False)()
    notes = ["the graph has no cache: each new token costs a forward of the whole text"] if writes else []
    return checks, figures, notes
