import numpy as np
import pytest

from fedhealth.core.errors import IntegrityError
from fedhealth.site.memory import Memory


def test_a_round_finds_what_the_last_one_before_it_left(tmp_path):
    memory = Memory(tmp_path / "study")
    assert memory.before(1) is None
    for round_ in (1, 3):
        memory.keep(round_, {"own:w": np.full(2, round_, dtype=np.float32)})
    assert memory.before(1) is None
    assert memory.before(3)["own:w"][0] == 1
    assert memory.before(9)["own:w"][0] == 3


def test_a_round_that_runs_again_leaves_what_it_left_then(tmp_path):
    memory = Memory(tmp_path)
    memory.keep(2, {"w": np.zeros(1)})
    memory.keep(2, {"w": np.ones(1)})
    assert memory.before(3)["w"] == [1]
    assert not list(tmp_path.glob("*.draft"))


def test_a_memory_that_was_cut_is_an_integrity_failure(tmp_path):
    memory = Memory(tmp_path)
    memory.keep(1, {"w": np.zeros(4)})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(IntegrityError, match="must be as it was written"):
        memory.before(2)
