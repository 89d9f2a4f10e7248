"""What doesn't fit together is refused before anything trains."""

import pytest

from fedhealth.core.errors import SettingError
from fedhealth.simulate import checked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["strategy=krum", "strategy.num_malicious_nodes=1"], "Krum with num_malicious_nodes=1 must have at least 5 hospitals, found 3"),
        (["strategy=bulyan"], "must have at least 7 hospitals, found 3"),
        (["strategy=fedtrimmedavg", "strategy.beta=0.7"], "`beta` must be in the range"),
        (["strategy=multikrum"], "must have at least 5 hospitals"),
        (["strategy=multikrum", "strategy.num_malicious_nodes=0", "strategy.num_nodes_to_select=4"], "must have at least 4 hospitals, found 3"),
        (["strategy=fedtrimmedavg"], "FedTrimmedAvg with beta=0.2 must have at least 5 hospitals, found 3"),
        (["strategy=newton", "model=mlp"], "newton needs a linear model"),
        (["model=cox"], "the event of task=mortality, found cox, which learns the time to event. Use model=logistic"),
        (["task=survival"], "the time to event of task=survival, found logistic, which learns the event. Use model=cox"),
        (["task=survival", "strategy=newton", "model=mlp"], "found mlp, which learns the event. Use model=cox"),
        (["strategy=fedper"], "fedper must share some layers"),
        (["strategy=fedper", "model=mlp", "strategy.personal_layers=[nose.*]"], "a pattern must match a weight of the model, found 'nose"),
        (["strategy=ditto", "strategy.personal_layers=[head]"], "a pattern must match a weight of the model, found 'head'"),
        (["strategy=ditto", "model=mlp", "model.normalisation=batch", "strategy.personal_layers=['*running*']"], "a pattern must match a weight that is trained, found 1.running_mean, 1.running_var"),
        (["privacy=dp_sgd", "secagg=masked"], "a masked sum counts whole patients, found privacy=dp_sgd"),
        (["strategy=ditto", "strategy.strength=-1"], "`strength` must be 0 or more, found -1"),
        (["strategy=finetune", "strategy.layers=[head]"], "a pattern must match a weight of the model"),
        (["strategy=fedbn", "model=mlp"], "fedbn must keep some layers at the hospital, found none"),
        (["strategy=scaffold", "optimiser=adamw"], "scaffold's option II needs plain gradient descent, found training with adamw"),
        (["strategy=scaffold", "training.momentum=0.5"], "found training with momentum or decay"),
        (["strategy=scaffold", "strategy.option=I", "training.clip_norm=1"], "corrects a step by whole gradients, found training.clip_norm=1"),
        (["strategy=scaffold", "strategy.option=III"], "option"),
        (["strategy=fednova", "optimiser=adamw"], "fednova must know how far a hospital's steps reach, found adamw"),
        (["strategy=fednova", "strategy.mu=0.1", "optimiser=momentum"], "momentum with a proximal term"),
        (["strategy=apfl", "training.momentum=0.9"], "apfl trains by plain gradient descent"),
        (["strategy=apfl", "model=mlp", "model.normalisation=batch"], "found running statistics"),
        (["strategy=apfl", "strategy.share=2"], r"`share` must lie in \[0, 1\], found 2"),
        (["strategy=feddyn", "strategy.alpha=0"], "`alpha` must be above 0"),
        (["strategy=afl", "strategy.rate=0"], "`rate` must be above 0"),
        (["strategy=fedrep", "strategy.head_epochs=0"], "`head_epochs` must be at least 1"),
        (["strategy=newton", "strategy.ridge=-1"], "`ridge` must be 0 or more"),
        (["strategy=fedadam", "server_optimiser=adam"], "FedAdam holds a server optimiser of its own"),
        *[
            ([f"strategy={stem}", "model=mlp", "model.normalisation=batch"], "running statistics must be averaged and no more, found")
            for stem in ("feddyn", "fednova", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "qfedavg")
        ],
        (["server_optimiser=adam", "model=mlp", "model.normalisation=batch"], "found server_optimiser=adaptive"),
        (["strategy=fedavg", "server_optimiser=adam", "server_optimiser.tau=0"], "`tau` must be above 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_remedy(smoke, words, said):
    with pytest.raises(SettingError, match=said):
        checked(smoke("run.folder=null", *words))


@pytest.mark.parametrize(
    "words",
    [["strategy=fedavg"], ["strategy=scaffold"], ["strategy=fedmedian"], ["strategy=fedbn", "server_optimiser=adam"]],
)
def test_running_statistics_that_are_averaged_or_stay_at_home_fit(smoke, words):
    checked(smoke("run.folder=null", "model=mlp", "model.normalisation=batch", *words))
