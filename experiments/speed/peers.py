"""One engine, one number of sites: prints a line of JSON with the seconds of each round. Called by run.py.

All train the MLP 30-64-32-1 by SGD, one pass a round in mini-batches of 32, and average by patients. Each is given the
same patients, first weights and order of patients, and times the training and averaging of a round, no evaluation.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import resource
import sys
import time

import numpy as np

WIDTH, HIDDEN, BATCH, RATE = 30, (64, 32), 32, 0.1


class Data:
    """Patients of ragged sites; where they are 10,000, one's are 200 all the same."""

    def __init__(self, sites: int) -> None:
        rng = np.random.default_rng(1)
        mean = 2000 if sites <= 8 else 200
        self.sizes = rng.integers(int(0.75 * mean), int(1.25 * mean), sites)
        self.truth = rng.normal(size=WIDTH)
        self.x, self.y = zip(*(self._site(k, n) for k, n in enumerate(self.sizes)), strict=True)
        self.test = self._site(10**6, 4000)
        self.first = [
            (rng.normal(size=(a, b)).astype("f4") / np.sqrt(a), np.zeros(b, dtype="f4"))
            for a, b in zip((WIDTH, *HIDDEN), (*HIDDEN, 1), strict=True)
        ]

    def _site(self, number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([2, number])
        x = rng.normal(size=(n, WIDTH)).astype("f4")
        score = x @ self.truth / 3 + np.sin(3 * x[:, 0]) + rng.normal(size=n)
        return x, (score > 1).astype("f4")

    def order(self, round_: int, site: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64(round_ * 10**7 + site))

    def named(self) -> dict[str, np.ndarray]:
        """The first weights by torch's names."""
        return {
            name: array
            for i, (w, b) in enumerate(self.first)
            for name, array in ((f"{2 * i}.weight", np.ascontiguousarray(w.T)), (f"{2 * i}.bias", b))
        }

    def auroc(self, weights: dict[str, np.ndarray]) -> float:
        """Of a model on the test patients, by ranks."""
        h, y = self.test
        for i in range(len(self.first)):
            h = h @ weights[f"{2 * i}.weight"].T + weights[f"{2 * i}.bias"]
            h = np.maximum(h, 0) if i + 1 < len(self.first) else h
        return auroc_of(h[:, 0], y)


def auroc_of(scores: np.ndarray, y: np.ndarray) -> float:
    """By ranks."""
    ranks, positive = np.argsort(np.argsort(scores)) + 1, y.sum()
    return float((ranks[y == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive)))


@functools.cache
def context_data(sites: int) -> Data:
    """The patients, drawn once in each of Ray's processes."""
    return Data(sites)


def network():
    from torch import nn

    widths, layers = (WIDTH, *HIDDEN), []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], 1))


