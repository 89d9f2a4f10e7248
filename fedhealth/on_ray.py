"""The two apps as Flower's simulation on Ray starts them, each in a process of its own.

They are the apps of a simulation in one process. What is added is what a node on Ray lacks:
Flower numbers its nodes and draws their ids anew in every run, so the run config lists the
hospitals, a node finds its own by its number, and the server app asks every node for it.

Not for a deployment, where a hospital's folder and its approval are its own word.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedhealth.cli import log_to
from fedhealth.core.errors import FedHealthError
from fedhealth.core.study import digest, packed, study_from, unpacked
from fedhealth.runtime.codec import METRICS, metrics_of, reason_of, write_request
from fedhealth.runtime.flower import quiet
from fedhealth.runtime.told import TOLD, said_of, tell
from fedhealth.server.app import make, policed
from fedhealth.server.audited_grid import logged
from fedhealth.site.app import app as site_app
from fedhealth.site.company import Company

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_APP, CLIENT_APP = f"{__name__}:server_app", f"{__name__}:client_app"
HOSPITALS, WHO_ARE_YOU, NUMBER = "fh-hospitals", "query.whoami", "number"


def run_config(of_study: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The run config of both apps: that of the study, and the hospitals by number."""
    return {**of_study, HOSPITALS: packed({"names": list(nodes), "nodes": list(nodes.values())})}


def crew(packed_study: str, folder: str) -> Company:
    """At a worker of Ray, the hospitals of its blocks (`runtime.ray_hands`)."""
    quiet()
    _log_into(folder)
    return Company(packed_study)


class _NumberedApp(ClientApp):
    """The hospitals' client app, for a node that knows nothing but its number."""

    def __call__(self, message: Message, context: Context) -> Message:
        _log_into(str(context.run_config["fh-folder"]))
        number = int(context.node_config["partition-id"])
        if message.metadata.message_type == WHO_ARE_YOU:
            # No hospital's word, which would have to pass its gate, but the number that Flower gave the node.
            return Message(RecordDict({METRICS: MetricRecord({NUMBER: number})}), reply_to=message)
        # Into the context that Flower keeps, so that what a hospital puts there stays with it.
        context.node_config.update(_hospitals(str(context.run_config[HOSPITALS]))["nodes"][number])
        return site_app(message, context)


client_app = _NumberedApp()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the study, and tell each round and how it ended."""
    config = {key: str(value) for key, value in context.run_config.items()}
    told = Path(config[TOLD])
    _log_into(config["fh-folder"])
    try:
        names = names_of(grid, _hospitals(config[HOSPITALS])["names"])
        tell(told, "started")
        document = unpacked(config["fh-study"])
        study = study_from(document)
        if "fh-audit" in config:
            grid = logged(grid, names, study, digest(document), Path(config["fh-folder"]))
        named = policed(grid, names, study, digest(document))
        make(lambda row: tell(told, "round", row))(named, context)
    except (FedHealthError, OSError) as error:
        tell(told, "failed", said_of(error))
        raise
    tell(told, "done")


def names_of(grid: Grid, hospitals: list[str]) -> dict[int, str]:
    """By node id, the hospital that a node is.

    Raises:
        FedHealthError: a node can't say.
    """
    while len(nodes := list(grid.get_node_ids())) < len(hospitals):
        time.sleep(0.1)
    names = {}
    for reply in grid.send_and_receive([write_request(WHO_ARE_YOU, node) for node in nodes]):
        if reply.has_error():
            raise FedHealthError(
                f"every process of Ray must load the hospitals' app, found one that {reason_of(reply)}. "
                "Install the same packages on every machine of it."
            )
        names[reply.metadata.src_node_id] = hospitals[int(metrics_of(reply)[NUMBER])]
    return names


@functools.cache
def _hospitals(text: str) -> dict[str, Any]:
    return unpacked(text)


@functools.cache
def _log_into(folder: str) -> None:
    """Log into the run's folder, once a process; on another machine there may be none."""
    if Path(folder).is_dir():
        log_to(Path(folder) / "run.log")
