"""The version of this package, alone so that every room can import it."""

__version__ = "0.1.0"
