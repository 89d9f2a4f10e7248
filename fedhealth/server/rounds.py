"""The rounds: Flower's own strategy methods, with a checkpoint after each.

`Strategy.start` runs the same calls in the same order, but can't checkpoint, resume, stop
early or stop at all when too few hospitals answer; so the loop stands here.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from flwr.app import ConfigRecord

from fedhealth.core.errors import DataError, FedHealthError, QuorumError
from fedhealth.core.seeds import chosen
from fedhealth.core.study import packed
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import SummaryLayout
from fedhealth.privacy.central import Central
from fedhealth.privacy.patient_level import PatientLevel
from fedhealth.runtime import flower
from fedhealth.runtime.codec import CONFIG, COUNT, SUM, array_record, arrays_of, metrics_of
from fedhealth.server.store import Checkpoint
from fedhealth.strategies import state as strategy_state
from fedhealth.strategies.method import SumServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.app import ArrayRecord, Message
    from numpy.typing import NDArray

    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.core.study import Study
    from fedhealth.privacy import Mechanism
    from fedhealth.runtime.policy import Exchange, PolicyGrid
    from fedhealth.server.plan import Plan
    from fedhealth.server.stopwatch import Stopwatch
    from fedhealth.server.store import Arrays, Store


#: Marks the server optimiser's arrays among the strategy's in a checkpoint.
OPTIMISER = "optimiser|"


@dataclass(slots=True)
class Progress:
    """Where the rounds stand: all that a checkpoint keeps beside the strategy."""

    model: Arrays
    optimiser: Arrays = field(default_factory=dict)
    done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_because: str = ""

    @property
    def best_round(self) -> int:
        """The round with the best validation measure, the earlier of equals; 0 before the first.

        Rounds that other hospitals scored are other yardsticks, so only those are compared
        that were scored by the set of hospitals which scored most rounds.
        """
        sets = Counter(tuple(row["scored_by"]) for row in self.history if row["scored_by"])
        return self._best_of(max(sets, key=lambda names: (sets[names], len(names)), default=()))

    @property
    def waited(self) -> int:
        """Rounds since the best, among the rounds scored by the same hospitals as the last."""
        if not self.history:
            return 0
        last = tuple(self.history[-1]["scored_by"])
        best = self._best_of(last)
        return sum(row["round"] > best for row in self.history if tuple(row["scored_by"]) == last)

    def _best_of(self, scorers: tuple[str, ...]) -> int:
        rows = [row for row in self.history if row["watched"] is not None and tuple(row["scored_by"]) == scorers]
        return int(min(rows, key=lambda row: row["watched"])["round"]) if rows else self.done


def run_rounds(
    plan: Plan,
    grid: PolicyGrid,
    preprocessor: Preprocessor,
    progress: Progress,
    store: Store,
    watch: Callable[[dict[str, Any]], None],
    stopwatch: Stopwatch,
) -> Progress:
    """The progress after the last round, from wherever `progress` stands.

    Raises:
        QuorumError: too few hospitals answered in a round.
        FedHealthError: the strategy gave no model.
    """
    study = plan.study
    while progress.done < study.rounds and not progress.stopped_because:
        try:
            row, model, memory = _round(plan, grid, preprocessor, progress)
        except QuorumError as error:
            if not progress.done or not error.is_spent:
                raise
            progress.stopped_because = "the hospitals' privacy budget for training is spent"
            break
        progress = Progress(model=model, optimiser=memory, done=row["round"], history=[*progress.history, row])
        progress.stopped_because = _stop_reason(study, progress)
        arrays, values = strategy_state.dump(plan.strategy)
        kept = {"history": progress.history, "stopped_because": progress.stopped_because, "strategy": values}
        arrays |= {f"{OPTIMISER}{name}": array for name, array in memory.items()}
        kept |= {"preprocessor": preprocessor.to_json(), "spent": stopwatch.read()}
        store.save(Checkpoint(progress.done, model, arrays, kept))
        store.write_history(progress.history)
        watch(row)
    return progress


def resumed(plan: Plan, checkpoint: Checkpoint) -> Progress:
    """The progress that a checkpoint holds; the plan's strategy gets its memory back."""
    own = {name: array for name, array in checkpoint.strategy.items() if not name.startswith(OPTIMISER)}
    strategy_state.load(plan.strategy, own, checkpoint.state["strategy"])
    return Progress(
        model=checkpoint.model,
        optimiser={n.removeprefix(OPTIMISER): a for n, a in checkpoint.strategy.items() if n.startswith(OPTIMISER)},
        done=checkpoint.round_,
        history=checkpoint.state["history"],
        stopped_because=checkpoint.state["stopped_because"],
    )


