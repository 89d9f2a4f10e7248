"""Runtime: everything that touches Flower's plumbing.

    PolicyGrid(grid)    what a round may rely on: a quorum, a deadline, checked replies
      LocalGrid         messages handed to the client app in this process
      BatchedGrid       hospitals asked in blocks, in this process, in forked ones or on Ray (`ray_hands`)
      Flower's own      on Ray, in processes that `ray.py` starts and ends
      DeployedGrid      over a network, to hospitals that may go and come back (`deployment`)

`flower.py`, and `deployment/flower.py` for what a deployment alone needs, are the only modules
that import what Flower does not call public. Nothing here decides about privacy or medicine.
"""
