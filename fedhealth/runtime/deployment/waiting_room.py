"""The waiting room of a coordinator: who asks for messages and finds none waits here until there may be some.

Flower's parts ask again and again, in seconds. That is slow where something comes and a load
where nothing does: each question is a signature to check and a transaction. Here a question
that says how long it may wait (`WAIT`) is put once, and again when something came for it.

A question for a task is not among them: it is signed for once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from fedhealth.runtime.deployment.door import Receive, Scope, Send

#: The header with the seconds that a caller may wait, and the most that anybody does.
WAIT, LONGEST_S = "x-wait", 25.0
#: What may bring an answer comes in several calls, one after the other; they are taken together.
TOGETHER_S = 0.02

_FLEET, _RUNTIME, _CONTROL = "/v1/fleet/", "/v1/runtime/", "/v1/control/"
#: By the path that is asked, the paths by which an answer may come. That to a hospital which is let in no more is a refusal.
BROUGHT_BY: dict[str, frozenset[str]] = {
    _FLEET + "pull-messages": frozenset(
        {_RUNTIME + "push-messages", _RUNTIME + "push-object", _CONTROL + "unregister-node"}
    ),
    _RUNTIME + "pull-messages": frozenset({_FLEET + "push-messages", _FLEET + "push-object"}),
}


@dataclass(slots=True)
class WaitingRoom:
    """An ASGI app around another, which lets callers wait."""

    inside: Callable[[Scope, Receive, Send], Awaitable[None]]
    _came: dict[str, asyncio.Event] = field(default_factory=dict, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call, at once or when there is something."""
        path = str(scope.get("path", ""))
        wait_s = _wait_s(scope) if path in BROUGHT_BY else 0.0
        if wait_s > 0:
            await self._waited(scope, receive, send, path, wait_s)
            return
        try:
            await self.inside(scope, receive, send)
        finally:
            for asked, brought_by in BROUGHT_BY.items():
                if path in brought_by:
                    self._came.pop(asked, asyncio.Event()).set()

    async def _waited(self, scope: Scope, receive: Receive, send: Send, path: str, wait_s: float) -> None:
        body, deadline = await _body(receive), time.monotonic() + wait_s
        # A message given to a caller who is gone would be lost.
        gone = asyncio.ensure_future(receive())
        try:
            while True:
                # Taken before asking, so that what comes meanwhile is not missed.
                came = asyncio.ensure_future(self._came.setdefault(path, asyncio.Event()).wait())
                answer = await self._asked(scope, body)
                left_s = deadline - time.monotonic()
                if left_s <= 0 or _says_something(answer):
                    break
                await asyncio.wait({came, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return
                await asyncio.sleep(TOGETHER_S)
        finally:
            for waiting in (came, gone):
                waiting.cancel()
        for message in answer:
            await send(message)

    async def _asked(self, scope: Scope, body: bytes) -> list[MutableMapping[str, object]]:
        """What the inside answers."""
        answer: list[MutableMapping[str, object]] = []
        given = iter(({"type": "http.request", "body": body, "more_body": False},))

        async def receive() -> MutableMapping[str, object]:
            for message in given:
                return message
            # Whoever asks again wants to know when the caller is gone: not before the answer.
            await asyncio.sleep(LONGEST_S)
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, object]) -> None:
            answer.append(message)

        await self.inside(dict(scope), receive, send)
        return answer


def _wait_s(scope: Scope) -> float:
    found = dict(scope["headers"]).get(WAIT.encode(), b"0")
    try:
        return min(max(float(found), 0.0), LONGEST_S)
    except ValueError:
        return 0.0


def _says_something(answer: list[MutableMapping[str, object]]) -> bool:
    """Whether an answer is a refusal or has a body; Flower says nothing in no bytes."""
    return any(message.get("status", 200) != 200 or message.get("body") for message in answer)


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body
