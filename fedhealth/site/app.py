"""The client app: Flower messages in, the hospital's sealed answers out."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedhealth.core.errors import FedHealthError, Refused
from fedhealth.core.manifest import load_manifest
from fedhealth.governance.countersign import Countersigner
from fedhealth.runtime.codec import failure, read_request, refusal, write_error, write_reply
from fedhealth.site.client import MOST_HOSPITALS, Client, forget_folders
from fedhealth.site.keys import FOLDER, Keys
from fedhealth.site.log_place import log_of
from fedhealth.site.memory import Memory
from fedhealth.site.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The model after this hospital's share of a round."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The score sums of the model at this hospital."""
    return _answer(message, context)


@app.query("shape")
def shape(message: Message, context: Context) -> Message:
    """How many patients there are."""
    return _answer(message, context)


@app.query("moments")
def moments(message: Message, context: Context) -> Message:
    """Counts and sums for the preprocessor."""
    return _answer(message, context)


@app.query("spread")
def spread(message: Message, context: Context) -> Message:
    """Sums of squares for the preprocessor."""
    return _answer(message, context)


@app.query("margins")
def margins(message: Message, context: Context) -> Message:
    """For a synthetic release: counts of values and pairs of values, under masks and with noise."""
    return _answer(message, context)


@app.query("table")
def table(message: Message, context: Context) -> Message:
    """The tables of a study of tables."""
    return _answer(message, context)


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """In a masked study: shares of this hospital's secrets, sealed for the others."""
    return _answer(message, context)


@app.query("mask")
def mask(message: Message, context: Context) -> Message:
    """In a masked study: what waits here, under its masks."""
    return _answer(message, context)


@app.query("confirm")
def confirm(message: Message, context: Context) -> Message:
    """In a masked study: a signature of whose vectors are in the sum."""
    return _answer(message, context)


@app.query("reveal")
def reveal(message: Message, context: Context) -> Message:
    """In a masked study: the shares that open the sum."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    """The reply, with its receipt in the hospital's log where it keeps one: always, but in some simulations."""
    try:
        trail = _trail(context)
        if trail is None:
            return _worked(message, context)
        asked = trail.heard(message, _study_of(context))
        return trail.left(_worked(message, context), asked)
    except Exception as error:  # noqa: BLE001 - what has no receipt does not leave, and the round goes on
        return _failed(error, message, context)


def _worked(message: Message, context: Context) -> Message:
    """The reply; a refusal or failure leaves as a code, its text stays in this hospital's log."""
    try:
        hospital = Hospital.at(context.node_config, str(context.run_config["fh-study"]))
        sealed = hospital.client.answer(read_request(message), hospital.memory, hospital.keys)
        return write_reply(sealed, to=message)
    except Exception as error:  # noqa: BLE001 - one hospital's failure must not end the round
        return write_error(reason_for(error, context.node_config), to=message)


def _failed(error: Exception, message: Message, context: Context) -> Message:
    """The reply of a hospital that could not answer."""
    return write_error(reason_for(error, context.node_config), to=message)


def _study_of(context: Context) -> str:
    """The digest of the study that came, for the log; of one that can't be read there is none."""
    try:
        return Hospital.at(context.node_config, str(context.run_config["fh-study"])).client.digest
    except FedHealthError:
        return "unreadable"


def _key_folder(context: Context) -> Path:
    return Path(str(context.node_config.get("key-folder", Path(str(context.node_config["site-folder"])) / FOLDER)))


def _trail(context: Context) -> Trail | None:
    """The hospital's trail; a simulated hospital has one where the simulation says so, a real one always."""
    place = str(context.node_config.get("audit-folder", ""))
    if not place and "run-folder" in context.node_config:
        return None
    folder = str(context.node_config["site-folder"])
    drawn = folder if "manifest" in context.node_config else ""
    return trail_of(folder, place, str(_key_folder(context)), drawn)


@lru_cache(maxsize=MOST_HOSPITALS)
def trail_of(folder: str, place: str, keys: str, drawn: str = "") -> Trail:
    """The trail of a hospital's folder, its log read once; one that was drawn has no folder, but a name."""
    name = drawn or load_manifest(Path(folder)).name
    own = log_of(name, Path(folder), place=Path(place) if place else None, keys=Path(keys))
    return Trail(Countersigner(own))


def reason_for(error: Exception, node: Mapping[str, Any]) -> str:
    """Why there is no answer, as it travels; the text goes to the hospital's log."""
    if isinstance(error, Refused):
        log.warning("refused code=%s: %s", error.code, error)
        return refusal(error)
    incident = incident_of(str(node.get("site-folder", "")), type(error).__name__, str(error))
    log.error("failed incident=%s %s: %s", incident, type(error).__name__, error)  # a trace may hold rows
    return failure(error, incident)


@dataclass(frozen=True, slots=True)
class Hospital:
    """What answers at a node: its client, what it remembers of the study, and its keys."""

    client: Client
    memory: Memory
    keys: Keys

    @classmethod
    def at(cls, node: Mapping[str, Any], packed_study: str) -> Hospital:
        """The hospital of a node's config, for a study."""
        own = Path(str(node["site-folder"]))
        client = client_of(
            str(node["site-folder"]),
            packed_study,
            # The node's own config, never the run's: who asks does not say what is approved. Without it the records decide.
            str(node.get("approved", "")),
            str(node.get("source", "")),
            str(node.get("attack", "")),
            str(node.get("run-folder", "")),
            str(node.get("manifest", "")),
        )
        memory = Memory(Path(str(node["memory-folder"])) / client.digest)
        return cls(client, memory, Keys(Path(str(node.get("key-folder", own / FOLDER)))))


@lru_cache(maxsize=MOST_HOSPITALS)
def incident_of(folder: str, kind: str, text: str) -> str:
    """The number under which a hospital's log knows a cause of failure.

    A cause that strikes again in the same process keeps its number: whoever reads it looks
    in the log once. It is drawn and not worked out, so that it says nothing of the cause.
    """
    del folder, kind, text
    return uuid.uuid4().hex[:8]


@lru_cache(maxsize=MOST_HOSPITALS)
def client_of(
    folder: str,
    packed_study: str,
    approved: str,
    packed_source: str,
    packed_attack: str,
    run_folder: str = "",
    packed_manifest: str = "",
) -> Client:
    """The client of a hospital's folder for a study, kept with its cohort."""
    return Client(Path(folder), packed_study, approved, packed_source, packed_attack, run_folder, packed_manifest)


def forget() -> None:
    """Read hospitals' folders anew from here on: one was changed, or another simulation begins in this process."""
    client_of.cache_clear()
    forget_folders()
