"""The SuperLink process of a coordinator: Flower's, behind the door, over TLS 1.3 and nothing less."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from fedhealth.core.errors import SettingError
from fedhealth.runtime.deployment.door import Door
from fedhealth.runtime.deployment.waiting_room import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedhealth.runtime.deployment.coordinator_folder import CoordinatorFolder


def check_port(folder: CoordinatorFolder) -> None:
    """Do nothing where the coordinator's port is free.

    Raises:
        SettingError: somebody listens there, or this user may not.
    """
    chosen = folder.settings
    family = socket.AF_INET6 if ":" in chosen.listen else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((chosen.listen, chosen.port))
        except OSError as error:
            raise SettingError(
                f"a coordinator's port must be free, found {chosen.listen}:{chosen.port} not ({error.strerror}). End what "
                f"listens there, or change `port` in {folder.path}/coordinator.json and hospitals' invitations."
            ) from None


def be_superlink(folder: CoordinatorFolder, record: Callable[[dict[str, Any]], None]) -> None:
    """Be the SuperLink until ended; `record` keeps a line of each call."""
    from fedhealth.runtime.deployment import flower

    chosen, tokens = folder.settings, folder.tokens
    flower.serve(
        chosen.listen,
        chosen.port,
        folder.path / "superlink.db",
        folder.secret(),
        lambda app: Door(WaitingRoom(app), tokens, record),
        folder.server_context(),
    )
