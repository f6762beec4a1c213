"""The chat template of a merged model: that of most models, one by a name that mergekit knows, or its own text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.errors import RecipeError, did_you_mean
from tunewright.weights.names import reader_folder
from tunewright.weights.source import Source

NAMED: Mapping[str, str] = {
    "chatml": (
        "{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor -%}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"
    ),
    "llama3": (
        "{%- for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ (m.content | trim) ~ '<|eot_id|>' }}"
        "{% endfor -%}"
        "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif -%}"
    ),
    "alpaca": (
        "{%- for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}{% elif m.role == 'user' %}"
        "{{ '### Instruction:\\n' ~ (m.content | trim) }}{% elif m.role == 'user_context' %}"
        "{{ '### Input:\\n' ~ (m.content | trim) }}{% else %}{{ '### Response:\\n' ~ (m.content | trim) }}{% endif %}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor -%}"
        "{%- if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '\\n\\n### Response:\\n' }}{% endif -%}"
    ),
    "mistral": (
        "{{- bos_token }}{%- set system = messages[0].content if messages[0].role == 'system' else none -%}"
        "{%- for m in (messages if system is none else messages[1:]) -%}{%- set text = m.content -%}"
        "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
        "{{ raise_exception('users and assistants must take turns after the system message') }}{%- endif -%}"
        "{%- if m.role == 'user' -%}"
        "{{ ' [INST] ' ~ (system ~ '\\n\\n' if loop.first and system is not none else '') ~ text ~ ' [/INST]' }}"
        "{%- else -%}{{ ' ' ~ text ~ eos_token }}{%- endif -%}{%- endfor -%}"
    ),
    "exaone": (
        "{%- for m in messages %}"
        "{% if loop.first and m.role != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
        "{{ '[|' ~ m.role ~ '|]' ~ m.content ~ ('\\n' if m.role == 'user' else '[|endofturn|]\\n') }}{% endfor -%}"
        "{%- if add_generation_prompt %}{{ '[|assistant|]' }}{% endif -%}"
    ),
}


def checked(asked: Any, where: str) -> str | None:
    """What a file says under chat_template. RecipeError for what is neither a name nor a template."""
    if asked is None or (isinstance(asked, str) and asked in ("auto", *NAMED)):
        return asked  # type: ignore[no-any-return]
    if not isinstance(asked, str) or "{" not in asked:
        raise RecipeError(
            f"{asked!r} is no chat template",
            where=f"{where}: chat_template",
            remedy=did_you_mean(str(asked), ["auto", *NAMED]) + "; or write the template itself",
        )
    import jinja2

    try:
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(asked.replace("{% generation %}", ""))
    except (jinja2.TemplateError, RecursionError) as e:
        if "generation" not in str(e):
            raise RecipeError(
                f"the chat template is not readable: {e}", where=f"{where}: chat_template", remedy="mend the template"
            ) from e
    return asked


def template_in(folder: Path) -> str | None:
    """A folder's own chat template: its file, or what its tokenizer's settings hold."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(found, list):
        found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def write(folder: Path, asked: str, sources: Sequence[Source]) -> str | None:
    """Put the template that was asked for into a result's folder; a note where none of the models has one."""
    text: str | None = NAMED.get(asked, asked)
    if asked == "auto":
        known = [t.strip() for s in sources if (t := template_in(reader_folder(s)))]
        text = Counter(known).most_common(1)[0][0] if known else None
    if text is None:
        return "chat_template: auto found no template: no model has one"
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        values = json.loads(settings.read_text(encoding="utf-8"))
        values.pop("chat_template", None)
        settings.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return None
