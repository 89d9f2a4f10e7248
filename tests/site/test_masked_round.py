"""The open round on a hospital's disk: it outlives the process, and is never gone through twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from fedhealth.core.errors import Refused
from fedhealth.core.parts import build
from fedhealth.core.study import packed, unpacked
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.evaluation.spans import spans_of
from fedhealth.runtime.codec import Request
from fedhealth.secagg.masked import MESSAGE, task_of
from fedhealth.secagg.protocol.codec import decode
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.server.store import Store
from fedhealth.simulate import checked, clients, identified
from fedhealth.site.client import Client
from fedhealth.site.keys import Keys
from fedhealth.site.memory import Memory

QUESTION = "query.shape"
OWN = "harrow-fen"


class Federation:
    """The smoke study's hospitals, asked how many patients they have, one step at a time."""

    def __init__(self, simulation, folder) -> None:
        self.folder = folder
        self.simulation = identified(simulation, Store(folder))
        self.study = self.simulation.study
        self.clients = clients(self.simulation)
        masked = build(self.study.secagg, where="secagg")
        content = masked.sums(spans_of(self.study, QUESTION))
        self.terms = masked.terms(
            self.simulation.digest, self.study.identities, 0, task_of(QUESTION, {}, {}), content.layout(3)
        )
        self.server = ServerSession(self.terms, seed=os.urandom(32))

    def memory(self, name):
        return Memory(self.folder / "memory" / name)

    def keys(self, name):
        return Keys(self.folder / "keys" / name)

    def file(self, name):
        return self.folder / "memory" / name / "masked-round"

    def answer(self, name, purpose, message=None):
        arrays = {} if message is None else {MESSAGE: np.frombuffer(message, dtype=np.uint8)}
        request = Request(purpose, 0, arrays, {})
        sealed = self.clients[name].answer(request, self.memory(name), self.keys(name))
        assert sealed.is_masked
        assert not sealed.metrics
        return sealed.arrays[MESSAGE].tobytes()

    def step(self, purpose, sent, answer=None):
        """One exchange: each hospital's message in `sent` answered, by `answer` where given, and taken."""
        for name, message in sent.items():
            found = (answer or self.answer)(name, purpose, message)
            self.server.take(name, unpack(found))

    def through(self, last, answer=None):
        """The messages of the step after `last`, by hospital; or the sum, after the reveal."""
        names = list(self.study.roster)
        self.step(QUESTION, dict.fromkeys(names), answer)
        sent = dict.fromkeys(names, self.server.cohort().pack())
        for purpose, following in (
            ("query.share", lambda: {name: inbox.pack() for name, inbox in self.server.inboxes().items()}),
            ("query.mask", lambda: dict.fromkeys(names, self.server.survivors().pack())),
            ("query.confirm", lambda: dict.fromkeys(names, self.server.quorum().pack())),
        ):
            if last == "advert":
                return sent
            self.step(purpose, sent, answer)
            sent = following()
            if last == purpose:
                return sent
        self.step("query.reveal", sent, answer)
        return decode(self.terms.layout, self.server.total(), len(names))


@pytest.fixture
def federation(smoke, tmp_path):
    return Federation(checked(smoke("secagg=masked")), tmp_path)


def test_the_hospitals_patients_come_out_as_one_sum(federation):
    total = federation.through("query.reveal")
    shapes = [client.cohort.shape for client in federation.clients.values()]
    expected = [sum(getattr(shape, part) for shape in shapes) for part in ("train", "validation", "test")]
    assert total.sums["patients by part"].tolist() == expected
    assert total.weight == total.sites == 3


@pytest.mark.parametrize("last", ["advert", "query.share", "query.mask", "query.confirm"])
def test_no_step_is_taken_twice(federation, last):
    sent = federation.through(last)[OWN]
    step = {"advert": "query.share", "query.share": "query.mask", "query.mask": "query.confirm"}.get(
        last, "query.reveal"
    )
    federation.answer(OWN, step, sent)
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, step, sent)
    assert refused.value.code == "out_of_order"


