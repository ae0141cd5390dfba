"""Time a network in every form, side by side."""
