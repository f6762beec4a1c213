"""A file's rows as a model reads them, for a first recipe: how many, how long, and what the rule derives from that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.data.shapes import RECORDED
from tunewright.errors import FolderError, MissingExtraError, ModelError
from tunewright.recipe import Recipe, Source
from tunewright.recipe.tables import as_table
from tunewright.tasks._parts import TABLE
from tunewright.training.defaults import STEPS_AN_EPOCH, Facts, Kind, Setting, derive

MOST_ROWS = 20_000
"""Rows of a file that are measured; of more, these speak for all."""
LONGEST = 2048
"""Tokens of a row that a first recipe reads at most: longer ones cost memory that few machines have."""
PIECES = (128, 1024)
"""Tokens of the pieces that plain text is split into, at least and at most."""
HELD_OUT = (50, 500)
"""Rows to hold out, at least and at most, as far as a fifth of them reaches."""
FREE = 12
"""Tokens of an answer from which on it is free text, of which many wordings are right: only its loss tells."""
_BYTES = 4  # of text a token, about
_RECORDING = 500  # tokens that a recording counts as, where nobody can tell: ten seconds


@dataclass(frozen=True)
class Measured:
    """What was found. `rows`: to learn from, before any are held out; `words`: a sentence about it; `length`: what
    max_length should be, none for pictures; `settings`: what the rule gave; `free`: whether free text is learnt, whose
    rows few epochs teach by heart; `tokens`: of an epoch, 0 where they are not known.
    """

    rows: int
    words: str
    length: Setting | None
    settings: dict[str, Setting] = field(default_factory=dict)
    free: bool = False
    tokens: int = 0

    @property
    def eval_steps(self) -> int | None:
        """Optimizer steps to about an epoch, where the best weights should be kept: free text, and rows held out."""
        share = held_out(self.rows)
        if not (self.free and self.tokens and share):
            return None
        return max(1, round(self.tokens * (1 - share) / self.settings["batch_tokens"].value))


def held_out(rows: int) -> float | None:
    """The share of the rows to hold out, in whole per cent; none where too few would be left or held."""
    if rows < 20:
        return None
    least, largest = HELD_OUT
    share = min(0.2, max(0.1, least / rows)) if rows * 0.1 <= largest else largest / rows
    return max(1, round(100 * share)) / 100


def measure(
    model: str,
    data: str,
    task: str,
    shape: str,
    methods: Sequence[str],
    columns: Mapping[str, str],
    template: str | None = None,
    types: Mapping[str, str] | None = None,
) -> Measured:
    """Encode the rows with the model's tokenizer, and derive; by the file's size where the model is not here. `types`:
    what columns of a table hold, where that is said.

    ModelError for a name that no model can have, and for a model that is here and does not do the task or is broken.
    """
    source = Source(path=data, columns=dict(columns), limit=MOST_ROWS)
    table = {"table": {"types": dict(types)}} if types else {}
    try:
        return _measured(model, source, task, methods, {"template": template, **table})
    except (ModelError, MissingExtraError) as error:
        if isinstance(error, ModelError) and ("/" not in model or _here(model)):
            raise
        return _estimated(source, task, shape, methods, error.what)


def _here(model: str) -> bool:
    """Whether the model is on this machine."""
    from tunewright.loading.locate import locate

    try:
        locate(model, progress=False)
    except (ModelError, MissingExtraError, FolderError, OSError):
        return False
    return True


def _measured(model: str, source: Source, task: str, methods: Sequence[str], said: Mapping[str, object]) -> Measured:
    """`said`: what the recipe's data say beside their rows."""
    from tunewright.runs.assemble import settled

    def recipe(length: int, validation: float | None) -> Recipe:
        section = {"train": [source], "max_length": length, "validation": validation, **said}
        made = Recipe.model_validate({"model": model, "task": task, "data": section, "methods": list(methods)})
        made._base = Path.cwd()
        return made

    of = _lengths(recipe(LONGEST, None))
    # rows that all fit are the same rows whatever the limit is, and are encoded already
    limit = LONGEST if of.length is None or of.whole else int(of.length.value)
    derived, found = settled(recipe(limit, held_out(of.rows)))
    settings = found[derived.stages[0].name]
    return Measured(of.rows, of.words, of.length, settings, of.free, of.tokens)


@dataclass(frozen=True)
class _Lengths:
    """What max_length should be, how many rows there are and a sentence about their lengths; whether all of them fit,
    whether they are free text, and their tokens.
    """

    length: Setting | None
    rows: int
    words: str
    whole: bool
    free: bool = False
    tokens: int = 0


