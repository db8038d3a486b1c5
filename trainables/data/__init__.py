"""Labelled pictures: where they come from, how they are split, and their pixels, decoded once a node."""
