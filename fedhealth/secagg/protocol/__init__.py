"""Secure aggregation as pure state machines: bytes in, bytes out, no clock, no network, no disk.

The protocol is double masking with a confirmed set of survivors, in the form that holds
against a coordinator who lies (Bonawitz et al. 2017, doi 10.1145/3133956.3133982). Its
parts stand in a package of their own because a config group mirrors the files of
`fedhealth.secagg`, and these are no parts to choose from.
"""