def evaluated(
    plan: Plan,
    grid: PolicyGrid,
    preprocessor: Preprocessor,
    model: Arrays,
    round_: int,
    *,
    of_round: int,
    part: str,
    grouped: bool,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, dict[str, float]], dict[str, tuple[str, ...]]]:
    """Each answering hospital's score sums of the model of `of_round`, what came with them, and whose they are.

    Under masks there is one row, of all hospitals together, and whose it is says which.
    """
    more: dict[str, str | bool | int] = {"part": part, "grouped": grouped, "of-round": of_round}
    config = _config(preprocessor, **more)
    layout = SummaryLayout.of(plan.study, grouped=grouped)

    def fault(found: Mapping[str, NDArray[np.generic]]) -> str | None:
        try:
            layout.check(found.get(SUM, np.empty(0)).astype(np.float64))
        except DataError:
            return "score sums that can't be counts of patients"
        return None

    messages = plan.strategy.configure_evaluate(round_, array_record(model), config, cast("Any", grid))
    replies = list(grid.send_and_receive(messages, fault_of=fault))
    usable = [reply for reply in replies if reply.has_content()]
    vectors = {grid.site_of(reply): arrays_of(reply)[SUM].astype(np.float64, copy=False) for reply in usable}
    came_with = {grid.site_of(reply): metrics_of(reply) for reply in usable}
    if any(numbers[COUNT] for numbers in came_with.values()):
        # Some strategies adapt to how the hospitals fare.
        plan.strategy.aggregate_evaluate(round_, _own(replies))
    return vectors, came_with, {grid.site_of(reply): grid.hospitals_of(reply) for reply in usable}


def _round(
    plan: Plan, grid: PolicyGrid, preprocessor: Preprocessor, progress: Progress
) -> tuple[dict[str, Any], Arrays, Arrays]:
    """The next round: its row of the history, the new model, and the server optimiser's memory."""
    model, number = progress.model, progress.done + 1
    study, started = plan.study, time.perf_counter()
    least = max(study.rules.least_asked(len(study.roster)), plan.least)
    asked = chosen(study.roster, study.rules.fraction, seed=study.seed, round_=number, at_least=least)
    grid.exchanges()
    grid.ask(asked)
    messages = plan.strategy.configure_train(number, array_record(model), _config(preprocessor), cast("Any", grid))
    if grid.is_masked:
        messages = _reminded_alike(messages, progress, study.roster)
    else:
        present = set(progress.history[-1]["trained_by"]) if progress.history else None
        if present is not None and not present.issuperset(asked):
            messages = [_reminded(message, grid, progress, present) for message in messages]
    replies = list(grid.send_and_receive(messages, fault_of=_misfit(plan, model)))
    trained_by = [site for reply in replies if reply.has_content() for site in grid.hospitals_of(reply)]
    losses = [metrics_of(reply) for reply in replies if reply.has_content()]
    arrays, _ = plan.strategy.aggregate_train(number, _own(replies))
    new, memory = plan.optimiser.step(model, _checked(arrays, model, plan), progress.optimiser)
    model = _checked(array_record(new), model, plan)
    grid.ask(study.roster)
    vectors: dict[str, NDArray[np.float64]] = {}
    whose: dict[str, tuple[str, ...]] = {}
    if is_looked_at(plan.mechanism, number):
        vectors, _, whose = evaluated(
            plan, grid, preprocessor, model, number, of_round=number, part="validation", grouped=False
        )
    exchanges = grid.exchanges()
    scorers = sum(len(whose[name]) for name in vectors)
    row = _row(study, number, vectors, losses, exchanges, scorers)
    row["scored_by"] = sorted(site for name in row["scored_by"] for site in whose[name])
    if grid.is_masked:
        row |= {"answered": len(trained_by), "exchanges": masked_rows(exchanges)}
    return {**row, "trained_by": trained_by, "took_s": time.perf_counter() - started}, model, memory


def is_looked_at(mechanism: Mechanism, round_: int) -> bool:
    """Whether the round's model is scored on validation patients: always, but where each look costs privacy.

    Nor where it would choose a model without noise, and send one out before it is stored: of a round
    that a crash repeats, hospitals would see two.
    """
    if isinstance(mechanism, Central):
        return False
    if not isinstance(mechanism, PatientLevel):
        return True
    return mechanism.evaluate_every is not None and round_ % mechanism.evaluate_every == 0


def _reminded(message: Message, grid: PolicyGrid, progress: Progress, present: set[str] | None) -> Message:
    """The message, which tells a hospital whose last reply was lost from which round on to remember.

    It kept its memory before it replied; had the coordinator not counted that round and
    the hospital gone on from it, control variates and duals would no longer add up.
    """
    site = grid.name_of(message.metadata.dst_node_id)
    if present is None or site in present:
        return message
    own = flower.twin(message)
    counted = [row["round"] for row in progress.history if site in row["trained_by"]]
    own.content[CONFIG]["memory-round"] = max(counted, default=0)
    return own