def torch_site(net, optimiser, x, y, rng) -> None:
    """A lean loop as a client writes it, by slices of a shuffled copy."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as loss

    order = torch.from_numpy(rng.permutation(len(y)))
    x, y = torch.from_numpy(x)[order], torch.from_numpy(y)[order]
    for at in range(0, len(y), BATCH):
        optimiser.zero_grad()
        loss(net(x[at : at + BATCH])[:, 0], y[at : at + BATCH]).backward()
        optimiser.step()


def by_torch(data: Data, rounds: int):
    import torch

    torch.set_num_threads(1)
    net, model = network(), {k: torch.from_numpy(a.copy()) for k, a in data.named().items()}
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
    shares = data.sizes / data.sizes.sum()
    for round_ in range(rounds):
        mean = {name: torch.zeros_like(array) for name, array in model.items()}
        for k, share in enumerate(shares):
            net.load_state_dict(model)
            torch_site(net, optimiser, data.x[k], data.y[k], data.order(round_, k))
            for name, array in net.state_dict().items():
                mean[name].add_(array, alpha=float(share))
        model = mean
        yield {name: array.numpy() for name, array in model.items()}


def by_engine(data: Data, rounds: int, *, processes: int = 1, plain: bool = False, native: bool = False):
    """FedHealth's own grid, strategy and engine, with a crew that has these patients in place of hospitals' clients."""
    import logging

    from fedhealth.starting import load

    load(("flwr.app", "torch"))
    import torch
    from flwr.app import ConfigRecord
    from flwr.serverapp.strategy import FedAvg

    from fedhealth.core.training import LocalTraining
    from fedhealth.core.update import Update
    from fedhealth.models.weights import load_weights, weights_of
    from fedhealth.privacy.plain import Plain as NoPrivacy
    from fedhealth.runtime import flower
    from fedhealth.runtime.batched import BatchedGrid
    from fedhealth.runtime.codec import array_record
    from fedhealth.runtime.policy import Patience, PolicyGrid
    from fedhealth.secagg.plain import Plain as NoMasks
    from fedhealth.site.engines.batched import Batched
    from fedhealth.site.engines.native import Native
    from fedhealth.site.engines.plain import Plain
    from fedhealth.site.kernels.fit import FitJob
    from fedhealth.strategies.method import Fitted

    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    flower.begin_run(1)
    net, training, engine = (
        network(),
        LocalTraining(learning_rate=RATE, batch_size=BATCH),
        Native() if native else Batched(),
    )

    def one_by_one(jobs):
        for job in jobs:
            load_weights(net, job.weights)
            loss, steps = Plain().fit(net, job.x, job.y, training, job.rng)
            yield Fitted(weights_of(net), loss, steps)

    def crew(asked):
        jobs = [
            FitJob(
                net,
                a.request.arrays,
                data.x[a.node["k"]],
                data.y[a.node["k"]],
                training,
                data.order(a.request.round_ - 1, a.node["k"]),
            )
            for a in asked
        ]
        fitted = list(one_by_one(jobs)) if plain else engine.fit_all(jobs)
        updates = [
            Update(len(job.y), found.weights, {"loss": found.loss}) for job, found in zip(jobs, fitted, strict=True)
        ]
        return [NoMasks().seal(NoPrivacy().privatise(update, what="train")) for update in updates]

    sites = len(data.sizes)
    inner = BatchedGrid(crew, [{"k": k} for k in range(sites)], processes=processes, is_summed=lambda _: sites > 32)
    grid = PolicyGrid(inner, {100 + k: f"{k:06d}" for k in range(sites)}, Patience(poll_s=0))
    strategy, model = FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0), data.named()
    for round_ in range(1, rounds + 1):
        messages = strategy.configure_train(round_, array_record(model), ConfigRecord({}), grid)
        replies = grid.send_and_receive(list(messages))
        arrays, _ = strategy.aggregate_train(round_, replies)
        model = {name: arrays[name].numpy().astype("f4") for name in model}
        yield model
    inner.close()


def by_jax(data: Data, rounds: int):
    """jit(scan) over steps of vmap over sites, padded to the longest."""
    import jax
    import jax.numpy as jnp

    sites, longest = len(data.sizes), int(data.sizes.max())
    steps = -(-longest // BATCH)
    x = np.zeros((sites, longest, WIDTH), dtype="f4")
    y = np.zeros((sites, longest), dtype="f4")
    for k, (a, b) in enumerate(zip(data.x, data.y, strict=True)):
        x[k, : len(b)], y[k, : len(b)] = a, b
    x, y, shares = jnp.array(x), jnp.array(y), jnp.array(data.sizes / data.sizes.sum(), dtype="f4")

    def loss(weights, x, y, real):
        for i, (w, b) in enumerate(weights):
            x = x @ w + b
            x = jax.nn.relu(x) if i + 1 < len(weights) else x
        z = x[:, 0]
        each = jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z)))
        return (each * real).sum() / jnp.maximum(real.sum(), 1)

    def site(weights, x, y, order, real):
        def step(weights, batch):
            rows, real = batch
            slope = jax.grad(loss)(weights, x[rows], y[rows], real)
            return jax.tree.map(lambda w, g: w - RATE * g, weights, slope), None

        return jax.lax.scan(step, weights, (order, real))[0]

    @jax.jit
    def round_of(weights, order, real):
        each = jax.vmap(site, in_axes=(None, 0, 0, 0, 0))(weights, x, y, order, real)
        return jax.tree.map(lambda a: jnp.tensordot(shares, a, 1), each)

    real = np.zeros((sites, steps * BATCH), dtype="f4")
    for k, n in enumerate(data.sizes):
        real[k, :n] = 1
    real = jnp.array(real.reshape(sites, steps, BATCH))
    weights = [(jnp.array(w), jnp.array(b)) for w, b in data.first]
    for round_ in range(rounds):
        order = np.zeros((sites, steps * BATCH), dtype="i4")
        for k, n in enumerate(data.sizes):
            order[k, :n] = data.order(round_, k).permutation(n)
        weights = jax.block_until_ready(round_of(weights, order.reshape(sites, steps, BATCH), real))
        yield {
            name: np.asarray(array)
            for i, (w, b) in enumerate(weights)
            for name, array in ((f"{2 * i}.weight", w.T), (f"{2 * i}.bias", b))
        }


def by_fedjax(data: Data, rounds: int):
    """FedJAX's federated averaging; its clients are handed over shuffled, and not shuffled again."""
    import fedjax
    import jax
    from fedjax.algorithms import fed_avg

    def loss(weights, batch):
        x = batch["x"]
        for i, (w, b) in enumerate(weights):
            x = x @ w + b
            x = jax.nn.relu(x) if i + 1 < len(weights) else x
        z, y = x[:, 0], batch["y"]
        return (jax.nn.softplus(z) - z * y).mean()

    algorithm = fed_avg.federated_averaging(
        lambda weights, batch, _: jax.grad(loss)(weights, batch),
        fedjax.optimizers.sgd(RATE),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=1, skip_shuffle=True),
    )
    state, key = (
        algorithm.init([(jax.numpy.array(w), jax.numpy.array(b)) for w, b in data.first]),
        jax.random.PRNGKey(0),
    )
    for round_ in range(rounds):
        clients = []
        for k, (x, y) in enumerate(zip(data.x, data.y, strict=True)):
            order = data.order(round_, k).permutation(len(y))
            clients.append((k, fedjax.ClientDataset({"x": x[order], "y": y[order]}), key))
        state, _ = algorithm.apply(state, clients)
        weights = jax.block_until_ready(state.params)
        yield {
            name: np.asarray(array)
            for i, (w, b) in enumerate(weights)
            for name, array in ((f"{2 * i}.weight", w.T), (f"{2 * i}.bias", b))
        }


