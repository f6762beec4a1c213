"""Verbs that turn models into other forms, and send them: fuse, extract-lora and push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunewright.commands.options import JsonOption, examples, show


@examples(
    "tunewright fuse smollm2-135m-instruct runs/tickets/adapter --out tickets",
    "tunewright fuse base adapters/a --out fused --dtype bfloat16 --json",
)
def fuse(
    base: Annotated[str, typer.Argument(metavar="BASE", help="the model that the change is made for")],
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="a LoRA in PEFT's format, a saved change or a run")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where the fused model is written")],
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 (default: as stored)")] = None,
    shard_size: Annotated[str, typer.Option(help="largest file of the result")] = "5GB",
    as_json: JsonOption = False,
) -> None:
    """Fold an adapter into its base: a plain transformers folder, its logits compared with the change beside."""
    from tunewright.shipping import fusing

    fused = fusing.fuse(base, adapter, out, dtype=dtype, shard_size=shard_size)
    show(fused.to_json(), as_json, lambda: fusing.page(fused))


@examples(
    "tunewright extract-lora base tuned --rank 16 --out adapters/tuned",
    "tunewright extract-lora base runs/full/model --rank 64 --out adapters/full --json",
)
def extract_lora(
    first: Annotated[str, typer.Argument(metavar="A", help="the base: folder, hub id or built-in name")],
    second: Annotated[str, typer.Argument(metavar="B", help="the tuned model: the adapter is B minus A")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where the adapter is written")],
    rank: Annotated[int, typer.Option(min=1, help="singular values that each layer keeps")] = 16,
    dtype: Annotated[str, typer.Option(help="of the factors: float32, bfloat16 or float16")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write the difference of two models as a LoRA in PEFT's format, with each layer's error and logits compared."""
    from tunewright.shipping import extracting

    found = extracting.extract(first, second, out, rank=rank, dtype=dtype)
    show(found.to_json(), as_json, lambda: extracting.page(found))


@examples(
    "tunewright push runs/tickets me/tickets --dry-run",
    "tunewright push runs/tickets me/tickets",
    "tunewright push runs/tickets me/tickets-whole --as model --public",
)
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a finished run, or a folder that `export` wrote")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the hub (HF_ENDPOINT names another)")],
    kind: Annotated[
        str, typer.Option("--as", help="adapter or model (default: the adapter, where there is one)")
    ] = "auto",
    private: Annotated[bool, typer.Option("--private/--public", help="who sees the repository")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the files and show the card; nothing is sent")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Push a run to a hub with a card of its report. No optimizer state, data or secret goes; private by default."""
    from tunewright.shipping.push import push as send

    pushed = send(folder, repo, kind=kind, private=private, dry_run=dry_run)
    show(pushed.to_json(), as_json, pushed.page)
