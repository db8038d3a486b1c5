"""Names that the ranks and their test share, without torch."""

ACROSS = ("full", "l2", "magnitude", "tailor")  # one of each way to reach the tensors: run under ZeRO 3 too
RESUMED = ("ddp", "zero3")
