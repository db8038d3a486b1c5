"""Names that the workers of `other_workers` and their test share, without torch."""

CHAIN = (2, 3, 1, 2, 4)  # workers of each group in turn
CASES = ("ddp", "zero0", "zero1", "zero2", "zero2-sgd", "zero3", "zero3-sub_groups", "zero1-offload", "zero3-offload")
