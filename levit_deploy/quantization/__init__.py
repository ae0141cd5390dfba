"""Make an int8 graph from a float one."""
