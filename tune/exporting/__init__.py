"""Export of a trial's model to a folder of its own, and answers from such a folder."""
