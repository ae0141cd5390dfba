"""Check that an artifact takes the batches it should."""

import numpy as np

from levit_deploy.errors import BackendError, VerificationError
from levit_deploy.runtime.artifact import Artifact

# The larger is a prime above those that the proof fills with images: no number that was baked in
# by accident divides it.
BATCHES = (1, 17)


def check_batches(artifact: Artifact) -> None:
    """Raise VerificationError if a free batch is not free, or a fixed one has another size."""
    for batch in BATCHES if artifact.batch_size is None else (artifact.batch_size,):
        images = np.zeros((batch, *artifact.image_shape), artifact.interface.input)
        try:
            logits = artifact.run(images)
        except BackendError as error:  # the process that ran it may be gone
            raise VerificationError(_refusal(str(error))) from error
        if logits.shape[:1] != (batch,):
            raise VerificationError(
                _refusal(f"a batch of {batch} gives outputs of shape {logits.shape}.")
            )


def _refusal(reason: str) -> str:
    return (
        f"The file does not take the batches it should: {reason} Nothing was published. Please "
        "report this with the output of levit-deploy inspect."
    )
