"""Tests that share processes are kept together as conftest.py says: versions of pytest and pytest-xdist have lost it in silence."""

from __future__ import annotations

import os

import pytest


def test_a_test_is_sent_with_its_group_when_processes_share_the_tests(request: pytest.FixtureRequest):
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    assert alone or request.node.nodeid.endswith("@tests/architecture"), request.node.nodeid
