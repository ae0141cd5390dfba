"""Load an artifact and run it: one interface to every format, in this process or in a child's.

What only one format needs is imported when that format is met, so that a child that runs ONNX
starts in a fraction of a second.
"""