def _lengths(recipe: Recipe) -> _Lengths:
    """The rows of a recipe, encoded."""
    from tunewright.data.dataset import build
    from tunewright.data.labels import labels_of
    from tunewright.files.cache import cache_folder
    from tunewright.loading.load import reading
    from tunewright.loading.options import options_of
    from tunewright.loading.policies import with_facts
    from tunewright.runs.fresh import model_of
    from tunewright.runs.sources import task_for
    from tunewright.runs.tables import with_layout

    recipe = with_layout(recipe)
    task, sources = task_for(recipe), recipe.data.train
    labels = labels_of(sources, recipe.base, task) if task.labelled else None
    model = reading(model_of(recipe, weights=False), task, task.head_of(labels))
    recipe, _ = with_facts(recipe, model.config)
    reads = model.tokenizer if model.tokenizer is not None else model.processor
    options = options_of(recipe.data, model.labels if task.labelled else None, model)
    rows = build(sources, task, reads, options, cache_folder(), base=recipe.base)
    read = rows.counts["read"]
    many = f"{read:,} or more rows" if read >= MOST_ROWS else f"{read:,} rows"
    if model.tokenizer is None or task.reads_audio:
        return _Lengths(None, read, f"Measured: {many}.", True)
    sizes = sorted(max(row.fields["lengths"]) if task.embeds else row.size for row in rows.rows)
    plain = rows.rows[0].fields.get("kind", "plain") in ("plain", "mask") and task.likelihoods and not task.makes_head
    words = f"Measured: {many} of {sizes[len(sizes) // 2]:,} tokens in the middle, {sizes[-1]:,} at most."
    if plain and rows.counts["pieces"]:
        words = f"Measured: {rows.counts['tokens']:,} tokens in {'1 row' if read == 1 else many}."
    room = most(model.config, model.tokenizer)
    if plain:
        pieces = _pieces(sizes, room, split=bool(rows.counts["pieces"]))
        whole = pieces.value >= sizes[-1] and not rows.counts["pieces"]
        return _Lengths(pieces, read, words, whole, True, sum(sizes))
    longest = min(_round_up(sizes[-1]), room)
    lost = rows.counts["left_out"]
    why = f"tokens; the longest row has {sizes[-1]:,}"
    if lost:
        why = f"tokens; {lost:,} longer rows are left out (truncation: split keeps them)"
        longest = min(LONGEST, room)
    answers = task.generates and "rejected_ids" not in rows.rows[0].fields
    free = answers and rows.counts["trained_tokens"] > FREE * len(sizes)
    return _Lengths(Setting(longest, why), read, words, not lost, free, sum(sizes))


def most(config: object, tokenizer: object) -> int:
    """Tokens of the longest row that a model reads, LONGEST at most."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    said = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min([LONGEST, *(int(n) for n in said if isinstance(n, int | float) and 1 < n < 1e9)])


def _pieces(sizes: Sequence[int], room: int, *, split: bool) -> Setting:
    """How long plain text is split: short enough that an epoch of little text is more than a few steps. `split`: some
    of the sizes are pieces already, of what is longer than the model reads.
    """
    wanted = sum(sizes) / (4 * STEPS_AN_EPOCH)
    low, high = PIECES
    length = min(max(low, 2 ** int(math.log2(max(1.0, wanted)))), high, room)
    if sizes[-1] <= length and not split:
        longest = min(_round_up(sizes[-1]), room)
        return Setting(longest, f"tokens; the longest text has {sizes[-1]:,}")
    return Setting(length, f"tokens; longer text is split, so that {sum(sizes):,} tokens make steps enough")


def _round_up(size: int) -> int:
    """The next multiple of 32: tokens that a row of another file may be longer."""
    return 32 * math.ceil(size / 32)


def _estimated(source: Source, task: str, shape: str, methods: Sequence[str], why: str) -> Measured:
    """By the file's lines and bytes."""
    from tunewright import catalogue
    from tunewright.data.read import locate, read_source
    from tunewright.runs.deriving import said_by

    source = as_table(source, None, None) if shape == TABLE else source
    count = sum(1 for _ in read_source(source, Path.cwd(), []))
    place = locate(source, Path.cwd())
    files = place.files or [p for p in Path(source.path).rglob("*") if p.is_file()]
    pictures = shape in ("image-label", "image", "image-mask")
    recordings = shape in RECORDED
    tokens = (
        count
        if pictures
        else _RECORDING * count
        if recordings
        else max(1, sum(f.stat().st_size for f in files) // _BYTES)
    )
    classes = [catalogue.load_method(name) for name in methods]
    kinds: dict[str, Kind] = {
        **dict.fromkeys(("image-label", "image-mask"), "pictures"),
        "text-label": "classes",
        TABLE: "classes",
        **dict.fromkeys(("choices", "question-context", "text-labels", "text-score"), "classes"),
        "text": "plain text",
        "audio-label": "classes",
    }
    kind = "pairs" if shape.startswith("preference") else kinds.get(shape, "answers")
    facts = Facts(
        task=task,
        kind=kind,
        rows=max(1, round(count * (1 - (held_out(count) or 0)))),
        tokens=tokens,
        width=None,
        **said_by(classes),
    )
    length = (
        None if pictures or recordings else Setting(1024, "tokens; longer plain text is split, other rows are left out")
    )
    words = f"Estimated from the file's size, {count:,} rows: {why}. Write it again once the model is here."
    return Measured(count, words, length, derive(facts))
