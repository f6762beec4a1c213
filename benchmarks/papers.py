"""How long the catalogue of papers takes: `python -m benchmarks.papers`.

A process each for the cold figures, the best of five.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

QUERIES = (
    "average the weights of fine-tuned models",
    "forget less",
    "quantized low-rank adapters",
    "which rows to train on",
    "XLNet",
)


def once() -> dict[str, float]:
    """Seconds to read every card and to index them, milliseconds a search and a look for similar papers."""
    start = time.perf_counter()
    from tunewright.papers import cards, search

    n = len(cards.load())
    read = time.perf_counter()
    search.index()
    indexed = time.perf_counter()
    for query in QUERIES:
        search.search(query)
    searched = time.perf_counter()
    for slug in list(cards.load())[:20]:
        search.similar(slug)
    done = time.perf_counter()
    return {
        "cards": n,
        "read_s": read - start,
        "index_s": indexed - read,
        "search_ms": 1000 * (searched - indexed) / len(QUERIES),
        "similar_ms": 1000 * (done - searched) / 20,
    }


def main() -> None:
    """Print the best of five processes, and of the whole command."""
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.papers", "--once"], capture_output=True, check=True
            ).stdout
        )
        for _ in range(5)
    ]
    best = {k: min(r[k] for r in runs) for k in runs[0]}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from tunewright.commands.cli import main; main()", "papers", "merge"],
            capture_output=True,
            check=True,
        )
        times.append(time.perf_counter() - start)
    print(json.dumps({**best, "command_s": min(times)}, indent=2))


if __name__ == "__main__":
    if "--once" in sys.argv:
        print(json.dumps(once()))
    else:
        main()
