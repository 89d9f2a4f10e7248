import numpy as np
import pytest

from fedhealth.runtime.codec import array_record
from fedhealth.strategies.method import record


@pytest.mark.parametrize("made", [array_record, record])
@pytest.mark.parametrize(
    "array",
    [np.array(3, dtype=np.int64), np.arange(6.0).reshape(2, 3).T, np.empty((0, 4), dtype=np.float32)],
    ids=["one number, as a batch norm counts in", "not in order", "empty"],
)
def test_an_array_comes_out_of_a_message_as_it_went_in(made, array):
    found = made({"w": array})["w"].numpy()
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found, array)
