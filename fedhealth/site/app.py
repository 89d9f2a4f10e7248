"""The client app: Flower messages in, the hospital's sealed answers out."""

from __future__ import annotations

import logging
import uuid
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedhealth.core.errors import Refused
from fedhealth.runtime.codec import read_request, write_failure, write_refusal, write_reply
from fedhealth.site.client import Client
from fedhealth.site.keys import FOLDER, Keys
from fedhealth.site.memory import Memory

log = logging.getLogger(__name__)

#: Clients kept loaded in one process, each with its cohort.
MOST_CLIENTS = 4096

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
    """The reply; a refusal or failure leaves as a code, its text stays in this hospital's log."""
    try:
        client = client_of(
            str(context.node_config["site-folder"]),
            str(context.run_config["fh-study"]),
            str(context.node_config["approved"]),
            str(context.node_config.get("source", "")),
            str(context.node_config.get("attack", "")),
            str(context.node_config.get("run-folder", "")),
        )
        memory = Memory(Path(str(context.node_config["memory-folder"])) / client.digest)
        own = Path(str(context.node_config["site-folder"]))
        keys = Keys(Path(str(context.node_config.get("key-folder", own / FOLDER))))
        return write_reply(client.answer(read_request(message), memory, keys), to=message)
    except Refused as refused:
        log.warning("refused code=%s: %s", refused.code, refused)
        return write_refusal(refused, to=message)
    except Exception as error:  # noqa: BLE001 - one hospital's failure must not end the round
        incident = incident_of(str(context.node_config.get("site-folder", "")), type(error).__name__, str(error))
        log.error("failed incident=%s %s: %s", incident, type(error).__name__, error)  # noqa: TRY400 - a trace may hold rows
        return write_failure(error, incident, to=message)


@lru_cache(maxsize=MOST_CLIENTS)
def incident_of(folder: str, kind: str, text: str) -> str:
    """The number under which a hospital's log knows a cause of failure.

    A cause that strikes again in the same process keeps its number: whoever reads it looks
    in the log once. It is drawn and not worked out, so that it says nothing of the cause.
    """
    del folder, kind, text
    return uuid.uuid4().hex[:8]


@lru_cache(maxsize=MOST_CLIENTS)
def client_of(
    folder: str, packed_study: str, approved: str, packed_source: str, packed_attack: str, run_folder: str = ""
) -> Client:
    """The client of a hospital's folder for a study, kept with its cohort."""
    return Client(Path(folder), packed_study, approved, packed_source, packed_attack, run_folder)
