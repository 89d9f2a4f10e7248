"""The waiting room: who asks for messages is answered when there are some, and nobody is given one who has gone."""

from __future__ import annotations

import asyncio

import pytest

from fedhealth.runtime.deployment.waiting_room import WAIT, WaitingRoom

ASKED, BROUGHT = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"


class Inside:
    """A SuperLink with one message at most, which is given out once."""

    def __init__(self) -> None:
        self.message, self.asked = b"", []

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive()).get("body", b"")
        given = b""
        if scope["path"] == ASKED:
            self.asked.append(body)
            given, self.message = self.message, b""
        else:
            self.message = body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": given})


def call(room, path: str, body: bytes = b"", wait_s: float = 0.0, gone: asyncio.Event | None = None):
    sent: list = []
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        for message in given:
            return message
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message) -> None:
        sent.append(message)

    async def run() -> bytes | None:
        await room({"type": "http", "path": path, "headers": [(WAIT.encode(), str(wait_s).encode())]}, receive, send)
        return sent[1]["body"] if sent else None

    return run()


# To a hospital that is let in no more what comes is a refusal.
@pytest.mark.parametrize("path", [BROUGHT, "/v1/runtime/push-object", "/v1/control/unregister-node"])
def test_a_caller_waits_until_something_comes_and_asks_with_the_same_words(path):
    async def scene():
        inside = Inside()
        room = WaitingRoom(inside)
        waiting = asyncio.create_task(call(room, ASKED, b"me", wait_s=20))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await call(room, path, b"news")
        return await asyncio.wait_for(waiting, 2), set(inside.asked)

    assert asyncio.run(scene()) == (b"news", {b"me"})


def test_a_caller_who_waits_in_vain_is_told_nothing_in_time():
    inside = Inside()
    assert asyncio.run(call(WaitingRoom(inside), ASKED, wait_s=0.05)) == b""
    assert len(inside.asked) == 2


def test_a_caller_who_says_no_time_is_answered_at_once():
    inside = Inside()
    assert asyncio.run(call(WaitingRoom(inside), ASKED)) == b""
    assert len(inside.asked) == 1


def test_what_came_before_is_there_without_a_wait():
    async def scene():
        room = WaitingRoom(Inside())
        await call(room, BROUGHT, b"news")
        return await asyncio.wait_for(call(room, ASKED, wait_s=20), 1)

    assert asyncio.run(scene()) == b"news"


def test_a_message_is_not_given_to_a_caller_who_has_gone():
    async def scene():
        inside, gone = Inside(), asyncio.Event()
        room = WaitingRoom(inside)
        waiting = asyncio.create_task(call(room, ASKED, wait_s=20, gone=gone))
        await asyncio.sleep(0.05)
        gone.set()
        assert await asyncio.wait_for(waiting, 2) is None
        await call(room, BROUGHT, b"news")
        return await asyncio.wait_for(call(room, ASKED, wait_s=20), 2)

    assert asyncio.run(scene()) == b"news"
