"""What a round costs with the functions of Flower's SecAgg+.

One site runs its four stages in full. The coordinator's time is measured a unit of each kind
and multiplied as often as its workflow would do it: opening a secret takes it seconds.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from watch import Cost, Watch

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat

#: Its package has a function of the same name.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
setup, share, mask, unmask = (
    getattr(mod, step) for step in ("_setup", "_share_keys", "_collect_masked_vectors", "_unmask")
)

MODULUS, LEVELS = 1 << 32, 1 << 22


@dataclass(frozen=True)
class Units:
    """Seconds for one of what does not depend on the parameters."""

    open_own: float
    open_key: float
    agree: float


@cache
def units(shares: int, threshold: int, revealed: int) -> Units:
    """Its workflow opens a secret with every share that was revealed."""
    secret, public = mod.generate_key_pairs()
    key = mod.private_key_to_bytes(secret)
    watch = Watch()
    for kind, value in (("own", os.urandom(32)), ("key", key)):
        watch.time(kind, combine_shares, create_shares(value, threshold, shares)[:revealed])
    for _ in range(5):
        watch.time("agree", generate_shared_key, mod.bytes_to_private_key(key), public)
    return Units(watch.seconds["own"], watch.seconds["key"], watch.seconds["agree"] / 5)


def cost(n: int, peers: int, threshold: int, lost: int, weight: tuple[int, int], clip: float, values) -> Cost:
    """Of a round of `n` sites with `peers` neighbours each, `lost` of them after sharing.

    `weight` is a site's and the largest.
    """
    shares = peers + 1
    configs = {
        Key.SAMPLE_NUMBER: n,
        Key.SHARE_NUMBER: shares,
        Key.THRESHOLD: threshold,
        Key.CLIPPING_RANGE: clip,
        Key.TARGET_RANGE: LEVELS,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: float(weight[1]),
    }
    watch = Watch()
    states = [mod.SecAggPlusState(nid=place) for place in range(shares)]
    publics = [watch.time("site", setup, states[0], configs), *(setup(state, configs) for state in states[1:])]
    keys = {str(place): [found[Key.PUBLIC_KEY_1], found[Key.PUBLIC_KEY_2]] for place, found in enumerate(publics)}
    watch.time("site", share, states[0], keys)
    own = states[0]
    # The others' shares: of the right length, which is all that opening and keeping them depends on.
    lengths = len(own.rd_seed_share_dict[0]), len(own.sk1_share_dict[0])
    sealed = [
        encrypt(own.ss2_dict[place], share_keys_plaintext_concat(place, 0, *map(os.urandom, lengths)))
        for place in range(1, shares)
    ]
    inbox = {Key.SOURCE_LIST: list(range(1, shares)), Key.CIPHERTEXT_LIST: sealed}
    sent = watch.time("site", mask, own, inbox, weight[0], ndarrays_to_parameters([values]))[Key.MASKED_PARAMETERS]
    alive = round(shares * (n - lost) / n)  # of a neighbourhood
    watch.time(
        "site",
        unmask,
        own,
        {Key.ACTIVE_NODE_ID_LIST: list(range(alive)), Key.DEAD_NODE_ID_LIST: list(range(alive, shares))},
    )
    add, stream, end = _server_units(sent, clip)
    unit, left = units(shares, threshold, alive), n - lost
    server_s = left * (add + stream + unit.open_own) + lost * (unit.open_key + peers * (unit.agree + stream)) + end
    return Cost(watch.seconds["site"], server_s, sum(map(len, sent)))


def _server_units(sent: list[bytes], clip: float, repeats: int = 3) -> tuple[float, float, float]:
    """Seconds to add one vector, to take one mask off, and to make numbers of the sum."""
    watch = Watch()
    total = [bytes_to_ndarray(part) for part in sent]
    shapes = [part.shape for part in total]
    for _ in range(repeats):
        received = watch.time("add", lambda: [bytes_to_ndarray(part) for part in sent])
        total = watch.time("add", parameters_addition, total, received)
        noise = watch.time("stream", pseudo_rand_gen, os.urandom(32), MODULUS, shapes)
        total = watch.time("stream", parameters_subtraction, total, noise)
    numbers = watch.time("end", parameters_mod, total, MODULUS)[1:]
    watch.time("end", dequantize, [np.asarray(part) for part in numbers], clip, LEVELS)
    return watch.seconds["add"] / repeats, watch.seconds["stream"] / repeats, watch.seconds["end"]
