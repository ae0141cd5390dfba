"""Prove that an artifact computes the same function as its original."""
