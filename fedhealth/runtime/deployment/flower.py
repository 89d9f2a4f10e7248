"""The private parts of Flower 1.41 that a deployment needs: its SuperLink, and the three protocols it speaks.

    serve      the SuperLink itself, behind a door
    Control    registers hospitals, starts and stops runs
    Tasks      takes a run's task and says how it ended
    grid       carries a run's messages to hospitals
    Fleet      a hospital's end: takes its messages, gives its replies

What `fedhealth.runtime.flower` says of such names holds here too; the contract test is
`tests/runtime/test_flower_in_the_field.py`. No call here ends the process: each goes over
a `Line`, and none of Flower's own retry and heartbeat helpers is used, which do.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ErrorCode, SubStatus
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
    user_config_from_proto,
    user_config_to_proto,
)
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity

from fedhealth.runtime.deployment.line import Declined, NotAdmitted
from fedhealth.runtime.deployment.waiting_room import WAIT

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec
    from fastapi import FastAPI
    from flwr.serverapp import Grid
    from starlette.requests import Request
    from starlette.responses import Response

    from fedhealth.runtime.deployment.line import Line

#: Seconds between a hospital's signs of life, as Flower expects them; two are missed before it counts as gone.
HEARTBEAT_S: float = HEARTBEAT_DEFAULT_INTERVAL
#: What the SuperLink answers in a hospital's place: it is not there, or its reply is not.
LOST: frozenset[int] = frozenset(
    {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE}
)
#: Its own node id at the SuperLink.
SUPERLINK_NODE = 1
#: Seconds that a question for messages waits at the coordinator: a hospital's, and a run's.
NODE_WAIT_S, RUN_WAIT_S = 20.0, 0.5
#: Pauses between tries for a part of a message that is on its way still.
PART_FIRST_S, PART_LONGEST_S = 0.02, 0.5
#: Seconds without a new part after which a message counts as half sent: one of few parts, and any other.
FEW_PARTS, FEW_STALL_S, STALL_S = 8, 5.0, 60.0

#: The app that Flower is given for a run: the names of installed parts, no code.
APP = """\
[project]
name = "study"
version = "1"
[tool.flwr.app]
publisher = "fedhealth"
[tool.flwr.app.components]
serverapp = "fedhealth.server.app:app"
clientapp = "fedhealth.site.app:app"
[tool.flwr.app.config]
fh-study = ""
fh-run = ""
"""


def serve(
    host: str, port: int, database: Path, secret: bytes, door: Callable[[Any], Any], context: ssl.SSLContext
) -> None:
    """Be a coordinator's SuperLink until ended: TLS 1.3 on one port, hospitals by key, everybody else through `door`.

    Args:
        host: the address to listen on.
        port: the one port.
        database: the SQLite file of runs and messages.
        secret: what tasks are given out for.
        door: makes of the ASGI app one that lets fewer in.
        context: the server's TLS.
    """
    import uvicorn
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
    from flwr.superlink.main import create_app

    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    uvicorn.run(
        door(in_one_layer(create_app(config, SuperLinkLifespan))),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,
        ssl_context_factory=lambda _config, _default: context,
    )


def in_one_layer(app: FastAPI) -> FastAPI:
    """The app with its layers of middleware as one, each doing what it did and in the same order.

    Starlette gives every layer of this kind a group of tasks and two streams of its own for each call. Flower has nine,
    and they took more of a call's time than all that it asks for. Where one is of another kind, all stay as they are.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    made = [each.cls(app, *each.args, **each.kwargs) for each in app.user_middleware]
    layers = [each.dispatch_func for each in made if isinstance(each, BaseHTTPMiddleware)]
    if len(layers) < len(made):
        return app

    async def through(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        async def from_layer(number: int, request: Request) -> Response:
            if number == len(layers):
                return await call_next(request)
            return await layers[number](request, partial(from_layer, number + 1))

        return await from_layer(0, request)

    app.user_middleware = [Middleware(BaseHTTPMiddleware, dispatch=through)]
    return app


@dataclass(frozen=True, slots=True)
class Headed:
    """Adds to each call Flower's version, how long it may wait, and the caller's bearer token where there is one."""

    token: str = ""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:  # noqa: ANN401 - Flower's
        """The answer to the call with its headers."""
        headers = context.request.headers
        headers.update(dict(RuntimeVersionMetadata.from_local_component("fedhealth").as_metadata()))
        if context.rpc_method in _WAITS:
            headers[WAIT] = str(_WAITS[context.rpc_method])
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        return call_next(context)

    def __repr__(self) -> str:
        return "Headed(token=…)"


_WAITS = {
    "/flwr.proto.Fleet/PullMessages": NODE_WAIT_S,
    "/flwr.proto.Runtime/PullMessages": RUN_WAIT_S,
}


class Control:
    """Orders to a SuperLink."""

    def __init__(self, address: str, context: ssl.SSLContext, token: str, line: Line) -> None:
        from flwr.supercore.control import ControlHttpClient

        self._client = ControlHttpClient(
            f"https://{address}", interceptors=[Headed(token)], verify=context, retry_invoker=line
        )

    def register(self, public_key: bytes, name: str) -> int:
        """The new node id of a hospital's public key, in PEM."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        return int(self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id)

    def unregister(self, node_id: int) -> None:
        """Let a node in no more."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> dict[int, dict[str, str]]:
        """By node id, its status and when it was last let in."""
        from flwr.proto.control_pb2 import ListNodesRequest

        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {int(node.node_id): {"status": node.status, "since": node.last_activated_at} for node in found}

    def start(self, run_config: Mapping[str, str]) -> int:
        """The id of a new run."""
        from flwr.cli.build import build_fab_from_files
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab

        bundle, _ = build_fab_from_files({"pyproject.toml": APP.encode()})
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle),
            override_config=user_config_to_proto(dict(run_config)),
        )
        return int(self._client.StartRun(request).run_id)

    def runs(self) -> list[dict[str, Any]]:
        """Every run, the latest first: its id, its state, why it ended, its config."""
        from flwr.proto.control_pb2 import ListRunsRequest

        found = self._client.ListRuns(ListRunsRequest(limit=1000)).run_dict.values()
        rows = [
            {
                "run_id": int(run.run_id),
                "state": ":".join(filter(None, (run.status.status, run.status.sub_status))),
                "why": run.status.details,
                "at": run.pending_at,
                "config": user_config_from_proto(run.override_config),
            }
            for run in found
        ]
        return sorted(rows, key=lambda row: str(row["at"]), reverse=True)

    def stop(self, run_id: int) -> bool:
        """Whether the run was stopped."""
        from flwr.proto.control_pb2 import StopRunRequest

        return bool(self._client.StopRun(StopRunRequest(run_id=run_id)).success)

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a run: whoever has its token speaks for the run."""

    task_id: int
    run_id: int
    token: str

    def __repr__(self) -> str:
        return f"Task(task_id={self.task_id}, run_id={self.run_id}, token=…)"


class Tasks:
    """Tasks of runs, from the SuperLink that gives them out."""

    def __init__(self, address: str, context: ssl.SSLContext, token: str, secret: bytes, line: Line) -> None:
        from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

        self._bearing, self._context, self._address, self._line = Headed(token), context, address, line
        signature = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"]
        )
        self._client = _runtime(address, context, [self._bearing, signature], line)

    def take(self) -> Task | None:
        """The oldest task that waits, now this caller's; None where none does."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType

        given = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        return Task(int(given.task.task_id), int(given.task.run_id), given.token) if given.token else None

    def begin(self, task: Task) -> dict[str, str]:
        """The run config of a task, which runs from here on."""
        from flwr.proto.runtime_pb2 import PullTaskInputRequest

        with self._of(task) as client:
            found = client.PullTaskInput(PullTaskInputRequest())
        return {key: str(value) for key, value in user_config_from_proto(found.run.override_config).items()}

    def beat(self, task: Task) -> bool:
        """Whether the task still runs; it goes on for a minute from here."""
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        with self._of(task) as client:
            return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)

    def finish(self, task: Task, *, why: str = "") -> None:
        """Say that a task is done, or why it failed."""
        from flwr.proto.runtime_pb2 import PushTaskOutputRequest

        status = SubStatus.FAILED if why else SubStatus.COMPLETED
        with self._of(task) as client:
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=why))

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def _of(self, task: Task) -> Any:  # noqa: ANN401 - Flower's client
        return _runtime(self._address, self._context, [self._bearing, _task_token(task.token)], self._line)


