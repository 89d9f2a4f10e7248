"""The door: every path of Flower's app is opened to somebody by name, or closed."""

from __future__ import annotations

import asyncio
import json

import pytest

from fedhealth.runtime.deployment.door import ACTIONS, FLEET, MOST_BYTES, Door
from fedhealth.runtime.deployment.tokens import ROLES, Tokens


class Inside:
    """An ASGI app that answers 200 to whatever gets through to it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


class Caller:
    """A door with somebody inside, and what comes of knocking."""

    def __init__(self, tmp_path) -> None:
        self.tokens = Tokens(tmp_path / "tokens.json")
        self.inside, self.lines = Inside(), []
        self.door = Door(self.inside, self.tokens, self.lines.append)

    def knock(self, path: str, token: str = "", method: str = "POST", length: int = 0) -> int:
        sent = []
        headers = [(b"content-length", str(length).encode())]
        headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
        scope = {"type": "http", "path": path, "method": method, "headers": headers, "client": ("10.0.0.9", 1)}

        async def send(message) -> None:
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        asyncio.run(self.door(scope, receive, send))
        return sent[0]["status"]


@pytest.fixture
def caller(tmp_path):
    return Caller(tmp_path)


def test_every_role_may_do_what_the_table_says_and_nothing_else(caller):
    tokens = {role: caller.tokens.issue(f"a.{role}", role) for role in ROLES}
    for path, action in ACTIONS.items():
        for role, token in tokens.items():
            assert caller.knock(path, token) == (200 if action in ROLES[role] else 403), (path, role)


def test_a_path_that_is_in_no_table_does_not_exist_for_anybody(caller):
    token = caller.tokens.issue("boss", "coordinator")
    for path in (
        "/v1/control/list-invitations",
        "/v1/control/start-run/",
        "/v1/fleet/register-node",
        "/responses",
        "/",
    ):
        assert caller.knock(path) == 401
        assert caller.knock(path, token) == 404
    assert caller.inside.asked == []


def test_no_route_of_flowers_is_open_without_a_name(tmp_path):
    from flwr.superlink.main import create_app

    app = create_app()
    routes = {route.path for route in app.routes if hasattr(route, "path")}
    routes |= set(app.openapi()["paths"])
    known = FLEET | ACTIONS.keys() | {"/health"}
    # What is named is there, else the names are of another version of Flower's.
    assert known <= routes
    assert "/v1/fleet/register-node" in routes - known


def test_a_hospital_needs_no_token_where_flower_checks_its_signature(caller):
    assert [caller.knock(path) for path in sorted(FLEET)] == [200] * len(FLEET)
    assert caller.knock("/health", method="GET") == 200


def test_a_body_beyond_the_limit_is_not_read(caller):
    token = caller.tokens.issue("boss", "coordinator")
    assert caller.knock("/v1/control/start-run", token, length=MOST_BYTES + 1) == 413
    assert caller.knock("/v1/fleet/push-object", length=MOST_BYTES + 1) == 401
    assert caller.inside.asked == []


def test_each_call_leaves_a_line_with_who_and_what_and_no_token(caller):
    token = caller.tokens.issue("ann", "auditor")
    caller.knock("/v1/control/list-runs", token)
    caller.knock("/v1/control/start-run", token)
    caller.knock("/docs", "guess", method="GET")
    shown = [(line["who"], line["role"], line["from"], line["asked"], line["status"]) for line in caller.lines]
    assert shown == [
        ("ann", "auditor", "10.0.0.9", "POST /v1/control/list-runs", 200),
        ("ann", "auditor", "10.0.0.9", "POST /v1/control/start-run", 403),
        ("", "", "10.0.0.9", "GET /docs", 401),
    ]
    assert token not in json.dumps(caller.lines)


def test_what_the_coordinators_own_processes_ask_is_counted_and_its_refusals_are_not_lost(caller):
    token = caller.tokens.issue("runtime", "runtime")
    for _ in range(3):
        caller.knock("/v1/runtime/pull-messages", token)
    caller.knock("/v1/control/stop-run", token)
    assert [line["status"] for line in caller.lines] == [403]
    caller.door._write_counts()
    assert (caller.lines[1]["asked"], caller.lines[1]["calls"]) == ("POST /v1/runtime/pull-messages", 3)


def test_a_revoked_token_and_one_that_was_issued_anew_no_longer_count(caller):
    first = caller.tokens.issue("ann", "auditor")
    second = caller.tokens.issue("ann", "researcher")
    assert caller.knock("/v1/control/list-runs", first) == 401
    assert caller.knock("/v1/control/start-run", second) == 200
    assert caller.tokens.revoke("ann")
    assert caller.knock("/v1/control/list-runs", second) == 401
    assert not caller.tokens.revoke("ann")
