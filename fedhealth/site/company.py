"""A company: hospitals of one process that answer one question together, in a simulation alone.

Each hospital's answer takes its own road through its own gate (`site.client`); only the training and scoring
in the middle of it is done for all at once.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedhealth.core.seeds import Streams
from fedhealth.core.study import study_from, unpacked
from fedhealth.site.app import Hospital, reason_for
from fedhealth.site.engines.batched import Batched
from fedhealth.site.masked_round import STEPS
from fedhealth.site.trainer import engine_of
from fedhealth.site.turns import Block, Turns, together

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedhealth.core.update import SealedUpdate, Update
    from fedhealth.runtime.block import Asked
    from fedhealth.site.client import Opened


@dataclass(slots=True)
class Company:
    """The hospitals of a study whose engine is `batched`; a `runtime.block.Crew`.

    Attributes:
        packed_study: the study as it travels.
    """

    packed_study: str
    _engine: Batched = field(init=False)
    _hospitals: dict[str, Hospital] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        engine = engine_of(study_from(unpacked(self.packed_study)))
        self._engine = engine if isinstance(engine, Batched) else Batched()

    def __call__(self, asked: Sequence[Asked]) -> list[SealedUpdate | str]:
        """What leaves each hospital, in the order asked, or why nothing does."""
        found: dict[int, SealedUpdate | str] = {}
        opened: dict[int, tuple[Hospital, Opened]] = {}
        works: dict[int, tuple[Turns, Callable[[], Update]]] = {}
        names: list[str] = []
        block = Block(Streams(names))
        for place, each in enumerate(asked):
            try:
                hospital = self._hospital(each.node)
                if each.request.purpose in STEPS:
                    found[place] = hospital.client.answer(each.request, hospital.memory, hospital.keys)
                else:
                    turns = Turns(block)
                    past = hospital.client.opened(each.request, hospital.memory, turns=turns)
                    works[place] = turns, hospital.client.work_of(past)
                    opened[place] = hospital, past
                    names.append(hospital.client.manifest.name)
            except Exception as error:  # noqa: BLE001 - one hospital's failure must not end the round
                found[place] = reason_for(error, each.node)
        worked = together(works, self._engine, lambda place, error: reason_for(error, asked[place].node))
        for place, update in worked.items():
            hospital, past = opened[place]
            try:
                found[place] = (
                    update
                    if isinstance(update, str)
                    else hospital.client.closed(past, update, hospital.memory, hospital.keys)
                )
            except Exception as error:  # noqa: BLE001 - one hospital's failure must not end the round
                found[place] = reason_for(error, asked[place].node)
        if asked and asked[0].request.purpose.startswith("query."):
            # Patients were loaded, who stay: collecting garbage must not walk through ten thousand hospitals' objects.
            gc.freeze()
        return [found[place] for place in range(len(asked))]

    def _hospital(self, node: Mapping[str, Any]) -> Hospital:
        """The hospital of a node, whose paths are worked out once."""
        name = str(node["site-folder"])
        found = self._hospitals.get(name)
        if found is None:
            found = self._hospitals[name] = Hospital.at(node, self.packed_study)
        return found
