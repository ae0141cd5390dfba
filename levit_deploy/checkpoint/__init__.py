"""Read a checkpoint: a path, module or dict in, a ``Checkpoint`` with the reference network out."""

from levit_deploy.checkpoint.at_hand import Source
from levit_deploy.checkpoint.read import Checkpoint, checkpoint_of, read_checkpoint

__all__ = ["Checkpoint", "Source", "checkpoint_of", "read_checkpoint"]
