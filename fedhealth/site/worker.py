"""The worker process of a deployed hospital: messages in over a pipe, the client app's answers out.

It runs the client app of the installed package, for studies that the hospital approved, and
nothing that came with a message. It has no connection but the pipe. A refusal or a failure
leaves as a code; its text is in `logs/worker.log`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, RecordDict

from fedhealth.core.errors import Refused
from fedhealth.core.manifest import MANIFEST
from fedhealth.runtime.codec import failure, refusal, write_error
from fedhealth.runtime.deployment import flower
from fedhealth.runtime.deployment.site_folder import SiteFolder
from fedhealth.runtime.deployment.supervisor import end_with_parent
from fedhealth.site.app import app, forget, incident_of
from fedhealth.site.keys import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import Message

log = logging.getLogger(__name__)


def answer(folder: SiteFolder, message: Message, run_config: Mapping[str, str]) -> Message:
    """The hospital's reply to one message."""
    try:
        _check_awake(folder)
        changed = (folder.path / MANIFEST).stat()
        _read_anew(changed.st_ino, changed.st_mtime_ns, changed.st_size)
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config=_node_config(folder.path),
            state=RecordDict(),
            run_config={"fh-study": str(run_config.get("fh-study", ""))},
        )
        return app(message, context)
    except Refused as refused:
        log.warning("refused code=%s: %s", refused.code, refused)
        return write_error(refusal(refused), to=message)
    except Exception as error:  # noqa: BLE001 - one message must not end the hospital's part
        incident = incident_of(str(folder.path), type(error).__name__, str(error))
        log.error("failed incident=%s %s: %s", incident, type(error).__name__, error)  # noqa: TRY400 - a trace may hold rows
        return write_error(failure(error, incident), to=message)


def _check_awake(folder: SiteFolder) -> None:
    if folder.is_paused:
        raise Refused(
            "paused",
            rule="the hospital must not be paused",
            found="that it is",
            remedy=f"Run fedhealth site resume {folder.path}",
        )


@lru_cache(maxsize=1)
def _read_anew(_inode: int, _changed_ns: int, _bytes: int) -> None:
    """Forget what was read of the hospital's folder, once for each change of its manifest: a policy holds at once."""
    forget()


def _node_config(folder: Path) -> dict[str, str]:
    """What the client app knows from the hospital itself; what it approved stands in its own signed records."""
    return {
        "site-folder": str(folder),
        "memory-folder": str(folder / "state" / "memory"),
        "key-folder": str(folder / FOLDER),
    }


def main(folder: Path, pipe: Connection) -> None:
    """Answer what comes over the pipe until it closes."""
    hospital = SiteFolder(folder)
    while True:
        try:
            run_config, content = pipe.recv_bytes(), pipe.recv_bytes()
        except EOFError:
            return
        message = flower.from_bytes(content)
        pipe.send_bytes(flower.to_bytes(answer(hospital, message, json.loads(run_config))))


if __name__ == "__main__":
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("fedhealth").setLevel(logging.INFO)
    main(Path(sys.argv[1]), Connection(int(sys.argv[2])))
