"""What vulture takes for unused in tunewright/ and is not, by why. tests/test_dead_code.py refuses a name that is used.

Found without being named here: what a recipe names (classes and slot functions of methods, tasks and so on), fields of
pydantic models, and functions that a decorator registers.
"""

from __future__ import annotations

ANSWERED: dict[str, tuple[str, ...]] = {
    "read by pydantic": ("model_config",),
    "set on objects of other libraries, which read it": (
        "__class__",
        "ignore_aliases",
        "pad_token",
        "post_processor",
    ),
    "taken because OpenAI's clients send it, and changes no answer": (
        "function_call",
        "include_obfuscation",
        "lora_int_id",
        "prompt_cache_key",
        "refusal",
        "safety_identifier",
        "service_tier",
    ),
    "read from a file's text by tunewright.papers.link": ("PAPERS",),
    "called or read by http.server, which finds them by name": (
        "allow_reuse_address",
        "client_address",
        "close_connection",
        "daemon_threads",
        "do_GET",
        "do_HEAD",
        "do_POST",
        "handle_error",
        "log_message",
        "send_error",
        "server_version",
        "protocol_version",
        "sys_version",
    ),
    "called by urllib, which finds it by name": ("redirect_request",),
    "called by io, of a stream that it buffers": ("readable",),
    "called by pytest, which finds them by name": ("pytest_addoption", "pytest_generate_tests", "test_method"),
    "called by Python when a module lacks a name, or lists its names": ("__dir__", "__getattr__"),
    "for notebooks and third parties: nothing in the package calls it": (
        "agreed",
        "bias_change",
        "check_method",
        "check_task",
        "shifts",
        "tuned_state",
    ),
    "what transformers' blocks are recomputed by": ("_gradient_checkpointing_func",),
    "how a file was made that ships with the package": ("make_shipped",),
    "read by its name as a text: counts of a plan, figures of a report": (
        "setup_seconds",
        "stored_parameters",
        "picture_tokens",
        "too_long",
    ),
    "fields of what a verb prints with --json, as its schema names them": ("removes", "stays_for"),
    "a setting of llama.cpp's own structure": ("ftype",),
    "read of a stage's result as JSON": ("kept_rows",),
    "what a merge or a task promises; the tests hold it, or are skipped by it": ("needs_data", "symmetric"),
}
