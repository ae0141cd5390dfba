"""Pictures: found, read, labelled, and turned into inputs."""
