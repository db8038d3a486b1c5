"""Tests of SPIDER and its baselines."""
