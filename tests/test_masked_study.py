"""Masked studies: the plain study's results, from messages in which no hospital stands alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from masked_study import STEPS, conducted
from safetensors.numpy import load as load_tensors
from scipy.stats import binom

from fedhealth import cli
from fedhealth.compose import composed, resolved
from fedhealth.core.errors import QuorumError, SettingError
from fedhealth.core.update import ALL
from fedhealth.evaluation.spans import spans_of
from fedhealth.evaluation.sparse import dense
from fedhealth.evaluation.survival import SurvivalSums
from fedhealth.places import builtin_sites, configs_folder
from fedhealth.secagg.protocol.messages import unpack
from fedhealth.server.store import Store
from fedhealth.simulate import checked, open_run, run

pytestmark = pytest.mark.slow

SITES = ["galen-heart", "harrow-fen", "norrvik", "port-amity"]
FOUR = f"sites.names=[{','.join(SITES)}]"
#: The rounds in which a reply of one hospital is lost, by the type of the message it answers.
LOST_IN = {1: "train", 2: "query.share", 3: "query.mask", 4: "query.confirm", 5: "query.reveal"}
LOST = "harrow-fen"


@pytest.fixture
def four(smoke):
    def config(*overrides: str):
        return checked(smoke(FOUR, "rules.quorum=3", *overrides))

    return config


def weights(store):
    return load_tensors((store.folder / "model.safetensors").read_bytes())


def assert_alike(masked, plain, *, within=1e-6):
    ours, theirs = weights(masked), weights(plain)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=within)


def near(strategy):
    """Newton divides by curvature, so it wants values to their last digits."""
    return ("secagg.weight_max=2000", "secagg.value_bound=512") if strategy == "newton" else ()


def lost_at_each_stage(name, question, round_, kind):
    return name == LOST and question == "train" and LOST_IN.get(round_) == kind


def lost_before_the_sum(name, question, round_, kind):
    """Of a plain study: whoever sent its masked vector is in the sum, and answers here."""
    return name == LOST and kind == "train" and round_ <= 3


def test_a_masked_study_gives_what_the_plain_one_gives(four, tmp_path):
    plain, _ = conducted(four("rounds=2"), tmp_path / "plain")
    masked, _ = conducted(four("rounds=2", "secagg=masked"), tmp_path / "masked")
    assert_alike(masked, plain)
    by_site, one = plain.read_json("results.json")["sums"], masked.read_json("results.json")["sums"]
    assert list(one) == [ALL]
    total = np.sum([dense(by_site[site]) for site in SITES], axis=0)
    # Weights that differ in the last bit may move a patient to the next cell.
    assert np.abs(total - dense(one[ALL])).sum() < 1e-2
    assert masked.read_json("results.json")["counted"] == SITES


@pytest.mark.slow
def test_a_masked_study_over_time_gives_the_plain_ones_model_and_order(tmp_path):
    study = ["experiment=survival", FOUR, "rules.quorum=3", "rounds=3", "run.baselines=[]"]
    plain, masked = (
        conducted(checked(resolved(composed([*study, f"secagg={how}"]))), tmp_path / how)[0]
        for how in ("plain", "masked")
    )
    # Three rounds, each of which rounds by chance to its lattice, by less than 1e-6 of a weight.
    assert_alike(masked, plain, within=3e-6)
    by_site, one = plain.read_json("results.json")["sums"], masked.read_json("results.json")["sums"]
    total, found = (
        sum((SurvivalSums.from_vector(dense(v)[-SurvivalSums.width() :]) for v in each.values()), SurvivalSums())
        for each in (by_site, one)
    )
    assert (found.patients, found.censored, found.comparable) == (total.patients, total.censored, total.comparable)
    # Weights that differ in the last bit may change the order of two patients.
    assert abs(found.concordant - total.concordant) <= 2


def test_statistics_under_masks_are_the_sums_themselves(four, tmp_path):
    plain, masked = (
        conducted(four("rounds=1", f"secagg={how}"), tmp_path / how)[0].read_json("statistics.json")
        for how in ("plain", "masked")
    )
    assert masked["shapes"][ALL] == np.sum(list(plain["shapes"].values()), axis=0).tolist()
    for which, question in (("first", "query.moments"), ("second", "query.spread")):
        total = np.sum(list(plain[which].values()), axis=0)
        # A bound is rounded up to a power of two, and a word of 64 bits counts to 2^50 of it.
        spans = spans_of(four().study, question)
        most = np.concatenate([np.full(span.size, 0 if span.is_whole else span.most(131_072)) for span in spans])
        assert (np.abs(masked[which][ALL] - total) <= len(SITES) * 2 * most * 2.0**-50 + 1e-12 * np.abs(total)).all()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "scaffold", "newton", "afl", "fednova", "fedsgd"])
def test_hospitals_lost_at_any_stage_leave_what_the_plain_study_without_them_gives(four, tmp_path, strategy):
    words = ("rounds=6", f"strategy={strategy}")
    plain, _ = conducted(four(*words), tmp_path / "plain", lost_before_the_sum)
    masked, _ = conducted(four(*words, "secagg=masked", *near(strategy)), tmp_path / "masked", lost_at_each_stage)
    assert_alike(masked, plain)
    rest = [name for name in SITES if name != LOST]
    rows = masked.read_history()
    assert [row["trained_by"] for row in rows] == [rest, rest, rest, SITES, SITES, SITES]
    lost = [[x["purpose"] for x in row["exchanges"] if x["lost"]] for row in rows]
    assert lost == [["train"], ["query.share"], ["query.mask"], ["query.confirm"], ["query.reveal"], []]


REST = ("apfl", "ditto", "fedadagrad", "fedavgm", "fedbn", "feddyn", "fedper", "fedrep", "fedyogi", "finetune")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", REST)
def test_every_strategy_that_needs_a_sum_gives_under_masks_what_it_gives_in_plain(four, tmp_path, strategy):
    model = "model.normalisation=batch" if strategy in ("fedbn", "ditto") else "model.normalisation=layer"
    words = ("rounds=2", f"strategy={strategy}", "model=mlp", "model.hidden=[8]", model)
    plain, _ = conducted(four(*words), tmp_path / "plain")
    masked, _ = conducted(four(*words, "secagg=masked", *near(strategy)), tmp_path / "masked")
    # Flower averages a plain study in float32, and where a gradient is small its adaptive steps enlarge that rounding.
    assert_alike(masked, plain, within=5e-6 if strategy in ("fedadagrad", "fedyogi") else 1e-6)


def test_the_strategies_that_a_mask_allows_are_all_tested():
    stems = {path.stem for path in (configs_folder() / "strategy").glob("*.yaml")}
    each = {"krum", "multikrum", "bulyan", "fedmedian", "fedtrimmedavg", "qfedavg"}
    assert stems - each == {*REST, "fedavg", "fedprox", "fedadam", "scaffold", "newton", "afl", "fednova", "fedsgd"}


def test_nothing_of_one_hospital_travels_in_clear(four, tmp_path):
    _, grid = conducted(four("rounds=1", "secagg=masked"), tmp_path / "masked")
    kinds = {message.metadata.message_type for _, message in grid.sent}
    assert kinds == {"query.shape", "query.moments", "query.spread", "train", "evaluate", *STEPS}
    for name, reply in grid.came:
        assert reply.has_content(), name
        assert set(reply.content) == {"arrays"}
        assert set(reply.content["arrays"]) == {"message"}
    vectors = [unpack(reply.content["arrays"]["message"].numpy().tobytes()).words
               for _, reply in grid.came if reply.metadata.message_type == "query.mask"]  # fmt: skip
    assert len(vectors) == 4 * 6  # shape, moments, spread, train, validation and test, of four hospitals
    for words in vectors:
        # What stands under the masks is far below 2^56 on either side of 0; of random words one in 128 is.
        near = np.minimum(words, np.uint64(0) - words) < 2**56
        assert near.sum() <= binom.isf(1e-6, len(words), 1 / 128)
    sizes = {kind: set() for kind in kinds}
    for _, reply in grid.came:
        sizes[reply.metadata.message_type].add(sum(len(array.data) for array in reply.content["arrays"].values()))
    # A message's size tells nothing of the hospital either.
    question = {kind for kind in kinds if kind not in STEPS}
    assert all(len(sizes[kind]) == 1 for kind in question)


def test_every_hospital_is_asked_the_same(four, tmp_path):
    _, grid = conducted(four("rounds=3", "secagg=masked", "strategy=scaffold"), tmp_path / "run", lost_at_each_stage)
    asked = {}
    for _, message in grid.sent:
        if message.metadata.message_type == "train":
            config = dict(message.content["config"])
            asked.setdefault(config["server-round"], []).append(config)
    assert all(config == configs[0] for configs in asked.values() for config in configs)
    # The one whose update of round 1 got lost goes on from what it had before that round.
    assert asked[2][0][f"memory-round:{LOST}"] == 0


def test_a_hospital_lost_between_the_two_passes_of_the_statistics_ends_them(four, tmp_path):
    with pytest.raises(QuorumError, match=f"sums over the same hospitals, found {LOST} lost in between"):
        conducted(
            four("secagg=masked"),
            tmp_path / "run",
            lambda name, question, round_, kind: name == LOST and (question, kind) == ("query.spread", "query.mask"),
        )


def test_a_hospital_that_missed_the_first_pass_is_not_asked_for_the_second(four, tmp_path):
    store, _ = conducted(
        four("secagg=masked", "rounds=1"),
        tmp_path / "run",
        lambda name, question, round_, kind: name == LOST and question == kind == "query.moments",
    )
    assert store.read_history()[0]["trained_by"] == SITES


def test_the_round_ends_where_too_few_stay(four, tmp_path):
    with pytest.raises(QuorumError, match="at least 3 of 4 hospitals must answer, found 2"):
        conducted(
            four("secagg=masked"),
            tmp_path / "run",
            lambda name, question, round_, kind: name in SITES[:2] and (question, kind) == ("train", "query.mask"),
        )


def test_survivors_and_colluders_must_leave_no_room_for_others(smoke, tmp_path):
    # Of 5 with 1 colluder, (5 + 1) // 2 + 1 = 4 must stay; the grid's own quorum would let 3 do.
    five = checked(smoke(f"sites.names=[{','.join([*SITES, 'millbrook'])}]", "rules.quorum=3", "secagg=masked"))
    with pytest.raises(QuorumError, match="at least 4 of 5 hospitals must answer, found 3.*a masked sum takes"):
        conducted(
            five, tmp_path / "run", lambda name, question, round_, kind: name in SITES[:2] and kind == "query.mask"
        )


def test_a_masked_study_resumes_with_its_keys(four, tmp_path):
    whole, _ = conducted(four("rounds=3", "secagg=masked"), tmp_path / "whole")
    stopped = tmp_path / "stopped"

    def cut(name, question, round_, kind):
        if (question, round_, kind) == ("train", 3, "query.confirm"):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        conducted(four("rounds=3", "secagg=masked"), stopped, cut)
    resumed, _ = conducted(four("rounds=3", "secagg=masked"), stopped)
    # Masks and rounding are drawn afresh, so not to the bit.
    assert_alike(resumed, whole)


@pytest.mark.slow
@pytest.mark.process
def test_a_masked_study_killed_while_it_runs_goes_on_to_the_same_model(tmp_path):
    words = [sys.executable, "-m", "fedhealth", "simulate"]
    study = ["experiment=smoke", "secagg=masked", "rounds=6", "run.report=false"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*words, *study, f"run.folder={whole}"], check=True, capture_output=True)
    process = subprocess.Popen([*words, *study, f"run.folder={killed}"], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (killed / "checkpoints" / "00002").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    assert process.wait() < 0, "the process ended before it could be killed"
    subprocess.run([*words, "--resume", str(killed)], check=True, capture_output=True)
    assert_alike(Store(killed), Store(whole))


def test_a_hospitals_keys_and_its_open_round_are_its_owners_alone(four, tmp_path):
    store, _ = conducted(four("rounds=1", "secagg=masked"), tmp_path / "run")
    private = [path for name in ("keys", "memory") for path in (store.folder / name).rglob("*") if path.is_file()]
    assert {path.name for path in private} >= {"identity", "seal", "counter", "masked-round"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("strategy=krum",), "needs each hospital's update"),
        (("strategy=fedmedian",), "needs each hospital's update"),
        (("strategy._target_=masked_strategy.Undeclared",), "or does not say"),
        (("sites.names=[galen-heart,harrow-fen]", "rules.quorum=2"), "must be at most the 2 hospitals"),
        (("secagg.min_cohort=5",), "must be at most the 4 hospitals"),
        (("secagg.min_cohort=2",), "must be at least 3"),
        (("secagg.bits=32",), "32-bit words must hold a value"),
        (("secagg.value_bound=1e14",), "64-bit words must hold a value"),
    ],
)
def test_what_can_not_be_masked_is_refused_before_any_round(four, words, rule):
    with pytest.raises(SettingError, match=rule):
        four("secagg=masked", *words)


def test_narrow_words_do_where_the_bounds_are_near(four, tmp_path):
    words = ("secagg.bits=32", "secagg.weight_max=1000", "secagg.value_bound=4", "secagg.metric_bound=4", "rounds=2")
    plain, _ = conducted(four("rounds=2"), tmp_path / "plain")
    masked, _ = conducted(four("secagg=masked", *words), tmp_path / "masked")
    # Of 4 hospitals a word counts to 2^29, so a value to 2^-29 of 4 x 1000; the mean is of hundreds of patients.
    assert_alike(masked, plain, within=1e-6)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("secagg.weight_max=100",), "outside the bound"),
        (("secagg.value_bound=0.001", "secagg.weight_max=100000"), "outside the bound"),
    ],
)
def test_a_hospital_refuses_what_does_not_fit_by_its_reason(four, tmp_path, words, reason):
    with pytest.raises(QuorumError, match=reason):
        conducted(four("secagg=masked", *words), tmp_path / "run")


@pytest.mark.slow
def test_the_report_of_a_masked_run_shows_all_hospitals_together_and_none_alone(smoke):
    simulation = checked(smoke("secagg=masked", "rounds=2", "run.report=true", "run.baselines=[local,pooled,oracle]"))
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    report = cli._write_report(simulation, store.folder)
    assert report["union"]["federated"]["auroc"]["value"] > 0.6
    assert {row["who"] for row in report["comparison"]} == {"local", "federated", "pooled", "oracle"}
    for row in report["comparison"]:
        assert row["union_auroc"]["value"] is not None
        assert row["mean_site_auroc"]["value"] is None
        assert row["worst_site"] is None
    for site in report["sites"]:
        assert site["train"] is site["test"] is site["events"] is site["federated"] is site["local"] is None
    assert report["heterogeneity"] is None
    assert [row["hospitals"] for row in report["masking"]["rounds"]] == [3, 3]
    assert report["groups"]
    page = (store.folder / "report.html").read_text()
    assert "no hospital&#39;s own result exists" in page
    assert 'id="masking"' in page
    for name in ("results.json", "baselines.json", "statistics.json"):
        content = store.read_json(name)
        own = [part for part in content.values() if isinstance(part, dict) and set(part) & set(simulation.study.roster)]
        assert not own, name


@pytest.fixture
def copied(four, tmp_path):
    """The four hospitals in a folder of the test's own, one with another policy."""

    def config(*words, **policy):
        for name in SITES:
            shutil.copytree(builtin_sites() / name, tmp_path / "sites" / name)
        path = tmp_path / "sites" / LOST / "site.yaml"
        found = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**found, "policy": found["policy"] | policy}))
        return four(f"sites.folder={tmp_path / 'sites'}", *words)

    return config


def test_a_study_does_not_lower_a_hospitals_floor(copied, tmp_path):
    store, _ = conducted(copied("secagg=masked", "rounds=1", min_cohort=4), tmp_path / "run")
    (row,) = store.read_history()
    assert row["failed"] == [{"site": LOST, "reason": "refused: min_cohort is below the hospital's own floor"}]
    assert LOST not in row["trained_by"]


def test_a_hospital_that_demands_masking_answers_no_plain_study(copied, tmp_path):
    store, grid = conducted(copied("rounds=1", require_masking=True), tmp_path / "run")
    assert store.read_history()[0]["failed"] == [
        {"site": LOST, "reason": "refused: the hospital sends nothing without secure aggregation"}
    ]
    assert LOST not in {name for name, reply in grid.came if reply.has_content()}


def test_a_hospital_that_demands_masking_answers_a_masked_study(copied, tmp_path):
    store, _ = conducted(copied("secagg=masked", "rounds=1", require_masking=True), tmp_path / "run")
    assert store.read_history()[0]["trained_by"] == SITES
