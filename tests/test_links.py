"""Every relative link of every Markdown file leads to a file that is there, and every anchor to a heading of it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FORGE = "https://github.com/tunewright/tunewright"
_MADE = {"build", "dist", "runs"}
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def pages(root: Path = ROOT) -> list[Path]:
    """Markdown files of a checkout, without those of environments, builds and runs."""
    paths = (p.relative_to(root) for p in root.rglob("*.md"))
    return sorted(p for p in paths if not any(part[0] == "." or part in _MADE for part in p.parts[:-1]))


def anchors(text: str) -> set[str]:
    """The anchors that the forge makes of a page's headings."""
    out: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = sum(1 for a in out if a == slug or re.fullmatch(re.escape(slug) + r"-\d+", a))
        out.add(f"{slug}-{count}" if count else slug)
    return out


def dead(page: Path, root: Path = ROOT) -> list[str]:
    """Links of a page that lead nowhere. Links to other servers are not followed."""
    text = (root / page).read_text(encoding="utf-8")
    out = []
    for link in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        own = re.match(re.escape(FORGE) + r"/(?:blob|tree)/main/(.*)", link)
        if re.match(r"[a-z]+:", link) and own is None:
            continue
        path, _, anchor = (own[1] if own else link).partition("#")
        file = root / path if own else root / page.parent / path if path else root / page
        headed = file.is_file() and (
            not anchor or file.suffix != ".md" or anchor in anchors(file.read_text(encoding="utf-8"))
        )
        if not (headed or (file.is_dir() and not anchor)):
            out.append(link)
    return out


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_pages_are_found() -> None:
    assert {Path("README.md"), Path("CONTRIBUTING.md"), Path("docs/glossary.md"), Path("examples/README.md")} <= set(
        pages()
    )


def test_dead_links_and_anchors_are_seen(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# What `it` is, and how\n\n## Twice\n\n## Twice\n")
    forge = f"{FORGE}/blob/main"
    good = ["docs/b.md", "docs/b.md#what-it-is-and-how", "docs/b.md#twice-1", "#here", f"{forge}/docs/b.md", "docs"]
    bad = ["docs/c.md", "docs/b.md#no", "docs/b.md#twice-2", "#there", f"{forge}/docs/c.md", "../docs"]
    quoted = "```\n[x](nowhere.md)\n```\n`[y](nowhere.md)` [z](https://example.org/nowhere)\n"
    (tmp_path / "a.md").write_text("# Here\n" + " ".join(f"[x]({link})" for link in [*good, *bad]) + "\n" + quoted)
    assert dead(Path("a.md"), tmp_path) == bad


# -- the documentation site ------------------------------------------------------------------------------------------


def site() -> dict[str, object]:
    tree: dict[str, object] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return tree


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_links", ROOT / "docs" / "site_links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_sites_navigation() -> None:
    def files(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        children = node.values() if isinstance(node, dict) else node
        assert isinstance(children, list) or isinstance(node, dict)
        return [f for child in children for f in files(child)]  # type: ignore[union-attr]

    listed = files(site()["nav"])
    assert sorted(listed) == sorted(p.relative_to("docs").as_posix() for p in pages() if p.parts[0] == "docs"), (
        "name it in nav: of mkdocs.yml"
    )


def test_the_sites_links_to_other_files_lead_to_the_forge() -> None:
    assert site()["repo_url"] == FORGE
    outside = hook().outside
    leads = {
        "../tunewright/errors.py": f"{FORGE}/blob/main/tunewright/errors.py",
        "../README.md#start": f"{FORGE}/blob/main/README.md#start",
        "../tests": f"{FORGE}/tree/main/tests",
        "recipe.md#keep": "recipe.md#keep",
    }
    for link, leads_to in leads.items():
        assert outside(f"[a]({link})", "glossary.md", FORGE) == (f"[a]({leads_to})", []), link
    assert outside("[a](../recipe.md)", "api/contract.md", FORGE) == ("[a](../recipe.md)", [])
    assert outside("[a](../nothing.md)", "glossary.md", FORGE)[1] == ["../nothing.md"]
