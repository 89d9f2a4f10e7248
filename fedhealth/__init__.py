"""FedHealth trains one model across hospitals; no patient leaves any of them."""

__version__ = "0.1.0"
