"""Read a checkpoint: a path in, a ``Checkpoint`` with the reference network out."""

from levit_deploy.checkpoint.read import Checkpoint, checkpoint_of, read_checkpoint

__all__ = ["Checkpoint", "checkpoint_of", "read_checkpoint"]
