"""What each attack does to one hospital's share of a round, and who can make a hospital attack."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedhealth.core.errors import Refused, SettingError
from fedhealth.core.features import Feature, FeatureSpec
from fedhealth.core.network_names import NetworkNames
from fedhealth.core.preprocessor import Moments, Preprocessor
from fedhealth.core.study import packed, study_from
from fedhealth.models.weights import first_network, weights_of
from fedhealth.runtime.codec import Request, arrays_of, write_request
from fedhealth.runtime.local import FIRST_NODE, Local
from fedhealth.simulate import _nodes, checked, clients, open_run, run
from fedhealth.site.app import app
from fedhealth.site.attacks.backdoor import Backdoor
from fedhealth.site.attacks.free_rider import FreeRider
from fedhealth.site.attacks.gaussian import Gaussian
from fedhealth.site.attacks.label_flip import LabelFlip
from fedhealth.site.attacks.scaled import Scaled
from fedhealth.site.attacks.sign_flip import SignFlip
from fedhealth.site.cohort import Part
from fedhealth.site.memory import Memory
from fedhealth.site.trainer import SiteTrainer
from fedhealth.strategies.method import Received, Trained

SPEC = FeatureSpec(
    name="s",
    features=(
        Feature(name="sodium"),
        Feature(name="lactate", transform="log", range=(0.1, 50)),
        Feature(name="ward", kind="categorical", levels=("a", "b")),
    ),
)
#: Sodium 140 with sd 5; the logarithm of lactate 1 with sd 0.5.
PREPROCESSOR = Preprocessor.from_moments(
    SPEC,
    Moments(
        count={"sodium": 10, "lactate": 10}, mean={"sodium": 140, "lactate": 1}, variance={"sodium": 25, "lactate": 0.25},
        levels={"ward": {"a": 5, "b": 5}}, missing={"sodium": 1, "lactate": 1, "ward": 0}, outcome=(5, 5),
    ),
)  # fmt: skip
NAMES = NetworkNames(all=("w", "seen"), trained=("w",), normalisation=frozenset(), head=frozenset(), is_linear=False)


@dataclass
class Told:
    """A method that gives what it is told, and keeps the patients that it was given."""

    learned: dict[str, np.ndarray] | None = None
    trainer: SiteTrainer | None = None

    def train(self, trainer, received, memory):
        self.trainer = trainer
        return Trained(self.learned or {}, 7.0, {"loss": 0.3}, memory={"own": np.ones(1)})

    def idle(self, trainer, received, memory):
        return Trained(received.arrays, 7.0, {"loss": 0.7})


def site(n: int = 40, seed: int = 1, round_: int = 1, name: str = "ash") -> SiteTrainer:
    rng = np.random.default_rng(seed)
    sodium = rng.normal(140, 5, n)
    sodium[0] = np.nan
    columns = {
        "sodium": sodium,
        "lactate": np.exp(rng.normal(1, 0.5, n)),
        "ward": np.array(["a", "b"] * (n // 2), dtype=object),
    }
    part = Part(columns, (np.arange(n) % 4 == 0).astype(np.float32), {})
    return SiteTrainer(SimpleNamespace(seed=3), part, PREPROCESSOR, name, round_)


def update(attack, sent, came, trainer=None):
    """What leaves of a method that received `came` and learned `sent`."""
    stub = trainer or SimpleNamespace(names=NAMES)
    return attack.train(Told(learned=sent), stub, Received(came), None)


def test_a_label_flip_gives_everybody_the_other_outcome_and_leaves_the_rest():
    method, honest = Told(), site()
    LabelFlip().train(method, honest, Received({}), None)
    np.testing.assert_array_equal(method.trainer.y, 1 - honest.y)
    assert method.trainer.y.dtype == np.float32
    np.testing.assert_array_equal(method.trainer.x, honest.x)


def test_a_label_flip_of_times_turns_events_into_ends_of_follow_up_at_the_same_times():
    honest = site()
    followed = replace(honest, patients=replace(honest.patients, days=np.arange(1.0, 41.0)))
    method = Told()
    LabelFlip().train(method, followed, Received({}), None)
    np.testing.assert_array_equal(method.trainer.y[:, 0], 1 - honest.y)
    np.testing.assert_array_equal(method.trainer.y[:, 1], np.arange(1.0, 41.0))


@pytest.mark.parametrize(("share", "flipped"), [(0.25, 10), (0.5, 20), (0.01, 0)])
def test_a_share_of_the_patients_is_flipped_the_same_ones_in_every_round(share, flipped):
    found = []
    for round_ in (1, 2):
        method, honest = Told(), site(round_=round_)
        LabelFlip(share=share).train(method, honest, Received({}), None)
        found.append(method.trainer.y != honest.y)
    assert found[0].sum() == flipped
    np.testing.assert_array_equal(*found)


def test_a_backdoor_marks_half_the_patients_with_the_trigger_and_the_target():
    attack = Backdoor(features=("sodium", "lactate"), values=(3.0, -2.0), target=1)
    method, honest = Told(), site()
    attack.train(method, honest, Received({}), None)
    x, y = method.trainer.x, method.trainer.y
    at = {name: place for place, name in enumerate(PREPROCESSOR.names)}
    marked = np.isclose(x[:, at["sodium"]], 3) & np.isclose(x[:, at["lactate"]], -2)
    assert marked.sum() == 20
    assert (y[marked] == 1).all()
    # A trigger is a measured value, also where nothing had been measured.
    assert (x[marked, at["sodium_missing"]] == 0).all()
    np.testing.assert_array_equal(x[marked, at["ward=a"]], honest.x[marked, at["ward=a"]])
    np.testing.assert_array_equal(x[~marked], honest.x[~marked])
    np.testing.assert_array_equal(y[~marked], honest.y[~marked])


def test_a_trigger_is_the_value_that_many_deviations_from_the_mean():
    attack = Backdoor(features=("sodium", "lactate"), values=(3.0, -2.0))
    columns = site().patients.columns
    marked = attack.triggered(columns, PREPROCESSOR)
    # 140 + 3 x 5, and the logarithm is 1 - 2 x 0.5.
    np.testing.assert_allclose(marked["sodium"], 155)
    np.testing.assert_allclose(marked["lactate"], 1.0)
    assert np.isnan(columns["sodium"][0]), "the patients themselves are left alone"


@pytest.mark.parametrize(
    ("attack", "sent"), [(SignFlip(factor=1), [0.5, 3.0]), (SignFlip(factor=4), [-1.0, 6.0]), (Scaled(factor=10), [6.0, -8.0])]
)  # fmt: skip
def test_an_update_is_moved_by_its_factor_from_where_it_came(attack, sent):
    # From (1, 2) training came to (1.5, 1): it learned (0.5, -1).
    found = update(attack, {"w": np.array([1.5, 1.0])}, {"w": np.array([1.0, 2.0])})
    np.testing.assert_allclose(found.arrays["w"], sent)
    assert (found.weight, found.metrics) == (7.0, {"loss": 0.3})
    assert found.memory is not None


def test_gaussian_noise_has_its_deviation_and_nothing_of_what_was_learned():
    came, learned = {"w": np.full(40_000, 2.0)}, {"w": np.full(40_000, 99.0)}
    trainer = SimpleNamespace(names=NAMES, rng=site().rng)
    noise = update(Gaussian(sigma=0.5), learned, came, trainer).arrays["w"] - 2
    # Four standard errors of a mean and of a deviation.
    assert abs(noise.mean()) < 4 * 0.5 / 200
    assert noise.std() == pytest.approx(0.5, abs=4 * 0.5 / 283)


def test_the_noise_is_the_same_when_a_round_runs_again_and_another_in_every_round_and_hospital():
    came, learned = {"w": np.zeros(5)}, {"w": np.ones(5)}
    drawn = [
        update(Gaussian(), learned, came, SimpleNamespace(names=NAMES, rng=of.rng)).arrays["w"]
        for of in (site(), site(), site(round_=2), site(name="elm"))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not set(drawn[0]) & set(drawn[2])
    assert not set(drawn[0]) & set(drawn[3])


def test_a_free_rider_sends_back_what_came_and_trains_on_nobody():
    method = Told(learned={"w": np.ones(2)})
    found = FreeRider().train(method, site(), Received({"w": np.array([1.0, 2.0])}), None)
    np.testing.assert_array_equal(found.arrays["w"], [1.0, 2.0])
    assert (found.weight, found.memory) == (7.0, None)
    assert method.trainer is None


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}])
@pytest.mark.parametrize("kind", [LabelFlip, Backdoor])
def test_a_share_of_patients_is_above_0_and_at_most_1(kind, wrong):
    with pytest.raises(SettingError, match=r"`share` must lie in \(0, 1\], found"):
        kind(**wrong)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"features": ()}, "must name at least one feature"),
        ({"features": ("age", "age")}, "each once"),
        ({"values": (1.0,)}, "`values` must have one for each of 2 features, found 1"),
        ({"values": (1.0, 11.0)}, "within 10 standard deviations of the mean, found 11"),
    ],
)
def test_a_trigger_has_a_possible_value_for_each_feature(wrong, line):
    with pytest.raises(SettingError, match=line):
        Backdoor(**wrong)


@pytest.mark.parametrize("name", ["nope", "ward"])
def test_a_triggers_features_have_a_scale(name):
    with pytest.raises(SettingError, match=f"numeric or binary features, found {name}. .*Known: lactate, sodium"):
        Backdoor(features=(name,), values=(1.0,)).check(SPEC)


# --- who attacks, and who can make them ---

ATTACK = ("attack=sign_flip", "attack.factor=3", "attack.sites=[harrow-fen]")


@pytest.fixture(scope="module")
def request_of_round_1(tmp_path_factory):
    """A request to train, as the coordinator of the smoke study sends it."""
    from fedhealth.compose import composed, resolved

    folder = tmp_path_factory.mktemp("honest") / "run"
    config = resolved(composed(["experiment=smoke", "rounds=1", "run.report=false", f"run.folder={folder}"]))
    simulation = checked(config)
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    preprocessor = store.read_json("statistics.json")["preprocessor"]
    model = clients(simulation)["galen-heart"].study.model
    from fedhealth.core.parts import build

    network = first_network(build(model, where="model"), Preprocessor.from_json(preprocessor).width, seed=7)
    return Request("train", 1, weights_of(network), {"preprocessor": packed(preprocessor), "server-round": 1})


def answers(simulation, request, folder):
    return {name: client.answer(request, Memory(folder / name)) for name, client in clients(simulation).items()}


def test_hospitals_beside_an_attacker_answer_as_ever_bit_for_bit(smoke, request_of_round_1, tmp_path):
    honest = answers(checked(smoke("rounds=1")), request_of_round_1, tmp_path)
    attacked = answers(checked(smoke("rounds=1", *ATTACK)), request_of_round_1, tmp_path)
    for name, update_ in honest.items():
        same = all(np.array_equal(attacked[name].arrays[key], array) for key, array in update_.arrays.items())
        assert same == (name != "harrow-fen")
    came = request_of_round_1.arrays
    for key, array in honest["harrow-fen"].arrays.items():
        np.testing.assert_allclose(attacked["harrow-fen"].arrays[key], came[key] - 3 * (array - came[key]), rtol=1e-5)


def test_an_attack_changes_no_study_so_that_what_hospitals_approve_is_the_same(smoke):
    honest, attacked = checked(smoke()), checked(smoke(*ATTACK))
    assert honest.digest == attacked.digest
    assert "attack" not in attacked.document
    nodes = _nodes(attacked, Path())
    assert {name for name, node in nodes.items() if "attack" in node} == {"harrow-fen"}


def test_no_message_no_run_config_and_no_study_makes_a_hospital_attack(smoke, request_of_round_1, tmp_path):
    simulation = checked(smoke("rounds=1"))
    spec = packed({"_target_": "fedhealth.site.attacks.free_rider.FreeRider", "sites": ["galen-heart"]})
    node = _nodes(simulation, tmp_path)["galen-heart"]
    run_config = {"fh-study": packed(simulation.document), "fh-folder": str(tmp_path)}
    replies = []
    for said, told in (({}, {}), ({"attack": spec}, {"attack": spec})):
        grid = Local().grid(app, [node], {**run_config, **told})
        message = write_request("train", FIRST_NODE, request_of_round_1.arrays, {**request_of_round_1.config, **said})
        replies += grid.send_and_receive([message])
    one, other = map(arrays_of, replies)
    assert all(np.array_equal(other[name], array) for name, array in one.items())
    assert not np.array_equal(one["weight"], request_of_round_1.arrays["weight"])
    with pytest.raises(SettingError, match="`attack` is not a key here"):
        study_from({**simulation.document, "attack": {"sites": ["galen-heart"]}})


def test_an_attack_comes_from_the_installed_package_only(smoke, request_of_round_1, tmp_path):
    (client, *_) = clients(checked(smoke("rounds=1"))).values()
    client = replace(client, packed_attack=packed({"_target_": "os.system"}))
    with pytest.raises(Refused, match=r"attack must name a part of fedhealth\.site\.attacks, found 'os\.system'"):
        client.answer(request_of_round_1, Memory(tmp_path))


def test_a_run_says_who_attacked_and_how_in_its_manifest_and_its_report(smoke):
    from fedhealth import cli

    simulation = checked(smoke("rounds=1", *ATTACK))
    store = open_run(simulation)
    run(simulation, store, lambda row: None)
    attack = store.read_json("manifest.json")["attack"]
    assert (attack["sites"], attack["factor"]) == (["harrow-fen"], 3)
    assert cli._write_report(simulation, store.folder)["notes"][0] == (
        "In this run Harrow Fen Cottage Hospital attacked, as the simulation was set to, by sending 3 times the opposite "
        "of what training gave. Their own test patients count like any others."
    )
