"""One module for each codebase that saves LeViTs."""
