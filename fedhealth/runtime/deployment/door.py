"""The door of a coordinator: what may be asked of it, by whom, and a line for each call.

Flower lets whoever reaches its port start runs and register hospitals. Here a path that is
not in `ACTIONS` does not exist, one that is needs the bearer token of somebody whose role
allows it, and hospitals, who have no token, reach the paths of `FLEET` alone, where Flower
checks their signature.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedhealth.runtime.deployment.tokens import Bearer, Tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_FLEET, _CONTROL, _RUNTIME = "/v1/fleet/", "/v1/control/", "/v1/runtime/"

#: What a hospital's own key opens. It can't register itself: the coordinator enrols it.
FLEET = frozenset(
    _FLEET + name
    for name in (
        "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages",
        "get-run", "push-object", "pull-object", "confirm-message-received",
    )
)  # fmt: skip

#: By path, what a caller must be allowed to do.
ACTIONS: dict[str, str] = {
    _CONTROL + "register-node": "enroll",
    _CONTROL + "unregister-node": "enroll",
    _CONTROL + "start-run": "submit",
    _CONTROL + "stop-run": "stop",
    _CONTROL + "list-runs": "list runs",
    _CONTROL + "list-nodes": "list sites",
    "/docs": "read docs",
    "/openapi.json": "read docs",
    **{
        _RUNTIME + name: "work"
        for name in (
            "acquire-task", "send-task-heartbeat", "pull-task-input", "push-task-output", "push-messages",
            "pull-messages", "push-object", "pull-object", "confirm-message-received", "get-nodes",
        )
    },
}  # fmt: skip

#: Bytes of a call's body at most; Flower cuts arrays into pieces of 5 MiB.
MOST_BYTES = 64 * 2**20
#: Seconds between the lines that count what the coordinator's own processes ask, several times a second.
COUNT_S = 60.0


@dataclass(slots=True)
class Door:
    """An ASGI app around another, which lets in whom it knows.

    Attributes:
        inside: the app.
        tokens: who holds one.
        record: keeps a line, for good.
    """

    inside: Callable[[Scope, Receive, Send], Awaitable[None]]
    tokens: Tokens
    record: Callable[[dict[str, Any]], None]
    _counts: dict[tuple[str, str], int] = field(default_factory=dict, init=False)
    _counted_at: float = field(default_factory=time.monotonic, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or answer it here."""
        if scope["type"] == "lifespan":
            try:
                await self.inside(scope, receive, send)
            finally:
                self._write_counts()
            return
        if scope["type"] != "http":
            return
        path = str(scope["path"])
        if path == "/health" or (path in FLEET and _length(scope) <= MOST_BYTES):
            await self.inside(scope, receive, send)
            return
        started = time.perf_counter()
        bearer = self._bearer(scope)
        refusal = _refusal(path, bearer, _length(scope))
        status = [refusal[0] if refusal else 0]

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = int(message["status"])
            await send(message)

        try:
            if refusal is None:
                await self.inside(scope, receive, noted)
            else:
                await _answer(send, *refusal)
        finally:
            self._note(scope, bearer, status[0], time.perf_counter() - started)

    def _bearer(self, scope: Scope) -> Bearer | None:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                return self.tokens.bearer(value[7:].decode("ascii", "replace"))
        return None

    def _note(self, scope: Scope, bearer: Bearer | None, status: int, took_s: float) -> None:
        who, path = bearer.name if bearer else "", str(scope["path"])
        if ACTIONS.get(path) == "work" and status == 200:
            self._counts[who, path] = self._counts.get((who, path), 0) + 1
            if time.monotonic() - self._counted_at >= COUNT_S:
                self._write_counts()
            return
        client = scope.get("client") or ("", 0)
        self.record(
            {
                "who": who,
                "role": bearer.role if bearer else "",
                "from": client[0],
                "asked": f"{scope['method']} {path[:200]}",
                "status": status,
                "took_ms": round(1000 * took_s, 1),
            }
        )

    def _write_counts(self) -> None:
        """A line for each kind of the calls that are counted."""
        counts, self._counts, self._counted_at = self._counts, {}, time.monotonic()
        for (who, path), calls in sorted(counts.items()):
            self.record({"who": who, "role": "runtime", "asked": f"POST {path}", "status": 200, "calls": calls})


def _refusal(path: str, bearer: Bearer | None, length: int) -> tuple[int, str] | None:
    """The status and words that a call is refused with, or None. Who is unknown does not learn what there is."""
    action = ACTIONS.get(path)
    if bearer is None:
        return 401, "a bearer token of this coordinator is needed"
    if action is None:
        return 404, "there is no such path"
    if not bearer.may(action):
        return 403, f"the role {bearer.role} may not {action}"
    return None if length <= MOST_BYTES else (413, f"a call may have {MOST_BYTES} bytes")


def _length(scope: Scope) -> int:
    """The bytes of a body, as its head says; 0 where it does not."""
    found = dict(scope["headers"]).get(b"content-length", b"0")
    return int(found) if found.isdigit() else MOST_BYTES + 1


async def _answer(send: Send, status: int, words: str) -> None:
    body = json.dumps({"message": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
