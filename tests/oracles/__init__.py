"""Slow, independent computations that the fast ones are compared with."""
