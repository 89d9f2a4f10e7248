import numpy as np
import pytest

from fedhealth.runtime.codec import Row, array_record, row_record
from fedhealth.strategies.method import record


@pytest.mark.parametrize("made", [array_record, row_record, record])
@pytest.mark.parametrize(
    "array",
    [np.array(3, dtype=np.int64), np.arange(6.0).reshape(2, 3).T, np.empty((0, 4), dtype=np.float32)],
    ids=["one number, as a batch norm counts in", "not in order", "empty"],
)
def test_an_array_comes_out_of_a_message_as_it_went_in(made, array):
    found = made({"w": array})["w"].numpy()
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found, array)


def test_a_record_of_this_process_holds_the_arrays_themselves_and_its_bytes_are_numpys():
    array = np.arange(6.0)
    found, other = row_record({"w": array})["w"], array_record({"w": array})["w"]
    assert type(found) is Row
    assert found.data == other.data
    found.numpy()[:] = 0
    np.testing.assert_array_equal(array, np.arange(6.0))
