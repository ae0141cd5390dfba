"""Give a file or folder its name, only once it is whole and proven."""