def _task_token(token: str) -> Any:  # noqa: ANN401 - Flower's interceptor
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor

    return RuntimeTokenHttpInterceptor(token)


def _runtime(address: str, context: ssl.SSLContext, interceptors: Sequence[Any], line: Line) -> Any:  # noqa: ANN401 - Flower's
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient(f"https://{address}", interceptors=interceptors, verify=context, retry_invoker=line)


def grid(address: str, context: ssl.SSLContext, token: str, task: Task, line: Line) -> Grid:
    """The grid of a task's run; this process is named as its server task."""
    from flwr.superlink.grid import HttpGrid, http_grid

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = task.run_id, SUPERLINK_NODE, task.task_id
    # Else it looks for a part once a second, and waits three minutes for one whose sender was killed.
    http_grid.pull_objects = parts
    made = HttpGrid(address, token=task.token)
    # Connected here, so that it never connects by itself: with 1.2, and ending the process where it is refused.
    made._retry_invoker = line  # noqa: SLF001 - there is no argument for it
    made._client = _runtime(address, context, [Headed(token), _task_token(task.token)], line)  # noqa: SLF001
    made.set_run(Run.create_empty(run_id=task.run_id))
    return made


#: The record in which a small message travels whole, and its one key. Flower sends each array of a message, and each
#: record around it, by calls of their own, and a call takes longer than the bytes of a small model.
PACKED, CONTENT = "packed", "content"
#: Bytes up to which a message is small. Flower cuts larger ones into pieces.
SMALL_BYTES = 4 * 2**20


