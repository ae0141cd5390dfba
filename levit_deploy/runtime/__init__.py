"""Open an artifact and run it, in this process or in a child's."""
