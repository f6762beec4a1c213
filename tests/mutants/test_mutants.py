"""The list of key lines does not rot: every line stands where it says, once, every method has some, tests exist."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.mutants.listed import ROOMS, ROOT, listed
from tests.mutants.page import PAGE, RESULTS, page
from tunewright import catalogue
from tunewright.data import generators

MUTANTS = list(listed())
BESIDE = {"from-nothing", "calls", "checkers", "languages", "flexllm", "gated-stack", "pool-entries"} | {
    *("evidence-of-laws", "arms-of-a-sequence", "names-with-points"),
    *("what-is-asked-and-answered", "faults-of-a-method", "stages-that-learn-nothing", "rows-of-the-last-stage"),
    *("refused-arms", "sampled-gradients", "few-entries", "layout", "drift-of-features"),
    *("extract-lora", "fuse", "fuse-tokens", "push", "board", "mcp", "suggest", "several-adapters"),
    *(
        "carry-of-a-sequence",
        "several-processes",
        "encoded-rows",
        "serve-before-rows",
        "low-rank-conv",
        "divided-training",
        "divided-recipes",
        "divided-models",
        "data-card",
        "categories",
        "natural-instructions",
        "tables-as-texts",
        "tables-in-batches",
        "tables-of-numbers",
        "tables-of-recipes",
        "trees-beside-tables",
        "steps-by-length",
    ),
    *("parting", "launching", "keep-best", "peft-read-only", "peft-norms", "peft-prompts"),
    *("first-recipes", "streams", "what-stages-read", "measuring-together", "measuring-apart"),
    *(
        "categories-of-prompts",
        "columns-of-the-file",
        "ends-of-episodes",
        "few-units",
        "graphs-and-forms",
        "paces-in-words",
        "series-of-several-files",
        "set-up-in-a-check",
        "signs-of-a-comparison",
        "sources-left-empty",
        "steady-starts-of-heads",
        "strengths-that-are-listed",
        "tables-in-a-first-recipe",
        "units-of-a-pair",
        "what-a-merge-reads-by",
        "what-rows-are-counted-in",
    ),
    *("plan-on", "kept-for-backward", "scaled-losses", "compiled-blocks"),
    *("races", "ports", "time-limits", "locks", "jobs-at-their-end", "orders-at-one-time"),
    *("image-feature-extraction", "views-of-pictures"),
    *("denoiser", "denoising", "pipelines", "frechet-distance"),
    *("residual-quantizer", "next-scale-transformer", "next-scale", "next-scale-rows", "next-scale-folders"),
    "scale-losses",
    *("object-detection", "average-precision", "files-of-boxes"),
    *("eight-bit-blocks", "moments-by-blocks", "scaled-positions", "activations-on-the-host"),
    *("image-segmentation", "mask-folders", "series-windows", "series-validation", "series-errors"),
    *("episodes", "policies", "steps-of-episodes", "episode-windows", "environments", "errors-of-actions"),
    *("facts-of-policies", "heads-of-runs"),
}
"""What has lines and is no entry of the catalogue."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.key)
def test_a_listed_line_stands_in_its_file_once_and_its_change_is_code(mutant):
    compile(mutant.mutated(), mutant.file, "exec")
    assert mutant.becomes != mutant.line and mutant.breaks
    assert all((ROOT / t).is_file() for t in mutant.tests)


def test_every_method_has_two_lines_and_no_change_is_listed_twice():
    count = Counter(m.method for m in MUTANTS)
    entries = {n for n, e in catalogue.entries().items() if e.room.startswith(ROOMS)}
    assert set(count) == entries | BESIDE | {*generators.names()} and min(count.values()) >= 2
    assert max(Counter(m.key for m in MUTANTS).values()) == 1


def test_the_page_says_what_the_last_runs_found_of_lines_that_are_listed():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert results.keys() <= {m.key for m in MUTANTS} and set(results.values()) <= {"killed", "survived"}
    assert PAGE.read_text(encoding="utf-8") == page(MUTANTS, results), "run: python -m tests.mutants --left"


def test_a_line_that_is_gone_is_named():
    with pytest.raises(ValueError, match="has 0 lines 'gone'"):
        replace(MUTANTS[0], line="gone").mutated()