def on_ray(data: Data, rounds: int) -> dict:
    """Flower's simulation on Ray, two actors of one core, with the lean torch loop as the client."""
    import logging

    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    sites, stamps, found = len(data.sizes), [], {}
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message, context):
        import torch

        torch.set_num_threads(1)
        # By its module: what is cached can't travel to another process by value.
        own = importlib.import_module("peers").context_data(sites)
        k, round_ = int(context.node_config["partition-id"]), int(message.content["config"]["server-round"]) - 1
        net = network()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        torch_site(net, torch.optim.SGD(net.parameters(), lr=RATE), own.x[k], own.y[k], own.order(round_, k))
        content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(own.y[k])})}
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def run(grid, context):
        del context
        import torch

        first = ArrayRecord({name: torch.from_numpy(a) for name, a in data.named().items()})

        def look(_, arrays):
            stamps.append(time.perf_counter())
            found.update({name: a.numpy() for name, a in arrays.items()})

        FedAvg(fraction_evaluate=0.0).start(grid, first, num_rounds=rounds, evaluate_fn=look)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server, client, num_supernodes=sites, backend_config=resources)
    return {"rounds_s": [b - a for a, b in itertools.pairwise(stamps)], "auroc": data.auroc(found)}


def on_nvflare(data: Data, rounds: int) -> dict:
    """NVFlare's FedAvg recipe in its simulator, a process a site as it comes, with the lean torch loop as the client."""
    import tempfile
    from pathlib import Path

    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
    from nvflare.recipe.sim_env import SimEnv

    sites, here = len(data.sizes), Path(__file__).parent
    # The server and the sites are processes of their own, which import this file and the site's.
    os.environ["PYTHONPATH"] = str(here)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        recipe = FedAvgRecipe(
            name="speed",
            min_clients=sites,
            num_rounds=rounds + 1,
            train_script=str(here / "nvflare_site.py"),
            train_args=f"{sites} {rounds} {told}",
            model={"class_path": "nvflare_site.First", "args": {"sites": sites}},
        )
        recipe.execute(SimEnv(num_clients=sites, workspace_root=folder))
        found = json.loads(told.read_text())
    # From one receipt of the model to the next at one site: training, sending, averaging, sending.
    return {"rounds_s": [b - a for a, b in itertools.pairwise(found["received"])], "auroc": found["auroc"]}


