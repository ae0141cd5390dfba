"""Find the fastest artifact on this machine: make every form, time all in turns, prove the best."""