def pack(records: RecordDict) -> RecordDict:
    """The records as one, where they are small."""
    content = content_to_bytes(records)
    return RecordDict({PACKED: ConfigRecord({CONTENT: content})}) if len(content) <= SMALL_BYTES else records


def unpack(records: RecordDict) -> RecordDict:
    """The inverse of `pack`, other records that came along included."""
    if PACKED not in records:
        return records
    found = content_from_bytes(records[PACKED][CONTENT])
    for name, record in records.items():
        if name != PACKED:
            found[name] = record
    return found


def outgoing(message: Message, beside: Mapping[str, ConfigRecord] | None = None) -> Message:
    """A message for a node as a new one for the way, with other records beside its own."""
    records, metadata = pack(message.content), message.metadata
    if beside:
        records = RecordDict({**records, **beside})
    return Message(records, metadata.dst_node_id, metadata.message_type, group_id=metadata.group_id)


def with_content(message: Message, records: RecordDict) -> Message:
    """The same message with other records."""
    return Message(metadata=message.metadata, content=records)


class Fleet:
    """A hospital's end of the line. One message is at work at a time."""

    def __init__(self, address: str, context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, line: Line) -> None:
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes
        from flwr.supernode.fleet_http_client import FleetHttpClient
        from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

        self._line = line
        self._public_key = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[Headed(), NodeAuthHttpInterceptor(key, key.public_key())],
            verify=context,
        )
        self._node = Node()
        self._configs: dict[int, dict[str, str]] = {}

    @property
    def node_id(self) -> int:
        """This hospital's number at the SuperLink; 0 before it was let in."""
        return int(self._node.node_id)

    def enter(self, node_id: int = 0) -> int:
        """This hospital's node id, once it is let in.

        Args:
            node_id: the number it was let in under before, where it may still count as there: a
                process that was killed took no leave, and another is let in after that only.
        """
        if node_id:
            self._leave(node_id)
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        try:
            self._node = Node(node_id=self._line.invoke(self._client.ActivateNode, request).node_id)
        except Declined as error:
            raise NotAdmitted(
                "a hospital must be enrolled at its coordinator and be there once, found its key unknown, revoked, or at "
                f"work in another process: {error}"
            ) from None
        return self.node_id

    def leave(self) -> None:
        """Take leave, as far as anybody hears it."""
        if self.node_id:
            self._leave(self.node_id)

    def _leave(self, node_id: int) -> None:
        try:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
        except httpx.HTTPError:
            # It was not there any more, or the coordinator is not: then nobody needs to hear it.
            return

    def beat(self) -> bool:
        """Whether the SuperLink knows this hospital as being there."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        return bool(self._client.SendNodeHeartbeat(request).success)

    def take(self) -> Message | None:
        """The next message, whole; None where there is none.

        Once it was pulled nobody gives it out again. Where the line broke meanwhile, it may be
        lost: enter again, and the server app asks again.
        """
        found = self._line.invoke(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not found.messages_list:
            return None
        head, tree = message_from_proto(found.messages_list[0]), found.message_object_trees[0]
        run_id = int(head.metadata.run_id)
        pull = make_pull_object_fn_protobuf(partial(self._line.invoke, self._client.PullObject), self._node, run_id)
        contents = parts([each.object_id for each in iterate_object_tree(tree)], pull)
        confirm = make_confirm_message_received_fn_protobuf(
            partial(self._line.invoke, self._client.ConfirmMessageReceived), self._node, run_id
        )
        confirm(tree.object_id)
        message: Message = inflate_object_from_contents(tree.object_id, contents)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return with_content(message, unpack(message.content)) if message.has_content() else message

    def run_config(self, run_id: int) -> dict[str, str]:
        """The config of a run, asked for once."""
        if run_id not in self._configs:
            run = self._line.invoke(self._client.GetRun, GetRunRequest(node=self._node, run_id=run_id)).run
            self._configs[run_id] = {key: str(v) for key, v in user_config_from_proto(run.override_config).items()}
        return self._configs[run_id]

    def give(self, reply: Message) -> None:
        """Send a reply. Given again, it counts once."""
        if reply.has_content():
            reply = with_content(reply, pack(reply.content))
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            head = with_content(reply, RecordDict()) if reply.has_content() else reply
            answer = self._line.invoke(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node, messages_list=[message_to_proto(head)], message_object_trees=[tree]
                ),
            )
            push = make_push_object_fn_protobuf(
                partial(self._line.invoke, self._client.PushObject),
                self._node,
                int(reply.metadata.run_id),
                answer.session_id,
            )
            push_objects(objects, push_object_fn=push, object_ids_to_push=set(answer.objects_to_push))

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()


def parts(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> dict[str, bytes]:
    """The parts of a message by name; those on their way still are waited for, as long as some arrive.

    Raises:
        ObjectPullError: none has come for a while: whoever sent them has ended.
    """
    patience_s = FEW_STALL_S if len(object_ids) <= FEW_PARTS else STALL_S
    came_at = time.monotonic()

    def pull(object_id: str) -> bytes:
        nonlocal came_at
        try:
            content = pull_object_fn(object_id)
        except ObjectUnavailableError:
            if time.monotonic() - came_at > patience_s:
                raise ObjectPullError(object_id, "its sender has ended") from None
            raise
        came_at = time.monotonic()
        return content

    return dict(pull_objects(object_ids, pull, initial_backoff=PART_FIRST_S, backoff_cap=PART_LONGEST_S))


#: What a half-sent message gives, either way.
HALF_SENT = (ObjectPullError, ObjectPushError)


def to_bytes(message: Message) -> bytes:
    """A message, whole, as bytes for a pipe."""
    return bytes(message_to_proto(message).SerializeToString())


def from_bytes(content: bytes) -> Message:
    """The inverse of `to_bytes`."""
    return message_from_proto(MessageProto.FromString(content))


def content_to_bytes(records: RecordDict) -> bytes:
    """What a reply carries, as bytes for the disk."""
    return bytes(recorddict_to_proto(records).SerializeToString())


def content_from_bytes(content: bytes) -> RecordDict:
    """The inverse of `content_to_bytes`."""
    return recorddict_from_proto(RecordDictProto.FromString(content))