@pytest.mark.parametrize("last", ["query.mask", "query.confirm"])
def test_of_many_requests_for_a_step_at_once_one_is_answered(federation, last):
    # Two signatures of two lists of survivors, or two reveals, would open a hospital's own vector.
    sent = federation.through(last)[OWN]
    step = {"query.mask": "query.confirm"}.get(last, "query.reveal")

    def ask(_):
        try:
            return federation.answer(OWN, step, sent)
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert sum(isinstance(each, bytes) for each in found) == 1
    assert found.count("out_of_order") == 7


@pytest.mark.parametrize("last", ["advert", "query.share", "query.mask", "query.confirm"])
def test_a_round_put_back_from_a_copy_does_not_open(federation, last, tmp_path):
    sent = federation.through(last)[OWN]
    step = {"advert": "query.share", "query.share": "query.mask", "query.mask": "query.confirm"}.get(
        last, "query.reveal"
    )
    shutil.copy(federation.file(OWN), tmp_path / "copy")
    federation.answer(OWN, step, sent)
    shutil.copy(tmp_path / "copy", federation.file(OWN))
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, step, sent)
    assert refused.value.code == "rolled_back"


def test_of_messages_that_come_at_once_one_is_answered(federation):
    sent = federation.through("query.mask")[OWN]

    def confirmed(_):
        try:
            return federation.answer(OWN, "query.confirm", sent)
        except Refused as refused:
            return refused.code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(confirmed, range(8)))
    assert found.count("out_of_order") == 7


def test_a_round_is_of_one_hospital_and_study(federation):
    sent = federation.through("query.confirm")
    other = next(name for name in federation.study.roster if name != OWN)
    shutil.copy(federation.file(other), federation.file(OWN))
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, "query.reveal", sent[OWN])
    assert refused.value.code == "rolled_back"


def test_a_refusal_ends_the_round(federation):
    sent = federation.through("advert")[OWN]
    cut = unpack(sent)
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, "query.share", replace(cut, adverts=cut.adverts[:2]).pack())
    assert refused.value.code == "too_few_adverts"
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, "query.share", sent)
    assert refused.value.code == "out_of_order"


def test_a_new_question_ends_the_open_round(federation):
    sent = federation.through("query.mask")[OWN]
    federation.answer(OWN, QUESTION)
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, "query.confirm", sent)
    assert refused.value.code == "out_of_order"


def test_a_question_answered_once_is_answered_for_the_same_hospitals_only(federation):
    federation.through("query.reveal")
    answered = federation.keys(OWN).folder / federation.simulation.digest / "answered" / federation.terms.task.hex()
    assert json.loads(answered.read_text()) == sorted(federation.study.roster)
    answered.write_text(json.dumps(sorted(federation.study.roster)[:2]))
    federation.server = ServerSession(federation.terms, seed=os.urandom(32))
    with pytest.raises(Refused) as refused:
        federation.through("query.reveal")
    assert refused.value.code == "query_repeated"


def test_a_statistic_asked_with_anything_more_is_the_same_question(federation):
    plain = task_of(QUESTION, {}, {})
    assert task_of(QUESTION, {}, {"again": 1}) == task_of(QUESTION, {"more": np.zeros(1)}, {}) == plain
    means = [{"means": np.array([0.5, value])} for value in (1.0, np.nextafter(1.0, 2.0))]
    assert task_of("query.spread", means[0], {}) == task_of("query.spread", means[1], {}) != plain
    assert task_of("evaluate", means[0], {}) != task_of("evaluate", means[1], {})
    federation.through("query.reveal")
    again = Request(QUESTION, 0, {}, {"again": 1})
    federation.clients[OWN].answer(again, federation.memory(OWN), federation.keys(OWN))
    stored, _ = federation.clients[OWN]._round(federation.memory(OWN), federation.keys(OWN))._read()
    assert stored.terms.task == federation.terms.task


def test_a_key_that_is_not_the_studys_takes_no_part(federation):
    (federation.keys(OWN).folder / "identity").unlink()
    federation.keys(OWN).init()
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, QUESTION)
    assert refused.value.code == "not_on_roster"


