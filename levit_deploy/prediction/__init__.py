"""Answer pictures with an artifact, here or on a cluster."""
