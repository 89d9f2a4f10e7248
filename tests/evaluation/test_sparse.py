"""Sparse vectors: as they are stored and read again."""

from __future__ import annotations

import json

import numpy as np

from fedhealth.evaluation.sparse import dense, sparse


def test_a_vector_is_read_as_it_was_bit_for_bit():
    rng = np.random.default_rng(1)
    vector = np.where(rng.random(500) < 0.05, rng.standard_normal(500), 0.0)
    assert dense(json.loads(json.dumps(sparse(vector)))).tobytes() == vector.tobytes()


def test_a_vector_of_zeros_keeps_its_length():
    assert sparse(np.zeros(7)) == {"length": 7, "places": [], "values": []}
    assert dense(sparse(np.zeros(7))).tolist() == [0.0] * 7


def test_the_list_of_an_older_run_is_read_too():
    assert dense([0.0, 2.0]).tolist() == [0.0, 2.0]
