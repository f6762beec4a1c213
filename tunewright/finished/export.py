"""The verb `export`: a finished run's model as a plain transformers folder, its logits checked against the run's
own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import MethodError, ModelError
from tunewright.files.aside import set_aside
from tunewright.files.hashing import read_header, weight_files
from tunewright.files.markdown import code, inline
from tunewright.finished import seeing
from tunewright.finished.finished import Finished, open_run
from tunewright.finished.servability import GENERATES, servability
from tunewright.loading.new_biases import make_room
from tunewright.loading.pipelines import is_pipeline
from tunewright.loading.save import inputs_of, save_pretrained, verify_folder
from tunewright.loading.tables import TABLE_FILE, written
from tunewright.models.arguments import said_in
from tunewright.models.generated import settle
from tunewright.models.next_scale import PART
from tunewright.recipe import Recipe
from tunewright.report import sentences, summary, words
from tunewright.report.schema import Report
from tunewright.runs import intact
from tunewright.tasks._features import features
from tunewright.tasks._forecasters import walks
from tunewright.tasks._policies import steps_at_random
from tunewright.tasks.image_text_to_text import ImageTextToText

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.35, torch.float16: 0.05}
"""Largest difference of logits, over their standard deviation, that folding may make by rounding (bfloat16 has 8 bits,
and a folded weight is rounded to them; 0.07 and 0.23 were seen on tiny models, on two processors)."""


@dataclass
class Exported:
    """What was written. Differences are the largest of logits on `rows` rows: `reloaded` between the folder, loaded
    anew, and the folded model; `folded` between the folded model and the run's own, whose change lies beside the
    weights. `warnings` say why servers cannot take the change as an adapter, `notes` what else differs from the base's
    own files."""

    folder: Path
    reloaded: float
    folded: float
    spread: float
    rows: int
    warnings: list[str]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def export(
    run_dir: Path | str, out: Path | str | None = None, task: str | None = None, *, quiet: bool = False
) -> Exported:
    """Write DIR/model (or `out`) and print what was checked. `task`: of a change made for each task, that of one.

    CheckpointError for a run whose files are not those of its report; FolderError for an unfinished run or an existing
    folder; MethodError for a change that plain weights cannot hold;
    ModelError when the folder's logits are not the run's (nothing is left behind then).
    """
    beside: list[str] = []
    if (Path(run_dir) / Report.file).exists():
        beside = intact.check(Path(run_dir), may_lack=intact.TO_READ).beside
    run = open_run(run_dir)
    if task is not None:
        settle(run.adapted, task)
    if not run.adapted.foldable:
        tasks = {t for by in run.adapted.deltas().values() for d in by.values() for t in getattr(d, "tasks", ())}
        one = f"write one task's change with --task ({', '.join(sorted(tasks))}), if it folds, or " if tasks else ""
        raise MethodError(
            "this change cannot be folded into plain weights, so a plain transformers folder cannot hold it",
            where=str(run_dir),
            remedy=one + "use the run's own files beside the base",
        )
    target = Path(out) if out is not None else run.folder / "model"
    inputs = check_inputs(run)
    before = logits_of(run.adapted.model, inputs)
    run.adapted.fold()
    multiplied = run.adapted.plain()
    zeros = make_room(run.adapted.model, sorted(run.adapted.added))
    after = logits_of(run.adapted.model, inputs)
    spread, folded = float(before.std()), float((before - after).abs().max())
    limit = TOLERANCE[run.loaded.dtype] * spread
    if folded > limit:
        raise ModelError(
            f"folding moves the logits by {folded:.2g}, where rounding explains {limit:.2g}",
            where=str(run_dir),
            remedy="report this as a defect",
        )
    save_pretrained(
        run.adapted.model,
        run.tokenizer,
        target,
        card_of(run),
        processor=run.loaded.processor,
        base=run.loaded.folder,
        beside={} if run.options.table is None else {TABLE_FILE: written(run.options.table, run.task.name)},
    )
    try:
        reloaded = verify_folder(target, run.adapted.model, inputs)
    except ModelError as e:
        e.where = str(set_aside(target))
        raise
    notes = _other_type(run.loaded.folder, target)
    notes += [f"what transformers' class cannot hold was multiplied out, in the base's shape: {m}" for m in multiplied]
    if beside:
        notes.append(f"in the run's folder lie files that its report does not speak of: {', '.join(beside[:5])}")
    if run.adapted.added:
        what = f"{len(run.adapted.added)} biases that the base does not have hold the change"
        notes.append(what + (f", and {len(zeros)} more are zeros beside them" if zeros else ""))
    # of a model that writes no text nobody asks whether a server of adapters takes its change
    warnings = servability(run.folder) if run.task.is_a(GENERATES) else []
    exported = Exported(target, reloaded, folded, spread, rows_in(inputs), warnings, notes)
    if not reloaded <= limit:  # nan too
        raise ModelError(
            f"the folder, loaded anew, differs from the run by {reloaded:.2g} in its logits",
            where=str(set_aside(target)),
            remedy="report this as a defect",
        )
    if not quiet:
        _show(exported)
    return exported


def _other_type(base: Path | None, target: Path) -> list[str]:
    """That the folder's weights are of another type than the base's files, where they are."""
    if base is None:
        return []
    before, after = (_types(folder) for folder in (base, target))
    if before == after:
        return []
    return [
        f"its weights are {', '.join(after)}, as the run computed them, and the base's files hold {', '.join(before)}: "
        "train.precision says which"
    ]


def _types(folder: Path) -> list[str]:
    """The types of a folder's matrices, as torch calls them, in order of their share."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    shares: Counter[str] = Counter()
    for t in (t for f in weight_files(folder) for t in read_header(f) if len(t.shape) > 1):
        shares[names.get(t.dtype, t.dtype)] += t.stop - t.start
    return [n for n, _ in shares.most_common()]


