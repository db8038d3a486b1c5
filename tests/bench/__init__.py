"""Benchmarks, not tests: `make bench` runs them and prints figures of this machine."""