def test_steps_are_refused_where_the_study_is_not_masked(smoke, tmp_path):
    client = clients(checked(smoke()))[OWN]
    with pytest.raises(Refused) as refused:
        client.answer(Request("query.reveal", 0, {}, {}), Memory(tmp_path), Keys(tmp_path))
    assert refused.value.code == "out_of_order"


@pytest.mark.parametrize(
    ("weight", "value", "code"),
    [
        (0, 0.5, "weight_out_of_range"),
        (131_073, 0.5, "weight_out_of_range"),
        (10.5, 0.5, "wrong_shape"),
        (10, np.nan, "not_finite"),
        (10, np.inf, "not_finite"),
        (10, 16_385.0, "value_out_of_range"),
    ],
)
def test_an_update_that_does_not_fit_leaves_no_advert(federation, weight, value, code):
    client = federation.clients[OWN]
    content = client.sealing.averages({"w": (2,)}, ("loss",))
    terms = client.sealing.terms(client.digest, client.study.identities, 1, bytes(32), content.layout(3))
    update = Update(weight, {"w": np.array([0.0, value])}, {"loss": 0.1})
    private = client.mechanism.privatise(update, what="train")
    assert isinstance(private, PrivateUpdate)
    with pytest.raises(Refused) as refused:
        client._round(federation.memory(OWN), federation.keys(OWN)).begin(private, content, terms, OWN, floor=3)
    assert refused.value.code == code
    assert not federation.file(OWN).exists()


def test_a_masked_study_once_approved_is_not_asked_in_clear(federation):
    client = federation.clients[OWN]
    downgraded = packed({**unpacked(client.packed_study), "secagg": {"_target_": "fedhealth.secagg.plain.Plain"}})
    lowered = Client(client.folder, downgraded, client.approved)
    for purpose in (QUESTION, "train", "evaluate", "query.reveal"):
        with pytest.raises(Refused) as refused:
            lowered.answer(Request(purpose, 0, {}, {}), federation.memory(OWN), federation.keys(OWN))
        assert refused.value.code == "study_changed"


ALONE = """
import sys, numpy as np
from pathlib import Path
from fedhealth.core.errors import Refused
from fedhealth.runtime.codec import Request
from fedhealth.site.client import Client
from fedhealth.site.keys import Keys
from fedhealth.site.memory import Memory
folder, study, approved, memory, keys, purpose, message, reply = sys.argv[1:]
content = Path(message).read_bytes()
arrays = {"message": np.frombuffer(content, dtype=np.uint8)} if content else {}
try:
    sealed = Client(Path(folder), study, approved).answer(
        Request(purpose, 0, arrays, {}), Memory(Path(memory)), Keys(Path(keys)))
except Refused as refused:
    sys.exit(refused.code)
Path(reply).write_bytes(sealed.arrays["message"].tobytes())
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_hospital_that_starts_anew_for_every_message_completes_its_round_and_reveals_once(federation, tmp_path):
    client, kept = federation.clients[OWN], {}

    def alone(purpose, message):
        (tmp_path / "message").write_bytes(message or b"")
        words = (client.folder, client.packed_study, client.approved, federation.memory(OWN).folder,
                 federation.keys(OWN).folder, purpose, tmp_path / "message", tmp_path / "reply")  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", ALONE, *map(str, words)], capture_output=True, text=True, check=False
        )

    def answer(name, purpose, message):
        if name != OWN:
            return federation.answer(name, purpose, message)
        kept[purpose] = message
        if purpose == "query.reveal":
            shutil.copy(federation.file(OWN), tmp_path / "copy")
        ended = alone(purpose, message)
        assert ended.returncode == 0, ended.stderr
        return (tmp_path / "reply").read_bytes()

    total = federation.through("query.reveal", answer)
    assert total.sites == 3
    assert alone("query.reveal", kept["query.reveal"]).stderr.strip().endswith("out_of_order")
    shutil.copy(tmp_path / "copy", federation.file(OWN))
    assert alone("query.reveal", kept["query.reveal"]).stderr.strip().endswith("rolled_back")
