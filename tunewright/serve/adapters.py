"""Adapters by name: a folder of them on disk, the ones used lately in memory, and what is drawn at `name@0.75`.

A name is a folder below the root: a run's, a PEFT adapter's, or one of a saved change (delta.json). Nothing is read of
those that nobody asks for. Of those in memory the ones that were not asked for longest go first, once they are more
than a limit of bytes; the model's own copies are the engine's (`lanes`). Names and paths never leave the root, and
nothing but safetensors is read.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from tunewright.errors import FolderError, ModelError, TunewrightError, nearest
from tunewright.models import delta_format, peft_format
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Delta, LowRank
from tunewright.models.peft_prompts import BEFORE_ROWS
from tunewright.serve.before import Before, read_before
from tunewright.serve.errors import ApiError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of adapters: what needs no escape in a path, a URL or a shell."""
DEEPEST = 4
PEFT_MARKS = (peft_format.CONFIG, f"adapter/{peft_format.CONFIG}")
"""Most folders of a `lora_path` below the root."""
STRONGEST = 4.0

_numbers = itertools.count(1)


@dataclass(eq=False)
class Adapter:
    """An adapter in memory: one delta a site, or what stands before rows. `number` is never given twice, so that a name
    that is loaded again from other files is another adapter. `pinned`: it has no files, and stays.
    """

    name: str
    deltas: Mapping[str, Delta]
    before: Before | None = None
    pinned: bool = False
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def bytes(self) -> int:
        held = sum(t.nbytes for d in self.deltas.values() for t in d.state_dict().values())
        return held + (self.before.bytes if self.before is not None else 0)

    @property
    def reads_rows(self) -> bool:
        """Whether a token's state depends on more than the tokens before it."""
        return any(d.reads_rows for d in self.deltas.values())


@dataclass(frozen=True)
class Variant:
    """An adapter at a strength, as rows have it."""

    adapter: Adapter
    strength: float = 1.0

    @property
    def key(self) -> str:
        """The name that its deltas have on the model."""
        return f"s{self.adapter.number}x{self.strength:g}".replace(".", "p").replace("-", "m").replace("+", "")

    @property
    def ahead(self) -> int:
        """Places of a row that its adapter takes before the prompt."""
        return 0 if self.adapter.before is None else self.adapter.before.length

    def deltas(self, device: torch.device) -> dict[str, Delta]:
        """Deltas of its own; on the CPU their tensors are the adapter's."""
        out = {}
        for site, delta in self.adapter.deltas.items():
            own = copy.copy(delta) if device.type == "cpu" else copy.deepcopy(delta)
            own.strength = delta.strength * self.strength
            out[site] = own
        return out


