"""Turn a network in training form into plain layers, one exact step at a time."""

from levit_deploy.passes.order import passes, to_plain, to_plain_float64

__all__ = ["passes", "to_plain", "to_plain_float64"]
