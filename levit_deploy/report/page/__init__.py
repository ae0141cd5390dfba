"""The HTML page of a proof."""
