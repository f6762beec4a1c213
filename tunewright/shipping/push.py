"""The verb `push`: a run's adapter or model, or a folder that `export` wrote, to a hub, with a card of the report.

Files go by a list of names that may go: weights, configs, tokenizers, the card. Optimizer states, checkpoints, rows and
logs are on none, and what looks like a secret in a text stops the push.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import FolderError, MethodError, MissingExtraError, RecipeError
from tunewright.finished.export import export
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs import intact
from tunewright.runs.folder import RECIPE
from tunewright.shipping import card as cards
from tunewright.weights.card import READERS

NAMES = re.compile(
    r"(model|adapter_model|pytorch_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|"
    r"(adapter_config|config|generation_config|modules|sentence_bert_config|special_tokens_map|processor_config|"
    r"config_sentence_transformers)\.json|README\.md|Modelfile|[\w.-]+\.gguf|model\.onnx(\.data)?|"
    + "|".join(re.escape(n) for n in READERS)
)
"""Files that may go to a hub; a folder of one level (a sentence model's modules) may hold them too."""
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@"
)
"""Tokens of hubs and clouds, keys, and passwords in addresses."""
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]{0,95}")
TRANSPORTS = ("httpx", "httpx2", "requests")
"""Libraries that versions of huggingface_hub speak through, whose errors are no OSError in all of them."""
TEXTS = (".json", ".md", ".jinja", ".txt", "")


@dataclass
class Pushed:
    """What went, or in a dry run would go: files with bytes, the card, who may see it, and the commit's address."""

    repo: str
    kind: str
    private: bool
    files: dict[str, int]
    card: str
    dry_run: bool
    url: str | None = None
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def page(self) -> str:
        size = sum(self.files.values())
        seen = "private" if self.private else "public"
        did = "would push" if self.dry_run else "pushed"
        lines = [f"{did} {len(self.files)} files ({size / 1e6:.1f} MB) to {self.repo} ({seen})"]
        lines += [f"  {name}  {count:,} bytes" for name, count in sorted(self.files.items())]
        if self.left_out:
            lines.append(f"not pushed: {', '.join(self.left_out[:8])}")
        lines += [f"note: {n}" for n in self.notes]
        if self.url:
            lines.append(self.url)
        return "\n".join([*lines, *(["", self.card] if self.dry_run else [])])


def push(ref: Path, repo: str, *, kind: str = "auto", private: bool = True, dry_run: bool = False) -> Pushed:
    """Push a finished run (`kind`: adapter, model, or auto: the adapter where there is one) or a folder to `repo`.

    RecipeError for a name that is none; MethodError for an adapter that there is not, and for a secret in a text;
    FolderError for a folder of neither kind, or one without a card; MissingExtraError for a hub that is out of reach,
    wants a login or forbids it, and for a repository that is there and public when `private` is asked for.
    """
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise RecipeError(f"'{repo}' is no name of a repository", where="push", remedy="write owner/name")
    with _staged(ref, kind) as (folder, what, notes):
        left_out = _only_named(folder)
        _no_secrets(folder)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        pushed = Pushed(repo, what, private, files, (folder / "README.md").read_text(encoding="utf-8"), dry_run,
                        left_out=left_out, notes=notes)  # fmt: skip
        if not dry_run:
            pushed.url = _upload(folder, repo, private)
    return pushed


@contextmanager
def _staged(ref: Path, kind: str) -> Iterator[tuple[Path, str, list[str]]]:
    """(a passing folder of what goes, adapter or model, notes)."""
    scratch = Path(tempfile.mkdtemp(prefix="tunewright-push-"))
    try:
        if (ref / RECIPE).exists():
            yield _of_run(ref, kind, scratch)
        elif ref.is_dir():
            if kind != "auto":
                raise RecipeError("a folder goes as it is", where="--as", remedy="leave it out")
            if not (ref / "README.md").exists():
                raise FolderError(
                    "this folder has no card (README.md)", where=str(ref), remedy="push the run, whose card is written"
                )
            shutil.copytree(ref, scratch / "folder", symlinks=True)
            what = "adapter" if (ref / "adapter_config.json").exists() else "model"
            yield scratch / "folder", what, []
        else:
            raise FolderError(
                "there is no such folder", where=str(ref), remedy="name a finished run or a model's folder"
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _of_run(ref: Path, kind: str, scratch: Path) -> tuple[Path, str, list[str]]:
    if kind not in ("auto", "adapter", "model"):
        raise RecipeError(f"'{kind}' is nothing that a run has", where="--as", remedy="write adapter or model")
    if not (ref / Report.file).exists():
        raise FolderError("this run is not finished", where=str(ref), remedy=f"tunewright resume {ref}")
    intact.check(ref, may_lack=intact.TO_READ)
    recipe, report = Recipe.load(ref / RECIPE), Report.load(ref)
    adapter = ref / "adapter"
    if kind == "adapter" and not adapter.is_dir():
        raise MethodError(
            "this run left no adapter", where=str(ref), remedy="push its model: --as model; or extract-lora first"
        )
    if kind == "adapter" and recipe.new_tokens:
        raise MethodError(
            "this run added tokens to the vocabulary, which its adapter does not carry",
            where=str(ref),
            remedy="push its model: --as model",
        )
    notes: list[str] = []
    folder = scratch / "folder"
    if kind != "model" and adapter.is_dir() and not recipe.new_tokens:
        what = "adapter"
        shutil.copytree(adapter, folder)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = cards.base_of(recipe)
        config["base_model_name_or_path"] = base or Path(recipe.model.name).name
        (folder / "adapter_config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        if base is None:
            notes.append(f"the base '{Path(recipe.model.name).name}' is a folder of this machine: push it too")
    else:
        what = "model"
        export(ref, folder, quiet=True)
    (folder / "README.md").write_text(cards.card(recipe, report, what), encoding="utf-8")
    if not (report.model and report.model.licence):
        notes.append("the base states no licence, and so the card states none")
    return folder, what, notes


def _only_named(folder: Path) -> list[str]:
    """Take away what may not go; return its names."""
    out = []
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
            continue
        if path.is_symlink() or name.count("/") > 1 or not NAMES.fullmatch(path.name):
            out.append(name)
            path.unlink()
    return sorted(out)


def _no_secrets(folder: Path) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in TEXTS):
        if path.name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"):
            continue  # a vocabulary's tokens are no secrets, and may look like any
        if found := SECRETS.search(path.read_text(encoding="utf-8", errors="replace")):
            raise MethodError(
                f"'{found[0][:6]}...' looks like a secret",
                where=f"{path.name} of what would be pushed",
                remedy="take it out of the recipe (or the file), then push again",
            )


def _upload(folder: Path, repo: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="tunewright")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and api.repo_info(repo).private is False:
            raise MissingExtraError(
                "the repository is there and everybody sees it", where=repo, remedy="write --public, or another name"
            )
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Push with Tunewright")
    except LocalTokenNotFoundError as error:
        raise MissingExtraError("the hub wants a login", where=repo, remedy="hf auth login, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        said = str(getattr(error, "server_message", None) or error).strip().splitlines()[0]
        remedy = "hf auth login, or set HF_TOKEN to a token that may write" if code in (401, 403) else "try again later"
        raise MissingExtraError(f"the hub says no ({code}): {said}", where=repo, remedy=remedy) from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in TRANSPORTS:
            raise
        raise MissingExtraError(
            f"the hub is out of reach: {error}", where=repo, remedy="connect, and try again"
        ) from error
    return str(done.commit_url)
