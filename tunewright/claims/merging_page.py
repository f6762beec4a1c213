"""docs/merging.md: every merge method on the same fine-tunings. `python -m tunewright.claims.merging_page` runs what is
missing of it and writes docs/data/merging.json, the page's tables and its picture; `--draw` only writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tunewright.claims import merging_table

DATA = Path("docs/data/merging.json")


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then write."""
    parser = argparse.ArgumentParser(prog="python -m tunewright.claims.merging_page", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--no-joint", action="store_true", help="leave joint training out")
    given = parser.parse_args(argv)
    from tunewright.claims.engine import Local
    from tunewright.claims.lab.tasks import task

    with Local(workers=1) as engine:
        merging_table.run(engine, given.data, given.seeds, task("digits").recipe("nano"), joint=not given.no_joint)


if __name__ == "__main__":
    main()
