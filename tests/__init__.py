"""The tests of Phasetune. `make test` runs all, `make test-pure` those that need neither Ray nor torch."""
