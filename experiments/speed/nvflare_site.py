"""A site of NVFlare's simulator, and the model that its server starts from. Run by NVFlare; see `peers.on_nvflare`.

It is asked once more than there are rounds: what it then receives is the model after all of them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nvflare.client as flare
import peers
import torch
from torch import nn


class First(nn.Sequential):
    """The network at the first weights. NVFlare wants a class by its name, and no bare `nn.Sequential`."""

    def __init__(self, sites: int) -> None:
        super().__init__(*peers.network())
        self.load_state_dict({name: torch.from_numpy(array) for name, array in peers.Data(sites).named().items()})


def main() -> None:
    sites, rounds, told = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    data, net, received = peers.Data(sites), peers.network(), []
    flare.init()
    site = int(flare.get_site_name().removeprefix("site-")) - 1
    while flare.is_running():
        asked = flare.receive()
        if asked is None:
            break
        received.append(time.time())
        net.load_state_dict(asked.params)
        round_ = asked.current_round
        if round_ < rounds:
            optimiser = torch.optim.SGD(net.parameters(), lr=peers.RATE)
            peers.torch_site(net, optimiser, data.x[site], data.y[site], data.order(round_, site))
        elif site == 0:
            auroc = data.auroc({name: array.numpy() for name, array in net.state_dict().items()})
            told.write_text(json.dumps({"received": received, "auroc": auroc}))
        flare.send(flare.FLModel(params=net.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": len(data.y[site])}))


if __name__ == "__main__":
    main()
