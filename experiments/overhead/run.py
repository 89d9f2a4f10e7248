"""What carrying the messages costs: LocalGrid beside Flower's simulation on Ray, same apps, one run.

    pip install 'fedhealth[ray]'
    python experiments/overhead/run.py [--rounds 10]

The client app sends back what it got, so a round is nothing but carrying. Writes table.md
beside itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from pathlib import Path

import numpy as np

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", RAY_USAGE_STATS_ENABLED="0")

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedhealth.runtime.codec import ARRAYS, METRICS, array_record
from fedhealth.runtime.local import LocalGrid
from fedhealth.runtime.policy import Patience, PolicyGrid

HERE = Path(__file__).parent
FLOATS = 1000
#: Flower's grid on Ray looks for replies every 0.1 s; the first rounds also start its actors.
WARM = 2

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    del context
    return Message(
        RecordDict({ARRAYS: message.content[ARRAYS], METRICS: MetricRecord({"num-examples": 1.0})}), reply_to=message
    )


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    del context
    return Message(RecordDict({METRICS: MetricRecord({"num-examples": 1.0})}), reply_to=message)


def timed(rounds: int, stamps: list[float]) -> ServerApp:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        model = array_record({"w": np.zeros(FLOATS, dtype=np.float32)})
        FedAvg().start(grid, model, num_rounds=rounds, evaluate_fn=lambda *_: stamps.append(time.perf_counter()))

    return server


def seconds_a_round(stamps: list[float]) -> float:
    return statistics.median(b - a for a, b in zip(stamps[WARM:], stamps[WARM + 1 :], strict=False))


def locally(nodes: int, rounds: int, *, policed: bool) -> tuple[float, float]:
    """Seconds a round and seconds in all, with the policy grid around it or without."""
    began, stamps = time.perf_counter(), []
    grid: Grid = LocalGrid(client_app, [{}] * nodes, {})
    if policed:
        grid = _Evaluated(grid, {100 + i: f"site-{i:03d}" for i in range(nodes)}, Patience())
    timed(rounds, stamps)(grid, Context(1, 1, {}, RecordDict(), {}))
    return seconds_a_round(stamps), time.perf_counter() - began


class _Evaluated(PolicyGrid):
    """The policy grid wants arrays in every reply; the echo's evaluation has none, so it goes past."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages and messages[0].metadata.message_type == "evaluate":
            return self._inner.send_and_receive(messages, timeout=timeout)
        return super().send_and_receive(messages, timeout=timeout)


def on_ray(nodes: int, rounds: int) -> tuple[float, float]:
    """The same on Flower's simulation, two actors of one core each."""
    from flwr.simulation import run_simulation

    began, stamps = time.perf_counter(), []
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(timed(rounds, stamps), client_app, num_supernodes=nodes, backend_config=resources)
    return seconds_a_round(stamps), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    logging.getLogger("flwr").setLevel(logging.ERROR)
    lines = [
        "| sites | grid | ms a round | ms a message | start to end, s | Ray's round / this |",
        "|---|---|---|---|---|---|",
    ]
    for nodes in (10, 100):
        found = {
            "LocalGrid": locally(nodes, 5 * rounds, policed=False),
            "PolicyGrid(LocalGrid)": locally(nodes, 5 * rounds, policed=True),
            "Flower on Ray": on_ray(nodes, rounds),
        }
        ray_s = found["Flower on Ray"][0]
        for name, (round_s, whole_s) in found.items():
            each = 1000 * round_s / (2 * nodes)
            lines.append(
                f"| {nodes} | {name} | {1000 * round_s:.1f} | {each:.2f} | {whole_s:.1f} | {ray_s / round_s:.0f} |"
            )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
