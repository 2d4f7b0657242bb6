"""An engine whose pace is known, for measuring what stands before it: `python -m bench.paced_engine PORT MS_A_TOKEN`.

It answers every chat with a stream of `max_tokens` pieces, one each so many milliseconds, whoever asks, and however
many do.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

FIRST_TOKEN_SECONDS = 0.02


def create_app(seconds_a_token: float) -> FastAPI:
    """The engine."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body: dict[str, Any] = await request.json()
        return StreamingResponse(events(body, seconds_a_token), media_type="text/event-stream")

    @app.get("/stats")
    async def stats() -> dict[str, int]:
        return {}

    return app


async def events(body: dict[str, Any], seconds_a_token: float) -> AsyncIterator[bytes]:
    """The stream; each piece is due at its own time, so that a late one doesn't delay the others."""
    tokens = int(body["max_tokens"])
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    loop = asyncio.get_running_loop()
    begin = loop.time() + FIRST_TOKEN_SECONDS
    for number in range(tokens):
        await asyncio.sleep(max(0.0, begin + number * seconds_a_token - loop.time()))
        reason = "stop" if number == tokens - 1 else None
        choice = {"index": 0, "delta": {"role": "assistant", "content": " word"}, "finish_reason": reason}
        yield sse({**head, "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        yield sse({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def sse(value: dict[str, Any]) -> bytes:
    """An event."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


if __name__ == "__main__":
    uvicorn.run(create_app(float(sys.argv[2]) / 1000), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
