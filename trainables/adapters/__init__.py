"""Adapters that touch torch, Ray Train or DeepSpeed on behalf of recipes. Nothing here is imported by `check`."""
