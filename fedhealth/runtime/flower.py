"""The private parts of Flower 1.41 that FedHealth needs, and nothing else.

Flower makes no promise about these names. When an upgrade breaks one of them the contract
test `tests/runtime/test_flower.py` fails first and says what each is for; mend it here.
What only a deployment needs is in `deployment/flower.py`, with a contract test of its own.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import sys
import time
from typing import TYPE_CHECKING

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedhealth.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flwr.app import RecordDict

__all__ = [
    "CLIENT_FAILED",
    "NO_REPLY",
    "Run",
    "begin_run",
    "copy_messages",
    "quiet",
    "set_message_id",
    "set_reply_to",
    "set_sender",
    "simulation",
    "superlink",
    "twin",
]

#: A client app raised. Flower's own number, so that its strategies log it as such.
CLIENT_FAILED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
#: No reply came in time.
NO_REPLY: int = ErrorCode.MESSAGE_UNAVAILABLE


def begin_run(run_id: int) -> Run:
    """An empty run, and this process named as its server task.

    `Message` reads the identity of the task it is made in from process-wide state.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = 1
    TaskIdentity.task_id = 1
    return Run.create_empty(run_id=run_id)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its identifier, as every Flower grid does; there is no public setter."""
    message.metadata.__dict__["_message_id"] = message_id


def set_sender(message: Message, node_id: int) -> None:
    """Name the node a reply stands for. Error replies made on a node's behalf lack it."""
    message.metadata.__dict__["_src_node_id"] = node_id


def set_reply_to(message: Message, message_id: str) -> None:
    """Name the message that a reply made on a node's behalf answers."""
    message.metadata.__dict__["_reply_to_message_id"] = message_id


def twin(message: Message) -> Message:
    """A message with its own metadata and records; the bytes of the arrays are shared."""
    metadata = object.__new__(type(message.metadata))
    metadata.__dict__.update(message.metadata.__dict__)
    records = message.content.copy()
    for name, record in message.content.items():
        records[name] = record.copy()
    return Message(metadata=metadata, content=records)


def copy_messages(strategy: object) -> None:
    """Have a strategy that makes its messages as Flower's `FedAvg` does make one, and copy it for the other nodes.

    Flower makes and checks each from nothing, some 6 % of a round of thousands of small hospitals.
    """
    # A hospital has no strategies to load.
    from flwr.serverapp.strategy import FedAvg

    name = "_construct_messages"
    if getattr(type(strategy), name, None) is getattr(FedAvg, name):
        setattr(strategy, name, _alike)


def _alike(record: RecordDict, node_ids: list[int], message_type: str) -> list[Message]:
    """A message to each node, all with the very same records."""
    if not node_ids:
        return []
    first = Message(record, node_ids[0], message_type)
    found, kind, said = [first], type(first.metadata), vars(first.metadata)
    for node_id in node_ids[1:]:
        metadata, message = object.__new__(kind), object.__new__(Message)
        vars(metadata).update(said, _dst_node_id=node_id)
        vars(message).update(vars(first), _metadata=metadata)
        found.append(message)
    return found


def quiet() -> None:
    """Keep Flower's own narration out of the terminal; FedHealth reports the rounds."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def superlink(port: int, secret: Path) -> None:
    """Be a SuperLink of simulations on this machine, until killed.

    It listens on the loopback only. Whoever may speak to it there can submit an app, but a
    task is given only to a holder of the secret, and nothing else is started on its behalf.
    """
    from flwr.superlink.cli.flower_superlink import flower_superlink

    sys.argv = [
        "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port),
        "--isolation", "process", "--superexec-auth-secret-file", str(secret), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    flower_superlink()


def simulation(
    port: int,
    secret: Path,
    app: str,
    run_config: Mapping[str, str],
    *,
    nodes: int,
    cpus_per_node: int,
    cpus: int | None,
) -> None:
    """Give the SuperLink at `port` a run, take its one task, and be the simulation that does it.

    Args:
        port: the SuperLink's.
        secret: the file with the secret that it gives tasks for.
        app: a Flower app's pyproject.toml.
        run_config: what the app reads as its run config.
        nodes: how many client apps take part.
        cpus_per_node: cores that one of them takes while it works.
        cpus: cores of the Ray that is started; None to use a Ray that is there.
    """
    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.proto.fab_pb2 import Fab
    from flwr.proto.federation_config_pb2 import SimulationConfig
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.simulation.app import flwr_simulation
    from flwr.supercore.constant import TaskType
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    address = f"127.0.0.1:{port}"
    version = RuntimeVersionHttpInterceptor(component_name="fedhealth")
    signature = SuperExecAuthHttpInterceptor(
        master_secret=secret.read_bytes(), protected_methods=["/flwr.proto.Runtime/AcquireTask"]
    )
    bundle, _ = build_fab_from_files({"pyproject.toml": app.encode()})
    _wait_for(port)
    control = ControlHttpClient.from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[version]
    )
    run = control.StartRun(
        StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle),
            override_config=user_config_to_proto(dict(run_config)),
            override_federation_config=SimulationConfig(
                num_supernodes=nodes, client_resources_num_cpus=cpus_per_node, init_args_num_cpus=cpus
            ),
        )
    )
    runtime = RuntimeHttpClient.from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[version, signature]
    )
    given = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SIMULATION]))
    if not run.run_id or given.task.run_id != run.run_id:
        raise IntegrityError(
            f"the SuperLink must give the task of the run it was given, found one of run {given.task.run_id}. "
            "Somebody else on this machine speaks to it; use runtime=local."
        )
    # Set here and not given to a new process: a command line is there for all to read.
    sys.argv = ["flwr-simulation", "--insecure", "--runtime-api-address", address, "--token", given.token]
    flwr_simulation()


def _wait_for(port: int) -> None:
    """Return once somebody listens at this machine's port."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
