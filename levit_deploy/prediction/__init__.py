"""Answer pictures with an artifact, on this machine or on a cluster."""
