"""The clients of `benchmarks.serve`, as a process of their own: they must not share the server's interpreter.

Reads JSON from standard input (`address`, `models`: whom each client asks, `each`: requests of a client, `new`: tokens
asked for, `prompts`: each client after the other), asks with all clients at once, and prints the seconds of each
request and of the whole.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


async def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Every client asks its own requests one after the other, of its own adapter."""
    import httpx

    each, prompts, seconds = asked["each"], asked["prompts"], list[float]()

    async def client(number: int) -> None:
        async with httpx.AsyncClient(timeout=600) as http:
            for prompt in prompts[number * each : (number + 1) * each]:
                body = {
                    "model": asked["models"][number],
                    "prompt": prompt,
                    "max_tokens": asked["new"],
                    "temperature": 0,
                }
                began = time.perf_counter()
                got = (await http.post(asked["address"], json=body)).json()
                seconds.append(time.perf_counter() - began)
                if got["usage"]["completion_tokens"] != asked["new"]:
                    raise SystemExit(f"an answer of another length: {got}")

    began = time.perf_counter()
    await asyncio.gather(*(client(n) for n in range(len(prompts) // each)))
    return {"clock": time.perf_counter() - began, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(json.load(sys.stdin)))))
