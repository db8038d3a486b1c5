"""Scores of generated words: pure functions of predictions and lists of references; each says its unit, range and source."""
