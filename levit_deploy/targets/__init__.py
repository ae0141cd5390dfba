"""One file for each format that can be written and run."""