def _reminded_alike(messages: list[Message], progress: Progress, roster: tuple[str, ...]) -> list[Message]:
    """The messages with every hospital's reminder in each: all of them sign that they were asked the same."""
    if not progress.history:
        return messages
    reminders = {
        f"memory-round:{site}": max((row["round"] for row in progress.history if site in row["trained_by"]), default=0)
        for site in roster
        if site not in progress.history[-1]["trained_by"]
    }
    own = [flower.twin(message) for message in messages]
    for message in own:
        for name, round_ in reminders.items():
            message.content[CONFIG][name] = round_
    return own


def masked_rows(exchanges: list[Exchange]) -> list[dict[str, Any]]:
    """What became of each exchange of a masked question, for the record."""
    return [
        {
            "purpose": exchange.purpose,
            "answered": len(exchange.answered),
            "lost": [failure.site for failure in exchange.failed],
            "bytes_up": exchange.bytes_up,
            "bytes_down": exchange.bytes_down,
            "took_s": exchange.took_s,
        }
        for exchange in exchanges
    ]


def _own(replies: list[Message]) -> list[Message]:
    """Copies for a strategy: some empty the replies they are given."""
    return [flower.twin(reply) if reply.has_content() else reply for reply in replies]


def _misfit(plan: Plan, model: Arrays) -> Callable[[Mapping[str, NDArray[np.generic]]], str | None]:
    """What makes a training reply's arrays unusable: other names or shapes than the strategy asks for."""
    strategy = plan.strategy
    shapes = strategy.replies(model) if isinstance(strategy, SumServer) else {k: a.shape for k, a in model.items()}

    def fault(found: Mapping[str, NDArray[np.generic]]) -> str | None:
        fits = {name: array.shape for name, array in found.items()} == shapes
        return None if fits else "arrays of other names or shapes than the strategy's"

    return fault


def _row(
    study: Study,
    number: int,
    vectors: dict[str, NDArray[np.float64]],
    losses: list[dict[str, float]],
    exchanges: list[Exchange],
    scorers: int,
) -> dict[str, Any]:
    layout = SummaryLayout.of(study, grouped=False)
    sums, _ = layout.unpack(np.sum([vectors[site] for site in sorted(vectors)] or [np.zeros(layout.width)], axis=0))
    patients = sum(loss[COUNT] for loss in losses)
    # A private hospital tells no loss.
    is_told = all("loss" in loss for loss in losses)
    train_loss = sum(loss["loss"] * loss[COUNT] for loss in losses) / patients if is_told else None
    noise = study.score_noise(scorers)
    auroc, log_loss = measures.auroc(sums, noise=noise), measures.log_loss(sums)
    return {
        "round": number,
        "auroc": auroc.to_json(),
        "log_loss": log_loss.to_json(),
        "train_loss": train_loss,
        "watched": measures.watched(sums, study.rules.watch),
        # A hospital without validation patients has scored nothing.
        "scored_by": sorted(site for site, vector in vectors.items() if vector[: 2 * sums.bins].any()),
        "events": sums.n_positive,
        "others": sums.n_negative,
        "answered": len(exchanges[0].answered),
        # Whoever could neither train nor evaluate, for one reason, is named once.
        "failed": [{"site": f.site, "reason": f.reason} for f in dict.fromkeys(f for x in exchanges for f in x.failed)],
        "bytes_down": sum(exchange.bytes_down for exchange in exchanges),
        "bytes_up": sum(exchange.bytes_up for exchange in exchanges),
        "messages": sum(len(exchange.answered) + len(exchange.failed) for exchange in exchanges),
    }


def _stop_reason(study: Study, progress: Progress) -> str:
    patience = study.rules.patience
    if patience is not None and progress.waited >= patience:
        return f"no better validation {study.rules.watch} for {progress.waited} rounds"
    return ""


def _checked(arrays: ArrayRecord | None, model: Arrays, plan: Plan) -> Arrays:
    """The strategy's new model, with the old one's types."""
    name = type(plan.strategy).__name__
    if not arrays:
        raise FedHealthError(
            f"a strategy must give a model every round, found none from {name}. Check that its minimum of hospitals is met."
        )
    # A strategy may average in float64; the model keeps the type it began with.
    new = {key: arrays[key].numpy().astype(old.dtype) for key, old in model.items()}
    if not all(np.isfinite(array).all() for array in new.values()):
        raise FedHealthError(
            f"the new model must be finite, found values that are not, from {name}. Lower the learning rate."
        )
    return new


def _config(preprocessor: Preprocessor, **more: str | bool | int) -> ConfigRecord:
    # A fresh record each time: Flower's strategies write into the one they are given.
    return ConfigRecord({"preprocessor": packed(preprocessor.to_json()), **more})
