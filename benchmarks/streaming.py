"""What a streamed source costs: peak memory, rows a second of CPU time, and the seconds to go on from near its end.

`python -m benchmarks.streaming --rows 1000000` writes so many short rows (about 100 bytes each), `--gigabytes 2` long
documents of that size instead, as JSON lines in four files; one pass of them is then given by a cursor, as a run takes
its rows, in a process of its own, and resumed at nine tenths in another. `datasets` beside it: its own streamed reading
of the same files with a shuffle buffer of equal size and the same tokenizer, 1,000 rows at a time. `--minutes M` ends
each reading after so long and says how far it came, with the memory at its tenth and at its end; it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tunewright.contract.task import EncodeOptions
from tunewright.data.dataset import build, cursor
from tunewright.loading.locate import locate
from tunewright.recipe import Source
from tunewright.tasks import get_task

FILES, BUFFER, TOKENS = 4, 10_000, 4096
WORDS = "the a of in to and was is that for on as with by it at from his he be this which or an are were".split()


def write(folder: Path, rows: int, words: int) -> int:
    """Rows of so many words, in files; their bytes."""
    rng = random.Random(0)
    some = [" ".join(rng.choices(WORDS, k=words)) for _ in range(200)]
    for k in range(FILES):
        with (folder / f"{k}.jsonl").open("w") as f:
            for i in range(k, rows, FILES):
                f.write(json.dumps({"text": f"{i} {some[i % 200]}"}) + "\n")
    return sum(p.stat().st_size for p in folder.iterdir())


def at_start(folder: Path, cache: Path) -> Any:
    source = Source(path=str(folder), streaming=True)
    tokenizer = AutoTokenizer.from_pretrained(locate("nano").folder)
    data = build([source], get_task("text-generation"), tokenizer, EncodeOptions(), cache, window=BUFFER)
    return cursor(data, seed=0, batch_tokens=TOKENS)


def memory() -> float:
    """Megabytes of this process at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(folder: Path, rows: int, state: Path, limit: float) -> dict[str, float]:
    """One pass; the cursor's state at nine tenths, or where the time ended, is left in a file."""
    at, kept, began = at_start(folder, state.parent / "cache"), False, time.process_time()
    early = 0.0
    while (read := at.streamed().get(str(folder), {}).get("read", 0)) < rows or at.epochs[str(folder)] < 1:
        at.next_batch()
        spent = time.process_time() - began
        early = early or (memory() if spent >= 0.1 * limit else 0.0)
        if not kept and (read >= 0.9 * rows or spent >= limit):
            kept = bool(state.write_text(json.dumps(at.state())))
        if spent >= limit:
            break
    return {"seconds": time.process_time() - began, "read": read, "early": early}


def again(folder: Path, rows: int, state: Path, limit: float) -> dict[str, float]:
    at, began = at_start(folder, state.parent / "cache"), time.process_time()
    at.restore(json.loads(state.read_text()))
    at.next_batch()
    return {"seconds": time.process_time() - began}


def theirs(folder: Path, rows: int, state: Path, limit: float) -> dict[str, float]:
    """The same pass by `datasets`."""
    import datasets

    tokenizer = AutoTokenizer.from_pretrained(locate("nano").folder)
    began = time.process_time()
    files = [str(p) for p in sorted(folder.iterdir())]
    data = datasets.load_dataset("json", data_files=files, split="train", streaming=True, cache_dir=state.parent)
    data = data.shuffle(0, buffer_size=BUFFER)
    data = data.map(lambda some: {"ids": tokenizer(some["text"])["input_ids"]}, batched=True)
    count, early = 0, 0.0
    for _ in data:
        count += 1
        spent = time.process_time() - began
        early = early or (memory() if spent >= 0.1 * limit else 0.0)
        if spent >= limit:
            break
    assert count == rows or limit < math.inf
    return {"seconds": time.process_time() - began, "read": count, "early": early}


PARTS = {"ours": ours, "resumed": again, "datasets": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, help="long documents (20,000 words) of so many bytes in all instead")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of CPU, after which each reading ends")
    parser.add_argument("--part", choices=PARTS, help="one process's work")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part:
        state = given.folder.parent / "state.json"
        found = PARTS[given.part](given.folder, given.rows, state, 60 * given.minutes)
        print(json.dumps({**found, "megabytes": memory()}))
        return
    words, rows = (20, given.rows) if not given.gigabytes else (20_000, int(given.gigabytes * 1e9 / 62_000))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "rows"
        folder.mkdir()
        size = write(folder, rows, words)
        print(f"{rows:,} rows, {size / 1e9:.2f} GB")
        for part in PARTS:
            command = [sys.executable, "-m", "benchmarks.streaming", "--part", part, "--minutes", str(given.minutes)]
            said = subprocess.run(
                [*command, "--folder", str(folder), "--rows", str(rows)], capture_output=True, text=True, check=True
            )
            found = json.loads(said.stdout.splitlines()[-1])
            told = ""
            if part != "resumed":
                share = found["read"] / rows
                told = f"{found['read']:,.0f} rows ({share:.0%}), {found['read'] / found['seconds']:,.0f} rows/s, "
                told += f"{share * size / found['seconds'] / 1e6:.2f} MB/s, "
                told += f"{found['early']:.0f} MB after a tenth, " if found["early"] else ""
            print(f"{part:10} {found['seconds']:8.1f} s of CPU, {told}{found['megabytes']:.0f} MB at most", flush=True)


if __name__ == "__main__":
    main()
