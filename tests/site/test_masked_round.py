"""The open round on a hospital's disk: it outlives the process, and is never gone through twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedhealth.core.errors import IntegrityError, Refused
from fedhealth.core.parts import build
from fedhealth.core.study import packed, unpacked
from fedhealth.core.update import PrivateUpdate, Update
from fedhealth.evaluation.spans import spans_of
from fedhealth.runtime.codec import Request
from fedhealth.secagg.masked import MESSAGE
from fedhealth.secagg.protocol.codec import decode
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.secagg.protocol.server import ServerSession
from fedhealth.server.store import Store
from fedhealth.simulate import checked, clients, identified
from fedhealth.site.client import Client
from fedhealth.site.keys import Keys
from fedhealth.site.masked_round import STEPS
from fedhealth.site.memory import Memory
from fedhealth.site.step_count import StepCount
from fedhealth.strategies.method import method_of

QUESTION = "query.shape"
OWN = "harrow-fen"


class Federation:
    """The smoke study's hospitals, asked how many patients they have, one step at a time."""

    def __init__(self, simulation, folder) -> None:
        self.folder = folder
        self.simulation = identified(simulation, Store(folder))
        self.study = self.simulation.study
        self.clients = clients(self.simulation)
        _, self.terms = build(self.study.secagg, where="secagg").asked(
            Request(QUESTION, 0, {}, {}),
            self.study,
            self.simulation.digest,
            method=method_of(self.study.strategy),
            spans=spans_of,
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


def answered_at(federation, name):
    return federation.keys(name).folder / "answered" / federation.terms.task.hex()


def test_a_question_answered_once_is_answered_for_the_same_hospitals_only(federation):
    federation.through("query.reveal")
    assert json.loads(answered_at(federation, OWN).read_text()) == sorted(federation.study.roster)
    answered_at(federation, OWN).write_text(json.dumps(sorted(federation.study.roster)[:2]))
    federation.server = ServerSession(federation.terms, seed=os.urandom(32))
    with pytest.raises(Refused) as refused:
        federation.through("query.reveal")
    assert refused.value.code == "query_repeated"


def test_a_statistic_asked_with_anything_more_is_the_same_question(federation):
    federation.through("query.reveal")
    again = Request(QUESTION, 0, {}, {"again": 1})
    federation.clients[OWN].answer(again, federation.memory(OWN), federation.keys(OWN))
    stored, _ = federation.clients[OWN]._round(federation.memory(OWN), federation.keys(OWN))._read()
    assert stored.terms.task == federation.terms.task


FOUR = "sites.names=[galen-heart,harrow-fen,millbrook,port-amity]"


def test_another_study_does_not_get_a_statistic_again_of_one_hospital_fewer(smoke, tmp_path):
    first = Federation(checked(smoke("secagg=masked", FOUR)), tmp_path)
    first.through("query.reveal")
    # Another name, seed and model: the difference of both sums would be millbrook's patients all the same.
    words = ("secagg=masked", "name=another", "seed=8", "model=mlp", "rounds=9")
    without = Federation(checked(smoke(*words)), tmp_path)
    assert set(first.study.roster) - set(without.study.roster) == {"millbrook"}
    assert without.terms.study != first.terms.study
    with pytest.raises(Refused) as refused:
        without.through("query.reveal")
    assert refused.value.code == "query_repeated"
    assert "allow_regrouping" in str(refused.value)
    same = Federation(checked(smoke(*words, FOUR)), tmp_path)
    assert same.through("query.reveal").sites == 4
    other_shares = Federation(checked(smoke(*words, "split.train=0.5", "split.test=0.3")), tmp_path)
    assert other_shares.through("query.reveal").sites == 3


def test_a_hospital_may_allow_it_to_be_summed_otherwise(smoke, tmp_path):
    Federation(checked(smoke("secagg=masked", FOUR)), tmp_path).through("query.reveal")
    without = Federation(checked(smoke("secagg=masked")), tmp_path)
    for client in without.clients.values():
        object.__setattr__(client.manifest, "policy", replace(client.manifest.policy, allow_regrouping=True))
    assert without.through("query.reveal").sites == 3
    assert json.loads(answered_at(without, OWN).read_text()) == sorted(["millbrook", *without.study.roster])


NEXT = {
    "advert": "query.share",
    "query.share": "query.mask",
    "query.mask": "query.confirm",
    "query.confirm": "query.reveal",
}


#: Where a question's hospitals are kept, whatever its task.
ANSWERED = "the answer"


class KilledError(BaseException):
    pass


@pytest.fixture
def disk(monkeypatch):
    """What is done to the disk, in order; the `stop`-th of it is not done, as if the process was killed before it."""
    done = SimpleNamespace(steps=[], stop=None)

    def watched(name, real):
        def step(target, *rest):
            if done.stop is not None and len(done.steps) == done.stop:
                raise KilledError
            where = target if isinstance(target, (str, Path)) else Path(f"/proc/self/fd/{target}").readlink()
            done.steps.append((name, Path(where).name))
            return real(target, *rest)

        return step

    for name in ("fsync", "pwrite"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    monkeypatch.setattr("fedhealth.site.step_count._flush", watched("flush", os.fdatasync))
    monkeypatch.setattr(Path, "replace", watched("replace", Path.replace))
    return done


@pytest.mark.parametrize(
    ("last", "flushed"),
    [
        ("advert", [("flush", "counter")]),
        ("query.share", [("flush", "counter")]),
        ("query.mask", [("fsync", ANSWERED), ("fsync", "answered"), ("flush", "counter")]),
        ("query.confirm", [("flush", "counter")]),
    ],
)
def test_what_a_loss_of_power_must_not_take_back_is_flushed_before_the_message_leaves(federation, last, flushed, disk):
    sent = federation.through(last)[OWN]
    disk.steps.clear()
    federation.answer(OWN, NEXT[last], sent)
    draft = f".{federation.terms.task.hex()}.draft"
    found = [(what, ANSWERED if where == draft else where) for what, where in disk.steps if what in ("fsync", "flush")]
    assert found == flushed


def test_a_question_asked_again_of_the_same_costs_one_flush_a_step(federation, disk):
    federation.through("query.reveal")
    federation.server = ServerSession(federation.terms, seed=os.urandom(32))
    disk.steps.clear()
    federation.through("query.reveal")
    assert [what for what, _ in disk.steps if what in ("fsync", "flush")] == ["flush"] * 4 * 3


@pytest.mark.parametrize("last", NEXT)
def test_a_step_cut_off_anywhere_is_answered_once_at_most_and_never_twice(federation, last, disk, tmp_path):
    sent = federation.through(last)[OWN]
    folders = federation.folder / "memory", federation.folder / "keys"
    for folder in folders:
        shutil.copytree(folder, tmp_path / "before" / folder.name)
    disk.steps.clear()
    federation.answer(OWN, NEXT[last], sent)
    for stop in range(len(disk.steps)):
        for folder in folders:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "before" / folder.name, folder)
        disk.steps.clear()
        disk.stop = stop
        with pytest.raises(KilledError):
            federation.answer(OWN, NEXT[last], sent)
        disk.stop = None
        answers = 0
        for _ in range(2):
            try:
                federation.answer(OWN, NEXT[last], sent)
                answers += 1
            except Refused as refused:
                assert refused.code in ("rolled_back", "out_of_order")  # noqa: PT017
        assert answers <= 1


@pytest.mark.parametrize("last", NEXT)
def test_a_sealed_file_that_a_loss_of_power_took_ends_the_round(federation, last):
    sent = federation.through(last)[OWN]
    federation.file(OWN).write_bytes(b"")
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, NEXT[last], sent)
    assert refused.value.code == "rolled_back"


