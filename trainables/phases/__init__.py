"""Training in phases: few-shot blocks of the training rows, one after the other, each phase with its own resolution and results."""
