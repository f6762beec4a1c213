"""Files that clients upload, and results that jobs leave: a folder each, named by the server."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError
from tunewright.files.cache import written_aside
from tunewright.files.checkpoint import write_json
from tunewright.serve.errors import ApiError
from tunewright.serve.jobs import ids
from tunewright.serve.jobs.limits import JobLimits

PURPOSE, RESULTS = "fine-tune", "fine-tune-results"
META, CONTENT = "file.json", "content.jsonl"
Json = dict[str, Any]


class Files:
    """Files below `folder`, which is made. What a client calls a file is shown and never a path."""

    def __init__(self, folder: Path, limits: JobLimits):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.limits, self._lock = folder, limits, threading.Lock()

    def add(self, filename: str, pieces: Iterable[bytes], *, purpose: str = PURPOSE) -> Json:
        """Keep a file. ApiError where it is too large or empty, or where there are too many."""
        with self._lock:
            known = self.list()
            if len(known) >= self.limits.files:
                raise ApiError(400, f"This server keeps {self.limits.files} files. Delete some first.", param="file")
            room = self.limits.files_bytes - sum(f["bytes"] for f in known)
            given = ids.new(ids.FILE)
            try:
                with written_aside(self.folder / given) as aside:
                    size = self._write(aside / CONTENT, pieces, room)
                    about: Json = {
                        "id": given,
                        "object": "file",
                        "bytes": size,
                        "created_at": int(time.time()),
                        "filename": shown(filename),
                        "purpose": purpose,
                        "status": "processed",
                    }
                    write_json(aside / META, about)
            except FolderError as error:
                raise ApiError(503, f"The file cannot be kept: {error.what}.") from error
            return about

    def _write(self, path: Path, pieces: Iterable[bytes], room: int) -> int:
        size = 0
        with open(path, "wb") as out:
            for piece in pieces:
                size += len(piece)
                if size > self.limits.file_bytes:
                    most = f"{self.limits.file_bytes:,}"
                    raise ApiError(413, f"A file has at most {most} bytes here.", param="file")
                if size > room:
                    raise ApiError(400, "This server's room for files is used up. Delete some first.", param="file")
                out.write(piece)
        if not size:
            raise ApiError(400, "The file is empty.", param="file")
        return size

    def list(self) -> list[Json]:
        """All files, the newest first."""
        found = [about for name in os.listdir(self.folder) if (about := self._read(name)) is not None]
        return sorted(found, key=lambda f: (f["created_at"], f["id"]), reverse=True)

    def get(self, given: str, param: str = "file_id") -> Json:
        """What is known of a file. ApiError (404) where there is none."""
        about = self._read(ids.checked(ids.FILE, given, param))
        if about is None:
            raise ids.missing(ids.FILE, given, param)
        return about

    def path(self, given: str, param: str = "file_id") -> Path:
        """Where a file's content lies. ApiError (404) where there is none."""
        return self.folder / str(self.get(given, param)["id"]) / CONTENT

    def delete(self, given: str) -> None:
        """Forget a file; jobs have copies of their own. ApiError (404) where there is none."""
        with self._lock:
            shutil.rmtree(self.folder / str(self.get(given)["id"]), ignore_errors=True)

    def _read(self, name: str) -> Json | None:
        try:
            found = json.loads((self.folder / name / META).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("id") == name else None


def shown(filename: str) -> str:
    """What a client calls a file, as it is shown: its last part, without what no terminal prints."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:200] or "file.jsonl"


def copied(source: Path, target: Path) -> None:
    """The same content under another name: a second name of one file where the disk has such."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
