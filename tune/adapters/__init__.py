"""What touches a disk, a clock, a network, ray, optuna or mlflow, behind the ports of `tune.core.ports`."""
