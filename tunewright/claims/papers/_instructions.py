"""Instructions of every kind with people's answers: what claims about mixing tasks with general rows share."""

from __future__ import annotations

from functools import cache

from tunewright.claims.lab import corpus, rows


@cache
def general() -> dict[str, str]:
    """Files of short instructions and answers: `train`, and `eval` of other ones."""
    parts = {"train": ("train", 2000), "eval": ("test", 200)}
    found = {
        part: [
            {"prompt": r["instruction"], "completion": r["response"]}
            for r in rows.shuffled(corpus.rows(f"dolly-short/{file}.jsonl.gz"))[:count]
        ]
        for part, (file, count) in parts.items()
    }
    return rows.written("instructions", found)
