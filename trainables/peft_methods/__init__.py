"""Parameter-efficient fine-tuning of any transformers model: what is trained, where, and how many parameters that is."""
