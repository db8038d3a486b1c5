"""SEARCH: what to try, when to stop, what it cost. `tune/__main__.py` is the only place where parts are wired."""

__version__ = "0.1.0"
