"""Patterns for the names of tensors."""

NUMBER = "[0-9]{1,4}"
BIASES = "(?:attention_biases|attention_bias_idxs)"


def layer(linear: str, bn: str = "bn") -> str:
    """A pattern for the tensors of a layer: a linear map, alone or as ``linear`` beside ``bn``."""
    statistics = "weight|bias|running_mean|running_var|num_batches_tracked"
    return rf"(?:(?:{linear}\.)?(?:weight|bias)|{bn}\.(?:{statistics}))"
