"""What the typed files of a run and a comparison are made of: parts with fixed fields, and a file that is written
whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tunewright.errors import FolderError
from tunewright.files.regular import regular


class Part(BaseModel):
    """A part of such a file: fields are fixed, so that a misspelt key is an error and not a lost number."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Saved(Part):
    """A whole file.

    Subclasses say its name, what it is called in messages, and what to do about one that cannot be read.
    """

    file: ClassVar[str]
    noun: ClassVar[str]
    where_else: ClassVar[str]
    again: ClassVar[str]

    def dumps(self) -> str:
        """Return the file's text: UTF-8 JSON, fields in the order of the schema; what is not finite becomes null."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, folder: Path | str) -> Path:
        """Write it aside in `folder`, then rename it over the old one; return its path.

        FolderError when it cannot be written.
        """
        path = Path(folder) / self.file
        aside = path.with_name(f".{self.file}.tmp")
        try:
            aside.write_text(self.dumps(), encoding="utf-8")
            os.replace(aside, path)
        except OSError as error:
            remedy = "free space or choose another --out"
            raise FolderError(
                f"cannot write the {self.noun}: {error.strerror or error}", where=str(path), remedy=remedy
            ) from error
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the file, or the one in a folder. FolderError naming the file and the field."""
        path = Path(path)
        path = path / cls.file if path.is_dir() else path
        try:
            return cls.model_validate_json(regular(path).read_bytes())
        except OSError as error:
            raise FolderError(
                f"no {cls.noun} here: {error.strerror}", where=str(path), remedy=cls.where_else
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the file"
            version = cls.model_fields["version"].default
            cut = first["type"] == "json_invalid"  # cut off in the middle, or no JSON at all: of no version
            what = f"the {cls.noun} is not whole" if cut else f"not a {cls.noun} of version {version}: {field}"
            raise FolderError(f"{what}: {first['msg']}", where=str(path), remedy=cls.again) from error
