"""The graph, held to scipy's hypergeometric law and to every pattern of losses and colluders in a small one."""

from __future__ import annotations

from itertools import combinations

import pytest
from scipy import stats

from fedhealth.secagg.protocol.graph import graph_of, plan, ring

CASES = [(n, T, losses) for n in (101, 150, 200, 1000) for T in (0, 2, 10) for losses in (10, 30)] + [(1000, 10, 45)]


def connected(sites: set[int], neighbours) -> bool:
    if not sites:
        return True
    seen, waiting = set(), [min(sites)]
    while waiting:
        site = waiting.pop()
        if site not in seen:
            seen.add(site)
            waiting += neighbours[site] & sites
    return seen == sites


def apart(degree: int, threshold: int, n: int, colluders: int) -> int:
    """In how many cases honest survivors fall apart though all the rules hold."""
    graph = ring(range(n), degree, threshold)
    count = 0
    for size in range(n + 1):
        for alive in map(frozenset, combinations(range(n), size)):
            if graph.holds(alive):
                for bad in combinations(range(n), colluders):
                    count += not connected(set(alive) - set(bad), graph.neighbours)
    return count


@pytest.mark.parametrize(("n", "degree", "colluders"), [(12, 4, 0), (12, 4, 1), (13, 6, 1), (12, 6, 2)])
def test_no_losses_and_no_colluders_take_an_honest_part_of_the_sum_apart(n, degree, colluders):
    assert apart(degree, degree // 2 + colluders + 1, n, colluders) == 0


def test_a_threshold_of_one_less_would_let_honest_survivors_fall_apart():
    # Two threes with two lost between them on each side.
    assert apart(4, 2, 10, 0) > 0


def test_up_to_100_sites_everyone_works_with_everyone():
    graph = graph_of(tuple(range(5, 105)), 1, 30, bytes(32))
    assert graph.is_complete
    assert graph.neighbours[7] == set(range(5, 105)) - {7}
    assert graph.threshold == 51


@pytest.mark.parametrize(("n", "colluders", "losses"), CASES)
def test_a_round_is_lost_to_an_unlucky_circle_once_in_a_million(n, colluders, losses):
    degree, threshold = plan(n, colluders, losses)
    lost = n * losses // 100

    def chance(k: int) -> float:
        # A neighbourhood of k with more lost than it can spare, in any of n places.
        return n * stats.hypergeom.sf(k - (k // 2 + colluders + 1), n - 1, lost, k)

    assert threshold == degree // 2 + colluders + 1
    assert chance(degree) <= 2**-20 * (1 + 1e-9)
    assert all(chance(k) > 2**-20 for k in range(2 * colluders + 2, degree, 2))


def test_where_no_sparse_graph_will_do_everyone_works_with_everyone():
    assert plan(120, 50, 30) == (119, 86)
    assert graph_of(tuple(range(120)), 50, 30, bytes(32)).is_complete


@pytest.mark.parametrize(("n", "colluders", "losses"), CASES[::3])
def test_a_sparse_graph_is_regular_symmetric_and_the_same_for_all(n, colluders, losses):
    sites = tuple(range(0, 2 * n, 2))
    graph = graph_of(sites, colluders, losses, b"cohort")
    degree, _ = plan(n, colluders, losses)
    assert graph == graph_of(sites, colluders, losses, b"cohort")
    assert graph.neighbours != graph_of(sites, colluders, losses, b"cohorT").neighbours
    for site in sites:
        assert len(graph.neighbours[site]) == degree
        assert site not in graph.neighbours[site]
        assert all(site in graph.neighbours[other] for other in graph.neighbours[site])


def test_a_survivor_who_lost_one_neighbour_too_many_is_noticed():
    graph = graph_of(tuple(range(200)), 2, 10, bytes(32))
    degree, threshold = plan(200, 2, 10)
    everyone = set(range(200))
    spared = set(sorted(graph.neighbours[3])[: degree - threshold])
    one_more = set(sorted(graph.neighbours[3])[: degree - threshold + 1])
    assert len(graph.neighbours[3] & (everyone - spared)) == threshold
    assert not graph.holds(everyone - one_more)
    assert graph.holds(everyone)
