"""A rehearsal: the questions of a study's first round, asked of one hospital on its own machine.

They are asked as in the study and in its order: how many patients, sums for scaling, one
round of training, scores; of a study of tables its one question. What the one hospital answers is all there is, so the model and the
scaling start from its patients alone; names, shapes and sizes are the study's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from flwr.app import ConfigRecord

from fedhealth.core.study import packed
from fedhealth.evaluation.tables import TableLayout
from fedhealth.models.weights import first_network, names_of, weights_of
from fedhealth.privacy.release import Release
from fedhealth.runtime.codec import array_record
from fedhealth.server.app import learned
from fedhealth.server.margins import asked
from fedhealth.server.plan import plan_for
from fedhealth.server.rounds import evaluated, is_looked_at
from fedhealth.server.statistics import vectors
from fedhealth.strategies.method import SumServer

if TYPE_CHECKING:
    from fedhealth.core.study import Study
    from fedhealth.runtime.policy import PolicyGrid


def rehearse(study: Study, grid: PolicyGrid) -> None:
    """Ask the one hospital of a grid everything that the study's first round and its end would ask.

    Raises:
        SettingError: the study's parts do not fit.
        QuorumError: the hospital refused or failed.
        DataError: its patients alone leave nothing to learn or test.
    """
    if study.tabulation.tables:
        vectors(grid, "query.table", TableLayout.of(study).width)
        return
    plan = plan_for(study)
    if isinstance(plan.mechanism, Release):
        asked(study, grid)
        return
    for least in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        if hasattr(plan.strategy, least):
            # Flower would wait for the other hospitals, and for ever.
            setattr(plan.strategy, least, 1)
    statistics = learned(plan, grid)
    if isinstance(plan.strategy, SumServer):
        plan.strategy.begin(float(sum(shape.train for shape in statistics.shapes.values())), 0.0)
    network = first_network(plan.model, statistics.preprocessor.width, seed=study.seed)
    shared = plan.method.shared(names_of(network))
    model = {name: array for name, array in weights_of(network).items() if name in shared}
    config = ConfigRecord({"preprocessor": packed(statistics.preprocessor.to_json())})
    messages = plan.strategy.configure_train(1, array_record(model), config, cast("Any", grid))
    grid.send_and_receive(messages, fault_of=lambda _: None)
    is_scored = any(is_looked_at(plan.mechanism, round_) for round_ in range(1, study.rounds + 1))
    for part, grouped in [*([("validation", False)] if is_scored else []), ("test", True)]:
        evaluated(plan, grid, statistics.preprocessor, model, 2, of_round=1, part=part, grouped=grouped)
