"""A support desk, whole: three adapters are trained, gated and served on one base, while a fourth is being trained.

    pip install "tunewright[serve]" openai
    python examples/desk.py desk                    # SmolLM2, about fifteen minutes on two processor cores
    python examples/desk.py desk --model nano --short

What happens is what a user would type; each command is printed first. The folder gets the recipes, `runs/` (and
`rejected/`, of those whose gate did not pass), the server's `jobs/`, a GGUF file, what was answered as `answers.json`,
and `board.png` where a Chromium is found. Nothing listens on another address than this machine's own, and all servers
are ended at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TICKETS = HERE / "own-data"
ASKED = {
    "topics": "Which support topic is this?\nMy transfer was not approved",
    "teams": "The parcel arrived with a broken lid. What now?",
    "handbook": "Delivery looks after parcels",
}
"""A question for each adapter."""


def recipes(model: str, short: bool) -> dict[str, dict[str, Any]]:
    """Three adapters: bank customers' topics, a shop's teams, and the shop's handbook as plain text."""
    some: dict[str, Any] = {
        "model": model,
        "task": "text-generation",
        "keep": [{"data": str(TICKETS / "general.txt"), "name": "general"}],
        "train": {"learning_rate": 3e-4, "batch_tokens": 256},
        "measurement": {"rows": 48, "dial_rows": 12, "drift_sequences": 16, "drift_tokens": 64, "max_new_tokens": 8},
    }
    topics = {"train": "quickstart:train", "eval": "quickstart:test", "system": "", "max_length": 256}
    teams = {"train": str(TICKETS / "tickets.jsonl"), "eval": str(TICKETS / "tickets-test.jsonl"), "max_length": 256}
    text = {"train": str(TICKETS / "handbook.txt"), "validation": "20%", "max_length": 64}
    of = {
        "topics": {"data": topics, "methods": [{"lora": {"rank": 16}}], "budget": {"tokens": "15k"}},
        "teams": {"data": teams, "methods": [{"lora": {"rank": 8}}], "budget": {"epochs": 6}},
        "handbook": {"data": text, "methods": [{"lora": {"rank": 8}}], "budget": {"epochs": 40}},
    }
    of["handbook"]["measurement"] = {**some["measurement"], "split": "validation"}
    if short:
        for recipe in of.values():
            recipe["budget"] = {"steps": 3}
    return {name: {**some, **recipe} for name, recipe in of.items()}


def say(text: str) -> None:
    print(text, flush=True)


def tunewright(*words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a verb, and give what it printed."""
    say(f"$ tunewright {' '.join(words)}")
    done = subprocess.run([sys.executable, "-m", "tunewright", *words], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """A verb that serves, while the block runs; gives its address."""
    say(f"$ tunewright {' '.join(words)} &")
    command = [sys.executable, "-m", "tunewright", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if (at := line.find("http://")) >= 0:
                yield line[at:].split()[0].strip('",').removesuffix("/v1").rstrip("/")
                return
        raise SystemExit(f"tunewright {words[0]} ended before it served")
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(client: Any, names: list[str], base: str) -> dict[str, dict[str, str]]:
    """What the base, each adapter and each at half its strength say to their questions."""
    said: dict[str, dict[str, str]] = {}
    for name in names:
        for model in (base, name, f"{name}@0.5"):
            asked = {"model": model, "max_tokens": 12, "temperature": 0}
            if name == "handbook":
                text = client.completions.create(prompt=ASKED[name], **asked).choices[0].text
            else:
                turn = {"role": "user", "content": ASKED[name]}
                text = client.chat.completions.create(messages=[turn], **asked).choices[0].message.content
            said.setdefault(name, {})[model] = text
            say(f"  {model}: {text!r}")
    return said


def train_a_fourth(client: Any, base: str, rows: Path, steps: int | None) -> Any:
    """Begin a job by OpenAI's fine-tuning API."""
    with rows.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    more: dict[str, Any] = {"measurement": {"drift_sequences": 4, "drift_tokens": 16, "strengths": [1]}}
    if steps is not None:
        more["budget"] = {"steps": steps}
    return client.fine_tuning.jobs.create(
        model=base, training_file=uploaded.id, suffix="fourth", extra_body={"tunewright": more}
    )


def wait_for(client: Any, job: Any, seconds: float) -> Any:
    """The job when it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        job = client.fine_tuning.jobs.retrieve(job.id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        time.sleep(1)
    raise SystemExit(f"the job is still {job.status} after {seconds:.0f} s")


def picture(address: str, to: Path) -> None:
    """The board as a picture, where a browser is found."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        say("  no Chromium is found, so there is no picture")
        return
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    shot = [browser, *flags, f"--user-data-dir={to.parent / 'browser'}", "--window-size=1200,900"]
    subprocess.run([*shot, f"--screenshot={to}", address], capture_output=True, timeout=120, check=False)
    shutil.rmtree(to.parent / "browser", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--require", default="kept.general no worse by 0.5")
    parser.add_argument("--short", action="store_true", help="three steps each: to see that it works")
    asked = parser.parse_args()
    import openai

    folder: Path = asked.folder.resolve()
    runs, rejected, passed = folder / "runs", folder / "rejected", list[str]()
    folder.mkdir(parents=True)
    for name, recipe in recipes(asked.model, asked.short).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        tunewright("run", str(folder / f"{name}.yaml"), "--out", str(runs / name))
        verdict = json.loads(
            tunewright("gate", str(runs / name), "--require", asked.require, "--json", codes=(0, 10, 11))
        )
        say(f"  {name}: {verdict['verdict']}")
        if verdict["verdict"] == "pass":
            passed.append(name)
        else:
            rejected.mkdir(exist_ok=True)
            (runs / name).rename(rejected / name)
    if not passed:
        raise SystemExit("no adapter passed its gate: nothing is served")
    base = Path(asked.model).name
    words = ["serve", asked.model, "--adapters", str(runs), "--jobs", str(folder / "jobs"), "--port", "0"]
    with serving(*words, "--name", base) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none")
        say(f"  models: {', '.join(m.id for m in client.models.list())}")
        job = train_a_fourth(client, base, TICKETS / "tickets.jsonl", 3 if asked.short else None)
        say(f"  {job.id} is {job.status}; meanwhile:")
        said = answers(client, passed, base)
        job = wait_for(client, job, 1800)
        if job.status != "succeeded":
            raise SystemExit(f"the job {job.status}: {job.error}")
        turn = {"role": "user", "content": ASKED["teams"]}
        last = client.chat.completions.create(model=job.fine_tuned_model, messages=[turn], max_tokens=12, temperature=0)
        said["fourth"] = {job.fine_tuned_model: last.choices[0].message.content}
        say(f"  {job.fine_tuned_model}: {last.choices[0].message.content!r}")
    (folder / "answers.json").write_text(json.dumps(said, indent=2, ensure_ascii=False))
    tunewright("export", str(runs / passed[0]), "--to", "gguf", "--type", "q8_0", "--out", str(folder / "gguf"))
    with serving("board", str(folder), "--port", "0") as address:
        with urllib.request.urlopen(address, timeout=60) as page:
            say(f"  the board answers {page.status} at {address}")
        picture(f"{address}/", folder / "board.png")


if __name__ == "__main__":
    main()
