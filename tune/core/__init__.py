"""PURE: no clock, disk, network, ray, optuna, torch. Everything else in Phasetune may import this; this imports nothing."""
