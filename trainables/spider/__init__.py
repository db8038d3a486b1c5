"""Fine-tuning that keeps what the model could do before: SPIDER (Huang et al. 2025) and its baselines, behind one small interface."""
