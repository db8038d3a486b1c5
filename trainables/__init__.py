"""WHAT ONE TRIAL DOES. Knows `tune.core`; never `tune.adapters`, never `cluster`."""
