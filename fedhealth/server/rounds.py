"""The rounds: Flower's own strategy methods, with a checkpoint after each.

`Strategy.start` runs the same calls in the same order, but can't checkpoint, resume, stop
early or stop at all when too few hospitals answer; so the loop stands here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from flwr.app import ConfigRecord

from fedhealth.core.errors import FedHealthError
from fedhealth.core.seeds import chosen
from fedhealth.core.study import packed
from fedhealth.evaluation import measures
from fedhealth.evaluation.scores import ScoreSums, SummaryLayout
from fedhealth.runtime.codec import COUNT, SUM, array_record, arrays_of, metrics_of
from fedhealth.server.store import Checkpoint
from fedhealth.strategies import state as strategy_state

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import ArrayRecord
    from numpy.typing import NDArray

    from fedhealth.core.preprocessor import Preprocessor
    from fedhealth.core.study import Study
    from fedhealth.runtime.policy import Exchange, PolicyGrid
    from fedhealth.server.plan import Plan
    from fedhealth.server.stopwatch import Stopwatch
    from fedhealth.server.store import Arrays, Store


@dataclass(slots=True)
class Progress:
    """Where the rounds stand: all that a checkpoint keeps beside the strategy."""

    model: Arrays
    done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped_because: str = ""

    @property
    def best_round(self) -> int:
        """The round with the best validation measure, the earlier of equals; 0 before the first."""
        scored = [row for row in self.history if row["watched"] is not None]
        return int(min(scored, key=lambda row: row["watched"])["round"]) if scored else self.done


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
        row, model = _round(plan, grid, preprocessor, progress.model, progress.done + 1)
        progress = Progress(model=model, done=row["round"], history=[*progress.history, row])
        progress.stopped_because = _stop_reason(study, progress)
        arrays, values = strategy_state.dump(plan.strategy)
        kept = {"history": progress.history, "stopped_because": progress.stopped_because, "strategy": values}
        kept |= {"preprocessor": preprocessor.to_json(), "spent": stopwatch.read()}
        store.save(Checkpoint(progress.done, model, arrays, kept))
        store.write_history(progress.history)
        watch(row)
    return progress


def resumed(plan: Plan, checkpoint: Checkpoint) -> Progress:
    """The progress that a checkpoint holds; the plan's strategy gets its memory back."""
    strategy_state.load(plan.strategy, checkpoint.strategy, checkpoint.state["strategy"])
    return Progress(
        model=checkpoint.model,
        done=checkpoint.round_,
        history=checkpoint.state["history"],
        stopped_because=checkpoint.state["stopped_because"],
    )


def evaluated(
    plan: Plan, grid: PolicyGrid, preprocessor: Preprocessor, model: Arrays, round_: int, *, part: str, grouped: bool
) -> tuple[dict[str, NDArray[np.float64]], dict[str, dict[str, float]]]:
    """Each answering hospital's score sums of a model, and the numbers that came with them."""
    config = _config(preprocessor, part=part, grouped=grouped)
    replies = list(
        grid.send_and_receive(plan.strategy.configure_evaluate(round_, array_record(model), config, cast("Any", grid)))
    )
    usable = [reply for reply in replies if reply.has_content()]
    vectors = {grid.site_of(reply): arrays_of(reply)[SUM].astype(np.float64) for reply in usable}
    came_with = {grid.site_of(reply): metrics_of(reply) for reply in usable}
    if any(numbers[COUNT] for numbers in came_with.values()):
        # Some strategies adapt to how the hospitals fare. It comes last: they may empty the replies.
        plan.strategy.aggregate_evaluate(round_, replies)
    return vectors, came_with


def _round(
    plan: Plan, grid: PolicyGrid, preprocessor: Preprocessor, model: Arrays, number: int
) -> tuple[dict[str, Any], Arrays]:
    """One round: its row of the history, and the new model."""
    study, started = plan.study, time.perf_counter()
    quorum = len(study.roster) if study.rules.quorum is None else study.rules.quorum
    asked = chosen(study.roster, study.rules.fraction, seed=study.seed, round_=number, at_least=quorum)
    grid.exchanges()
    grid.ask(asked)
    messages = plan.strategy.configure_train(number, array_record(model), _config(preprocessor), cast("Any", grid))
    replies = list(grid.send_and_receive(messages))
    losses = [metrics_of(reply) for reply in replies if reply.has_content()]
    arrays, _ = plan.strategy.aggregate_train(number, replies)
    model = _checked(arrays, model, plan)
    grid.ask(study.roster)
    vectors, _ = evaluated(plan, grid, preprocessor, model, number, part="validation", grouped=False)
    row = _row(study, number, vectors, losses, grid.exchanges())
    return {**row, "took_s": time.perf_counter() - started}, model


def _row(
    study: Study,
    number: int,
    vectors: dict[str, NDArray[np.float64]],
    losses: list[dict[str, float]],
    exchanges: list[Exchange],
) -> dict[str, Any]:
    sums, _ = SummaryLayout().unpack(np.sum([vectors[site] for site in sorted(vectors)], axis=0))
    patients = sum(loss[COUNT] for loss in losses)
    train_loss = sum(loss["loss"] * loss[COUNT] for loss in losses) / patients
    auroc, log_loss = measures.auroc(sums), measures.log_loss(sums)
    return {
        "round": number,
        "auroc": auroc.to_json(),
        "log_loss": log_loss.to_json(),
        "train_loss": train_loss,
        "watched": _watched(study, sums),
        "answered": len(exchanges[0].answered),
        # Whoever could neither train nor evaluate, for one reason, is named once.
        "failed": [{"site": f.site, "reason": f.reason} for f in dict.fromkeys(f for x in exchanges for f in x.failed)],
        "bytes_down": sum(exchange.bytes_down for exchange in exchanges),
        "bytes_up": sum(exchange.bytes_up for exchange in exchanges),
        "messages": sum(len(exchange.answered) + len(exchange.failed) for exchange in exchanges),
    }


def _watched(study: Study, sums: ScoreSums) -> float | None:
    """The measure that decides, turned so that lower is better; None where it has no value."""
    value = measures.auroc(sums).value if study.rules.watch == "auroc" else measures.log_loss(sums).value
    if math.isnan(value):
        return None
    return -value if study.rules.watch == "auroc" else value


def _stop_reason(study: Study, progress: Progress) -> str:
    patience = study.rules.patience
    waited = progress.done - progress.best_round
    if patience is not None and waited >= patience:
        return f"no better validation {study.rules.watch} for {waited} rounds"
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


def _config(preprocessor: Preprocessor, **more: str | bool) -> ConfigRecord:
    # A fresh record each time: Flower's strategies write into the one they are given.
    return ConfigRecord({"preprocessor": packed(preprocessor.to_json()), **more})