@torch.no_grad()
def logits_of(model: Any, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Logits of a batch of equal rows, in fp32."""
    given = inputs if isinstance(inputs, Mapping) else inputs.to(next(model.parameters()).device)
    return said_in(model(**inputs_of(model, given))).float()


def check_inputs(run: Finished) -> Tensor | dict[str, Tensor]:
    """Token ids [4, 32] (pixels [2, C, H, W] for pictures, features of half a second of noise for recordings, all
    inputs of two rows for pictures in texts, walks at random for series, steps at random for policies) on which logits
    are compared: spread over the vocabulary, the same each time.
    """
    if isinstance(run.task, ImageTextToText):
        return seeing.check_inputs(run)
    draw = torch.Generator().manual_seed(0)
    if (series := run.options.series) is not None:
        return {n: x.to(run.loaded.dtype) for n, x in walks(run.loaded.model.config, series, draw).items()}
    if run.options.trajectories is not None:
        found = steps_at_random(run.loaded.model.config, draw)
        return {n: x.to(run.loaded.dtype) if x.is_floating_point() else x for n, x in found.items()}
    if (audio := run.options.audio) is not None:
        sounds = torch.randn(2, audio["rate"] // 2, generator=draw).mul_(0.1).numpy()
        return features(list(sounds), audio["extractor"])[run.loaded.model.main_input_name]  # type: ignore[index]
    if run.options.image is not None:
        image = run.options.image or {}
        return torch.randn(2, image["channels"], image["height"], image["width"], generator=draw)
    vocabulary = run.loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    config: Any = run.loaded.model.config
    pad, end = run.tokenizer.pad_token_id, config.eos_token_id
    ids = torch.randint(0, int(vocabulary), (4, 32), generator=draw)
    if config.is_encoder_decoder and isinstance(end, int):  # such a classifier reads its features at the one end
        other = next(i for i in range(int(vocabulary)) if i not in (pad, end))
        ids = torch.where((ids == pad) | (ids == end), other, ids)
        ids[:, -1] = end
        return ids
    return torch.where(ids == pad, (ids + 1) % int(vocabulary), ids) if pad is not None else ids


def rows_in(inputs: Tensor | Mapping[str, Tensor]) -> int:
    """How many rows logits are compared on."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def card_of(run: Finished) -> dict[str, Any]:
    """What the model card says: base, licence, figures of the report, recipe. Paths of this machine are left out."""
    name = run.recipe.model.name
    hub = "/" in name and not Path(name).is_absolute()
    base = name if hub else Path(name).name
    return {
        "name": f"{Path(name).name}, adapted: {run.recipe.name}",
        "base_model": base if hub else None,
        "licence": run.loaded.licence,
        "pipeline_tag": "text-classification" if run.task.is_a("reward-modeling") else run.task.name,
        "tags": [m.name for m in run.report.trained.methods] if run.report.trained else [],
        "text": figures(run.report, base),
        "recipe": public(run.recipe),
    }


def figures(report: Report, base: str) -> str:
    """The report's before and after as Markdown."""
    rows = [
        f"| {inline(x.name)} | {_cell(x.before, x.before_span)} | {_cell(x.after, x.after_span)} | "
        f"{_cell(x.difference, x.difference_span)} | {inline(x.note)} |"
        for x in summary.lines(report)
    ]
    cost = [
        f"{words.count(report.cost.tokens)} {words.counted(report.task)}" if report.cost.tokens else "",
        words.seconds(report.run.seconds) if report.run.seconds else "",
    ]
    parts = [
        f"The base is {code(base)}, weights `{report.model.hash[:12]}`."
        if report.model and report.model.hash
        else f"The base is {code(base)}."
    ]
    if rows:
        head = ["| | base | tuned | change | |", "| --- | --- | --- | --- | --- |"]
        parts += ["## What it gained and lost", "\n".join([*head, *rows])]
        meaning = sentences.what_intervals_mean(report)
        parts += [meaning] if meaning else []
    spent = ", ".join(c for c in cost if c)
    parts += [f"Trained on {spent}."] if spent else []
    return "\n\n".join([*parts, *(f"Note: {inline(n)}" for n in sentences.cautions(report))])


def _cell(value: str, ends: str) -> str:
    return f"{value} ({ends})" if ends else value


def public(recipe: Recipe) -> str:
    """The recipe's YAML with files named without the folders of this machine."""
    import yaml

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {short(k): short(v) for k, v in value.items()}
        if isinstance(value, list):
            return [short(v) for v in value]
        return Path(value).name if isinstance(value, str) and value.startswith("/") and "\n" not in value else value

    text: str = yaml.safe_dump(short(yaml.safe_load(recipe.dump())), sort_keys=False, allow_unicode=True)
    return text


def _kind_of(folder: Path) -> str:
    """What was written, in words."""
    if is_pipeline(folder):
        return "a next-scale model" if (folder / PART).is_dir() else "a diffusers pipeline"
    parts = {"tokenizer_config.json": "tokenizer", "generation_config.json": "generation config"}
    there = [what for name, what in parts.items() if (folder / name).is_file()]
    return "a plain transformers folder" + "".join(f", {what}" for what in there)


def _show(exported: Exported) -> None:
    print(f"{exported.folder} is written: {_kind_of(exported.folder)} with a model card")
    folder = (
        "are that model's" if exported.reloaded == 0 else f"differ by at most {exported.reloaded:.2g} from that model's"
    )
    own = "are the run's own" if exported.folded == 0 else f"differ by at most {exported.folded:.2g} from the run's own"
    print(
        f"loaded anew, it holds the folded model's weights bit for bit; its outputs on {exported.rows} rows (standard "
        f"deviation {exported.spread:.3g}) {folder}, and those {own}"
    )
    for text in exported.notes:
        print(f"note: {text}")
    for text in exported.warnings:
        print(f"warning: as an adapter beside the base, not every server can load this: {text}", file=sys.stderr)
    if exported.warnings:
        print(f"warning: serve {exported.folder} instead, which is whole", file=sys.stderr)
