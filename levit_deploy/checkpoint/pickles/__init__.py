"""Read the pickle in a torch file as data: nothing that it names is imported or called."""
