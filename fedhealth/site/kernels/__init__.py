"""Kernels: many hospitals' networks of one shape, stacked and worked on at once.

One operation of torch costs some microseconds whatever its size, and a hospital's mini-batch is small; so
all hospitals' weights lie in one array, [hospitals, …], and each step is one batched matrix product a
layer. What a hospital gets is bit for bit the same whoever is stacked beside it: a batched
product takes its matrices one by one, everything else goes element by element or
row by row, and every batch is padded to a size that is the hospital's own.

To stack another kind of layer, write its forward and backward in `layers.py`, or in `series.py` where it reads steps of
time, and name it in `stack.py`. Private steps are `private.py`'s, in fixed point by `exact.py`
or, under `engine=native`, by `native_private.py`, and of networks over time by `native_series.py`.
A network with any other kind is trained by `site.engines.plain`, one hospital after the other.
"""
