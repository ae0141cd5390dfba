"""The whole job on a small trained network that the package carries."""