def test_a_beginning_that_a_loss_of_power_took_leaves_no_step_to_take_again(federation, tmp_path):
    federation.through("query.reveal")
    own = federation.folder / "memory" / OWN, federation.folder / "keys" / OWN
    for folder in own:
        shutil.copytree(folder, tmp_path / "before" / folder.parent.name)
    federation.server = ServerSession(federation.terms, seed=os.urandom(32))
    sent = federation.through("advert")[OWN]
    for folder in own:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before" / folder.parent.name, folder)
    for purpose in STEPS:
        with pytest.raises(Refused) as refused:
            federation.answer(OWN, purpose, sent)
        assert refused.value.code == "out_of_order"


def test_a_hospital_that_starts_anew_after_it_confirmed_reveals_once(federation):
    # A new client from the same folders is all that a new process has; `ALONE`, below, is one.
    sent = federation.through("query.confirm")
    federation.clients = clients(federation.simulation)
    federation.step("query.reveal", sent)
    assert decode(federation.terms.layout, federation.server.total(), 3).sites == 3
    federation.clients = clients(federation.simulation)
    with pytest.raises(Refused) as refused:
        federation.answer(OWN, "query.reveal", sent[OWN])
    assert refused.value.code == "out_of_order"


@pytest.mark.parametrize("content", [b"", b"1 1 1\n", b"x" * 35, b"0" * 34 + b"\n"])
def test_a_count_that_was_changed_is_not_read(tmp_path, content):
    count = StepCount(tmp_path / "count")
    assert count.read() == (0, 0, 0)
    count.write(2**60, 2**32, 6, durably=True)
    assert count.read() == (2**60, 2**32, 6)
    assert count.path.stat().st_mode & 0o777 == 0o600
    count.path.write_bytes(content)
    with pytest.raises(IntegrityError, match="must be a count of steps"):
        count.read()


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
from fedhealth.core.errors import IntegrityError, Refused
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
