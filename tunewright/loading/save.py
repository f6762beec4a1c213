"""Save a model as a plain transformers folder that any peer loads, and prove it by loading it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tunewright.errors import ModelError
from tunewright.files.cache import written_aside
from tunewright.files.markdown import code, fenced, inline
from tunewright.loading.pipelines import again as read_pipeline
from tunewright.loading.portable import portable_config, portable_tokenizer
from tunewright.loading.quiet import quiet
from tunewright.loading.sentence_modules import write_modules
from tunewright.models.agreement import differing
from tunewright.models.aligned import align
from tunewright.models.arguments import among_choices, has_two_towers, reads_two_texts, said_in, text_beside
from tunewright.models.drawer import Drawer
from tunewright.models.modes import set_training


def save_pretrained(
    model: Any,
    tokenizer: Any,
    folder: Path | str,
    card: Mapping[str, Any],
    *,
    processor: Any = None,
    shard_size: str = "5GB",
    replace: bool = False,
    base: Path | None = None,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write config, generation config, weights (safetensors, shards of at most `shard_size`), tokenizer and card.

    `card`: `name`, `base_model`, `licence`, `tags`, `pipeline_tag`, `text` (Markdown) and `recipe` (YAML text), all
    optional. `base`: the folder that the model came from, whose older names of settings are kept. `beside`: further
    files, name -> text. The folder is written
    aside, flushed and renamed: it is whole or not there. Raises FolderError for an existing folder (unless `replace`),
    a full disk or one that may not be written; ModelError for weights that are not finite or a model that cannot be
    saved.
    """
    folder = Path(folder)
    if bad := [n for n, p in model.named_parameters() if p.is_floating_point() and not bool(torch.isfinite(p).all())]:
        raise ModelError(
            f"{len(bad)} weights hold values that are not finite, such as {bad[0]}",
            where=str(folder),
            remedy="save an earlier checkpoint",
        )
    if not re.fullmatch(r"\d+(\.\d+)?[KMG]i?B", shard_size):
        raise ModelError(f"'{shard_size}' is no size", where="shard_size", remedy="write for example 5GB or 500MB")
    with written_aside(folder, replace=replace) as aside:
        try:
            with quiet():
                model.save_pretrained(aside, max_shard_size=shard_size)
                for reader in (tokenizer, processor):
                    if reader is not None and not isinstance(model, Drawer):  # it has a folder of its own there
                        reader.save_pretrained(aside)
        except (ValueError, RuntimeError, TypeError) as e:
            raise ModelError(f"transformers cannot save this model: {e}", where=str(folder)) from e
        if not isinstance(model, Drawer):
            portable_tokenizer(aside)
            portable_config(aside, base)
        if tokenizer is not None:
            write_modules(aside, model, tokenizer, base)
        for name, text in (beside or {}).items():
            (aside / name).write_text(text, encoding="utf-8")
        (aside / "README.md").write_text(model_card(card, model), encoding="utf-8")
    return folder


def model_card(card: Mapping[str, Any], model: Any) -> str:
    """The card as Markdown, with the YAML header that the hub reads."""
    import yaml

    name = card.get("name") or "A model adapted with Tunewright"
    header: dict[str, Any] = {
        "library_name": model.library if isinstance(model, Drawer) else "transformers",
        "tags": ["tunewright", *(t for t in card.get("tags", ()) if t != "tunewright")],
    }
    for key, value in (
        ("base_model", card.get("base_model")),
        ("license", card.get("licence")),
        ("pipeline_tag", card.get("pipeline_tag")),
    ):
        if value:
            header[key] = value
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=True, allow_unicode=True).strip()}\n---",
        f"# {inline(str(name))}",
    ]
    count = sum(p.numel() for p in model.parameters())
    parts.append(f"`{type(model).__name__}`, {count:,} parameters, {str(model.dtype).removeprefix('torch.')}.")
    if card.get("base_model"):
        parts.append(f"Adapted from {code(str(card['base_model']))} with Tunewright.")
    if card.get("text"):
        parts.append(str(card["text"]).strip())
    if card.get("recipe"):
        parts.append(f"## Recipe\n\n{fenced(str(card['recipe']).strip(), 'yaml')}")
    return "\n\n".join(parts) + "\n"


def inputs_of(model: Any, inputs: torch.Tensor | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A forward's keywords for token ids, which a decoder of two texts is given as what it wrote too, or for pixels and
    features of recordings, of which a decoder writes the same few tokens; pixels with two texts for two towers. Several
    inputs by name are what they are.
    """
    if isinstance(inputs, Mapping):
        return {name: x.to(model.device) for name, x in inputs.items()}
    if inputs.is_floating_point() and has_two_towers(model):
        return {"pixel_values": inputs, "input_ids": text_beside(model).to(inputs.device)}
    if inputs.is_floating_point():
        written = torch.arange(1, 9, device=inputs.device).expand(len(inputs), -1)
        return {model.main_input_name: inputs, **({"decoder_input_ids": written} if reads_two_texts(model) else {})}
    inputs = among_choices(model, inputs)
    return {"input_ids": inputs, **({"decoder_input_ids": inputs} if reads_two_texts(model) else {})}


@torch.no_grad()
def verify_folder(
    folder: Path | str, model: Any, ids: Sequence[int] | torch.Tensor | Mapping[str, torch.Tensor]
) -> float:
    """Load `folder` anew: its weights are `model`'s in every bit; return the largest absolute difference of logits.

    `ids`: token ids [T] or [R, T]; for an image classifier pixels [R, C, H, W], for a model of recordings features, for
    one that reads several inputs all of them by name. The caller's model is left in its mode.
    ModelError for weights that differ. Equal ones may still give logits that differ by rounding (`agreement`).
    """
    from transformers import AutoConfig

    with quiet():
        if isinstance(model, Drawer):
            again: Any = read_pipeline(Path(folder), model)
        else:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            again = type(model).from_pretrained(
                folder, config=config, dtype=model.dtype, use_safetensors=True, local_files_only=True
            )
    theirs = again.state_dict()
    ours = {n: t.to(theirs[n].dtype) if n in theirs else t for n, t in model.state_dict().items()}
    if changed := differing(ours, theirs):
        raise ModelError(
            f"{len(changed)} tensors of the folder, loaded anew, are not the model's, such as '{changed[0]}'",
            where=str(folder),
            remedy="report this as a defect",
        )
    inputs: Any = ids
    if not isinstance(ids, Mapping):
        inputs = torch.as_tensor(ids, device=model.device)
        inputs = inputs[None] if inputs.dim() == 1 else inputs
    again = again.to(model.device).eval()
    align(again)
    training = model.training
    model.eval()
    try:
        said = said_in(model(**inputs_of(model, inputs)))
    finally:
        set_training(model, training)
    return float((said.float() - said_in(again(**inputs_of(model, inputs))).float()).abs().max())