def by_pfl(data: Data, rounds: int):
    """pfl-research's FederatedAveraging in one process; its users are handed over shuffled as everybody's are."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(1)
    sites = len(data.sizes)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.net.load_state_dict({name: torch.from_numpy(a) for name, a in data.named().items()})

        def loss(self, x, y):
            return torch.nn.functional.binary_cross_entropy_with_logits(self.net(x)[:, 0], y)

        @staticmethod
        def metrics(*_, **__):
            return {}

    given = itertools.count()

    def user(k):
        shuffled = torch.from_numpy(data.order(next(given) // sites, k).permutation(len(data.y[k])))
        return Dataset([torch.from_numpy(data.x[k])[shuffled], torch.from_numpy(data.y[k])[shuffled]], user_id=str(k))

    def nobody(_):
        return Dataset([torch.zeros(1, WIDTH), torch.zeros(1)])

    net, found = Net(), []

    class Look(TrainingProcessCallback):
        def after_central_iteration(self, *_, **__):
            weights = {name: a.detach().numpy().copy() for name, a in net.net.state_dict().items()}
            found.append((time.perf_counter(), time.process_time(), weights))
            return False, Metrics()

    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))
    users, nobodies = itertools.cycle(range(sites)), itertools.repeat(0)
    backend = SimulatedBackend(
        FederatedDataset(user, lambda: next(users)),
        FederatedDataset(nobody, lambda: next(nobodies)),
        [WeightByDatapoints()],
    )
    FederatedAveraging().run(
        NNAlgorithmParams(rounds, rounds + 1, sites, 1),
        backend,
        model,
        NNTrainHyperParams(BATCH, 1, RATE),
        NNEvalHyperParams(None),
        [Look()],
    )
    return found


def main() -> None:
    peer, sites, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    data = Data(sites)
    said: dict = {}
    if peer == "ray":
        said = on_ray(data, rounds)
    elif peer == "nvflare":
        said = on_nvflare(data, rounds)
    elif peer == "pfl-research":
        wall, busy = time.perf_counter(), time.process_time()
        found = by_pfl(data, rounds)
        stamps, worked = [wall, *(each[0] for each in found)], [busy, *(each[1] for each in found)]
        took = sorted(b - a for a, b in itertools.pairwise(worked[1:]))
        seconds = [b - a for a, b in itertools.pairwise(stamps)]
        said = {"rounds_s": seconds, "auroc": data.auroc(found[-1][2]), "cpu_s": took[len(took) // 2]}
    else:
        engines = {
            "torch": by_torch,
            "jax": by_jax,
            "fedjax": by_fedjax,
            "fedhealth": by_engine,
            "fedhealth 2": lambda *given: by_engine(*given, processes=2),
            "native": lambda *given: by_engine(*given, native=True),
            "native 2": lambda *given: by_engine(*given, native=True, processes=2),
            "plain engine": lambda *given: by_engine(*given, plain=True),
        }
        seconds, busy, model = [], [], None
        began, worked = time.perf_counter(), time.process_time()
        for found in engines[peer](data, rounds):
            model = found
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - worked)
            began, worked = time.perf_counter(), time.process_time()
        said = {"rounds_s": seconds, "auroc": data.auroc(model)}
        if not peer.endswith(" 2"):
            said["cpu_s"] = sorted(busy[1:])[len(busy[1:]) // 2]
    # Of this process and the largest child: what many children took together is more.
    # The compiler of the native kernel starts as a copy of this process, and is gone before the first round.
    whose = (resource.RUSAGE_SELF,) if peer == "native" else (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = sum(resource.getrusage(who).ru_maxrss for who in whose)
    print(json.dumps({**said, "peak_bytes": peak * 1024, "patients": int(data.sizes.sum())}))


if __name__ == "__main__":
    main()
