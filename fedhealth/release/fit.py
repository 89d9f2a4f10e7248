"""The fit: a mixture of made-up patients whose counts come near the noisy ones.

The relaxed projection (Aydöre et al. 2021, arXiv 2103.06641): each row of the mixture has a probability for
every cell of every attribute, and all of them are moved by gradient steps until their expected counts, of
values and of pairs, are as near the noisy ones as they come. Noise asks for what no patients could have,
such as counts below 0; the mixture can't give that, which takes much of the noise off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedhealth.core.seeds import seed_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from fedhealth.evaluation.margins import MarginLayout

#: Rows of the mixture. Fewer can't hold all pairs, more take longer and fit noise.
ROWS = 800
STEPS = 400
LEARNING_RATE = 0.1
#: How much more a pair with the outcome counts: what is learned from a release is the outcome.
OUTCOME_WEIGHT = 4.0
#: How far the rows' first logits differ.
SPREAD = 1.0


def fitted(layout: MarginLayout, counts: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """The mixture, [rows, cells]: by row and attribute the probability of each of its cells.

    The same counts and seed give the same bits on one machine and number of threads.

    Args:
        layout: of the counts.
        counts: noisy or exact, [layout.size].
        seed: of the study.
    """
    import torch

    generator = torch.Generator().manual_seed(seed_of(seed, purpose="release fit") >> 1)
    patients = max(layout.patients(counts), 1.0)
    target, weight = (torch.from_numpy(found) for found in _matrices(layout, counts / patients))
    shares = np.concatenate(layout.one_way(counts / patients))
    ones = torch.from_numpy(shares.astype(np.float32))
    first = torch.from_numpy(np.log(np.clip(shares, 1e-4, None)).astype(np.float32))
    logits = first + SPREAD * torch.randn((ROWS, layout.starts[-1]), generator=generator)
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        rows = _probabilities(logits, layout)
        pairs = rows.T @ rows / ROWS - target
        # A cell's own count stands for one number, a pair's in the matrix twice.
        loss = (weight * pairs.square()).sum() / 2 + (rows.mean(0) - ones).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found: NDArray[np.float64] = _probabilities(logits, layout).numpy().astype(np.float64)
    return found


def _probabilities(logits: torch.Tensor, layout: MarginLayout) -> torch.Tensor:
    import torch

    return torch.cat([part.softmax(1) for part in torch.split(logits, list(layout.sizes), dim=1)], dim=1)


def _matrices(layout: MarginLayout, shares: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The shares of all pairs of cells, [cells, cells], and how much each counts: 0 within one attribute."""
    width, last = layout.starts[-1], len(layout.attributes) - 1
    target, weight = np.zeros((width, width), dtype=np.float32), np.zeros((width, width), dtype=np.float32)
    for (a, b), found in layout.two_way(shares).items():
        one, other = (slice(layout.starts[k], layout.starts[k + 1]) for k in (a, b))
        target[one, other], target[other, one] = found, found.T
        weight[one, other] = weight[other, one] = OUTCOME_WEIGHT if b == last else 1.0
    return target, weight