class Library:
    """Adapters for `adapted`, below `root` (None: none on disk). `limit`: bytes in memory of those that have files."""

    def __init__(self, adapted: Adapted, base: str, root: Path | None = None, *, limit: int = 1 << 30):
        self.adapted, self.base, self.limit = adapted, base, limit
        if root is not None and not root.is_dir():
            raise FolderError("there is no such folder", where=str(root), remedy="name the folder that holds adapters")
        if root is not None and _holds(root):
            raise FolderError(
                "this is an adapter itself", where=str(root), remedy=f"name the folder around it: {root.parent}"
            )
        self.root = None if root is None else root.resolve()
        # taken now: the engine hangs deltas on the model while adapters are read
        self._weights = adapted.base_parameters()
        self._there: OrderedDict[str, Adapter] = OrderedDict()
        self._paths: dict[str, Path] = {}
        self._dropped: set[str] = set()
        self._looked: dict[Path, tuple[tuple[int, int, int], bool]] = {}
        self._lock, self._loading = threading.Lock(), threading.Lock()
        # one thread reads: every thread that did would keep memory of its own for the next adapter
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tunewright-adapters")

    def names(self) -> list[str]:
        """All names that may be asked for, but the base's."""
        with self._lock:
            known = {n for n, a in self._there.items() if a.pinned} | set(self._paths)
        return sorted(known | (self._on_disk() - self._dropped))

    def _on_disk(self) -> set[str]:
        if self.root is None:
            return set()
        with os.scandir(self.root) as entries:
            folders = [e for e in entries if NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        return {e.name for e in folders if self._serves(Path(e.path)) and e.name != self.base}

    def _serves(self, folder: Path) -> bool:
        """Whether a folder's change is an adapter as far as a look tells; a run that tuned the base's weights is none.

        Looked at again where the file has changed: a list of a thousand names reads no file twice.
        """
        if any((folder / mark).is_file() for mark in PEFT_MARKS):
            return True
        try:
            stands = (folder / delta_format.HOW).stat()
        except OSError:
            return False
        key = (stands.st_ino, stands.st_mtime_ns, stands.st_size)
        known = self._looked.get(folder)
        if known is None or known[0] != key:
            known = self._looked[folder] = key, delta_format.is_deltas_alone(folder)
        return known[1]

    def takes_strength(self, name: str) -> bool:
        """Whether a name may be asked for at a strength, name@0.5: not the base, nor what puts tokens before rows.
        Reads an adapter's settings where it is not in memory.
        """
        if name == self.base:
            return False
        with self._lock:
            adapter = self._there.get(name)
        if adapter is not None:
            return adapter.before is None
        path = self._paths.get(name) or (self.root / name if self.root is not None else None)
        if path is None:
            return False
        inner = path / "adapter" if (path / "adapter" / peft_format.CONFIG).is_file() else path
        file = inner / peft_format.CONFIG
        try:
            return _kind(file, file.stat().st_mtime_ns) not in BEFORE_ROWS
        except FileNotFoundError:
            return True  # a delta of ours
        except (OSError, ValueError):
            return False

    def find(self, model: str) -> Variant | None:
        """What a request's `model` names: an adapter, loaded if it was not, or None for the base. Reads files.

        ApiError (404) for a name that there is not, (400) for a strength or an adapter that cannot be used.
        """
        name, at, dial = model.partition("@")
        strength = 1.0
        if at:
            strength = _strength(dial)
        if name == self.base:
            return None
        with self._lock:
            adapter = self._there.get(name)
            if adapter is not None:
                self._there.move_to_end(name)
        if adapter is None:
            adapter = self._load(name)
        if adapter.before is not None and strength not in (0.0, 1.0):
            what = f"What '{name}' puts before rows is there or not: write '{name}', without a strength."
            raise ApiError(400, what, param="model")
        return None if strength == 0.0 else Variant(adapter, strength)

    def _load(self, name: str) -> Adapter:
        with self._loading:
            with self._lock:
                if name in self._there:
                    return self._there[name]
                asked = self._asked(name)
            path, dropped = asked
            if path is None and self.root is not None and NAME.fullmatch(name) and not dropped:
                path = self.root / name
            if path is None or path.is_symlink() or not _holds(path):
                near = nearest(name[:100], [self.base, *self.names()])
                hint = f" Did you mean '{near[0]}'?" if near else " /v1/models lists those that there are."
                raise ApiError(
                    404, f"The model '{name[:100]}' does not exist.{hint}", param="model", code="model_not_found"
                )
            try:
                adapter = Adapter(name, *self._reader.submit(self._read, path).result())
            except TunewrightError as error:
                more = f" To write instead: {error.remedy}." if error.remedy else ""
                what = f"The adapter '{name}' cannot be used: {error.what}.{more}"
                raise ApiError(400, what, param="model") from error
            self._keep(adapter, asked)
            return adapter

    def _asked(self, name: str) -> tuple[Path | None, bool]:
        """What names the files of an adapter: the path that it was loaded from, and whether it was unloaded since."""
        return self._paths.get(name), name in self._dropped

    def _keep(self, adapter: Adapter, asked: tuple[Path | None, bool]) -> None:
        """Hold it for the next that ask, unless the name was unloaded or given to other files while it was read."""
        with self._lock:
            if self._asked(adapter.name) != asked:
                return
            self._there[adapter.name] = adapter
            held = sum(a.bytes for a in self._there.values() if not a.pinned)
            for name in [n for n, a in self._there.items() if not a.pinned and a is not adapter]:
                if held <= self.limit:
                    break
                held -= self._there.pop(name).bytes

    def _read(self, folder: Path) -> tuple[dict[str, Delta], Before | None]:
        """One delta a site, or what stands before rows. ModelError where the change is more than that."""
        self._check_files(folder)
        inner = folder / "adapter" if (folder / "adapter" / peft_format.CONFIG).is_file() else folder
        if (inner / peft_format.CONFIG).is_file():
            before = read_before(inner, self.adapted)
            if before is not None:
                return {}, before
            deltas, values = peft_format.adapter_deltas(self.adapted, inner)
            known = self._weights
            if moved := [n for n, t in values.items() if n not in known or not torch.equal(t.to(known[n]), known[n])]:
                raise ModelError(f"it holds whole tensors of the base that differ, such as '{moved[0]}'")
            found: dict[str, Delta] = dict(deltas)
        else:
            if not (folder / delta_format.HOW).is_file():
                raise ModelError("the run left no adapter: its change wraps the model, or it is not finished")
            found = {s: _one(s, by_name) for s, by_name in delta_format.deltas_alone(self.adapted, folder).items()}
        for delta in found.values():
            delta.eval().requires_grad_(False)
        return found, None

    def _check_files(self, folder: Path) -> None:
        """ModelError for a file that is a link to somewhere outside of the root."""
        if self.root is None or not folder.is_relative_to(self.root):  # named by whoever started the server
            return
        names = (peft_format.CONFIG, peft_format.WEIGHTS, delta_format.HOW, delta_format.WEIGHTS)
        for part in (folder, folder / "adapter", *(f / n for f in (folder, folder / "adapter") for n in names)):
            if not part.resolve().is_relative_to(self.root):
                raise ModelError(f"'{part.name}' is a link that leaves the folder of adapters")

    def load(self, name: str, path: str) -> Adapter:
        """Take an adapter at a path below the root under a name. ApiError where it cannot be."""
        if not NAME.fullmatch(name) or name == self.base:
            what = "is the base's" if name == self.base else "has letters, digits and . _ - alone, up to 128"
            raise ApiError(400, f"The name {what}.", param="lora_name")
        if self.root is None:
            raise ApiError(400, "This server was started without --adapters.", param="lora_path")
        with self._lock:
            taken = name in self._paths or (name in self._there and self._there[name].pinned)
        if taken:
            raise ApiError(400, f"The adapter '{name}' is loaded already.", param="lora_name")
        parts = Path(path).parts
        folder = self.root.joinpath(*parts) if 0 < len(parts) <= DEEPEST or Path(path).is_absolute() else None
        try:
            inside = folder is not None and "\0" not in path and folder.resolve().is_relative_to(self.root)
            there = inside and folder is not None and folder.resolve() != self.root and _holds(folder)
        except (OSError, ValueError):
            there = False
        if not there or folder is None:
            raise ApiError(
                404, "There is no adapter at this path below the folder of adapters.", param="lora_path",
            )  # fmt: skip
        with self._lock:
            self._there.pop(name, None)
            self._paths[name] = folder.resolve()
            self._dropped.discard(name)
        try:
            return self._load(name)
        except BaseException:
            with self._lock:
                self._paths.pop(name, None)
            raise

    def serve(self, name: str, folder: Path) -> None:
        """Serve what lies in a folder, of the root or not, under a name. For whoever starts the server. ApiError."""
        with self._lock:
            self._paths[name] = folder
        self._load(name)

    def folder_of(self, name: str) -> Path:
        """Where an adapter's files are. ApiError (400) for one that is in memory alone."""
        with self._lock:
            path = self._paths.get(name)
        if path is None and self.root is not None and (self.root / name).is_dir():
            path = self.root / name
        if path is None:
            raise ApiError(400, f"The adapter '{name}' has no files.", param="model")
        return path

    def unload(self, name: str) -> None:
        """Serve a name no more, until it is loaded again; rows that have it are written to their end."""
        if name not in self.names():
            raise ApiError(404, f"The adapter '{name[:100]}' is not there.", param="lora_name")
        with self._lock:
            self._there.pop(name, None)
            self._paths.pop(name, None)
            self._dropped.add(name)

    def add(self, name: str, deltas: Mapping[str, Delta]) -> Adapter:
        """Serve deltas that are in memory alone, under a name; those that had it are replaced."""
        if not NAME.fullmatch(name) or name == self.base:
            raise ModelError(f"'{name[:100]}' is no name for an adapter", remedy="letters, digits and . _ - alone")
        adapter = Adapter(name, dict(deltas), pinned=True)
        with self._lock:
            self._there[name] = adapter
            self._dropped.discard(name)
        return adapter

    @property
    def held(self) -> int:
        """Bytes of all adapters in memory."""
        with self._lock:
            return sum(a.bytes for a in self._there.values())


def _holds(folder: Path) -> bool:
    """Whether a folder looks like an adapter, or like a run that left one."""
    return any((folder / mark).is_file() for mark in (*PEFT_MARKS, delta_format.HOW, "report.json"))


def _strength(dial: str) -> float:
    try:
        strength = float(dial) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", dial) else float("nan")
    except ValueError:  # digits that are no decimal ones
        strength = float("nan")
    if not 0.0 <= strength <= STRONGEST:
        raise ApiError(400, f"A strength is a number from 0 to {STRONGEST:g}, as in name@0.75.", param="model")
    return strength


def _one(site: str, by_name: Mapping[str, Delta]) -> Delta:
    """Several low-rank deltas of a site as one."""
    deltas = list(by_name.values())
    if len(deltas) == 1:
        return deltas[0]
    if not all(isinstance(d, LowRank) for d in deltas):
        raise ModelError(f"several changes of other kinds than low-rank lie on '{site}'")
    A, B, scale = peft_format.combined(deltas)
    return LowRank(A, B, scale)


@lru_cache(4096)
def _kind(file: Path, _changed: int) -> str:
    """The type that an adapter's settings name; read once as long as the file stays as it is."""
    config = json.loads(file.read_text(encoding="utf-8"))
    return str(config.get("peft_type")) if isinstance(config, dict) else ""
