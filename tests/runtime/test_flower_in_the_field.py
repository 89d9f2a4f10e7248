"""The contract with the private names that a deployment needs. If this fails after an upgrade, mend deployment/flower.py."""

import ast
import asyncio
import importlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedhealth.runtime import flower as in_any_runtime
from fedhealth.runtime.codec import array_record
from fedhealth.runtime.deployment import flower


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_name_taken_from_flower_is_there_even_those_taken_late():
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(Path(flower.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("flwr")
        for alias in node.names
    ]
    assert len(taken) > 40
    assert not [name for module, name in taken if not hasattr(importlib.import_module(module), name)]


def test_a_grid_still_takes_its_client_its_retries_and_its_parts_from_where_they_are_put():
    from flwr.superlink.grid import HttpGrid, http_grid

    made = HttpGrid("127.0.0.1:1", token="t")
    assert {"_client", "_retry_invoker", "_run"} <= vars(made).keys()
    assert callable(http_grid.pull_objects)


def message(floats: int) -> Message:
    in_any_runtime.begin_run(1)
    records = RecordDict(
        {"arrays": array_record({"w": np.arange(floats, dtype=np.float32)}), "c": ConfigRecord({"n": 1})}
    )
    return Message(records, 7, "train", group_id="3")


def test_a_small_message_travels_as_one_record_and_arrives_as_it_was():
    sent = flower.outgoing(message(10), {"again": ConfigRecord({"first": "x"})})
    assert set(sent.content) == {"packed", "again"}
    assert (sent.metadata.dst_node_id, sent.metadata.message_type, sent.metadata.group_id) == (7, "train", "3")
    found = flower.unpack(sent.content)
    assert set(found) == {"arrays", "c", "again"}
    np.testing.assert_array_equal(found["arrays"]["w"].numpy(), np.arange(10))


def test_a_large_message_is_left_for_flower_to_cut():
    records = message(flower.SMALL_BYTES // 4 + 1).content
    assert flower.pack(records) is records
    assert flower.unpack(records) is records


def test_a_message_survives_the_pipe_and_can_be_answered_there():
    asked = message(3)
    in_any_runtime.set_message_id(asked, "a" * 64)
    there = flower.from_bytes(flower.to_bytes(asked))
    reply = flower.from_bytes(flower.to_bytes(Message(RecordDict(), reply_to=there)))
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == ("a" * 64, 7)


def test_a_token_shows_in_no_repr():
    assert "s3cret" not in repr(flower.Headed("s3cret")) + repr(flower.Task(1, 2, "s3cret"))


def test_a_message_whose_parts_stop_coming_is_given_up(monkeypatch):
    from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

    monkeypatch.setattr(flower, "FEW_STALL_S", 0.05)

    def never(object_id: str) -> bytes:
        raise ObjectUnavailableError(object_id)

    with pytest.raises(flower.HALF_SENT):
        flower.parts(["a" * 64], never)


def test_flowers_layers_are_of_the_kind_that_becomes_one():
    from flwr.superlink.main import create_app
    from starlette.middleware.base import BaseHTTPMiddleware

    layers = create_app().user_middleware
    assert len(layers) > 5
    assert [layer.cls for layer in layers if not issubclass(layer.cls, BaseHTTPMiddleware)] == []
    assert len(flower.in_one_layer(create_app()).user_middleware) == 1


def layered(*kinds):
    """An app that says what came to it, behind layers that each leave their mark on the way in and out."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    class Layer(BaseHTTPMiddleware):
        def __init__(self, app, name):
            super().__init__(app)
            self.name = name

        async def dispatch(self, request, call_next):
            request.state.seen = [*getattr(request.state, "seen", []), self.name]
            if self.name == "reads":
                request.state.length = len(await request.body())
            if self.name == "refuses" and request.url.path == "/refused":
                return JSONResponse({"refused": request.state.seen}, status_code=403)
            try:
                response = await call_next(request)
            except ValueError as error:
                if self.name != "mends":
                    raise
                response = JSONResponse({"mended": str(error)}, status_code=418)
            if self.name == "replaces":
                response = JSONResponse({"seen": request.state.seen, "length": request.state.length})
            response.headers["out"] = f"{response.headers.get('out', '')} {self.name}"
            return response

    app = FastAPI(middleware=[Middleware(Layer, name=kind) for kind in kinds])

    @app.post("/{path}")
    async def told(path: str, request: Request):
        if path == "broken":
            raise ValueError("of the inside")
        return {"seen": request.state.seen, "body": (await request.body()).decode()}

    return app


@pytest.mark.parametrize("path", ["told", "refused", "broken"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("first", "mends", "reads", "refuses", "last"),
        ("mends", "replaces", "reads", "last"),
        ("last", "refuses", "mends"),
    ],
)
def test_layers_as_one_answer_every_call_as_they_did_one_around_the_other(kinds, path):
    async def posted(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(f"/{path}", content=b"some bytes")

    nested = layered(*kinds)
    expected, found = (asyncio.run(posted(app)) for app in (nested, flower.in_one_layer(layered(*kinds))))
    assert (found.status_code, found.json()) == (expected.status_code, expected.json())
    assert found.headers.get("out") == expected.headers.get("out")
    assert (found.status_code, path) in {(200, "told"), (403, "refused"), (200, "refused"), (418, "broken")}


def test_layers_stay_where_one_is_of_another_kind():
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware

    app = FastAPI(middleware=[Middleware(GZipMiddleware)])
    assert [layer.cls for layer in flower.in_one_layer(app).user_middleware] == [GZipMiddleware]
