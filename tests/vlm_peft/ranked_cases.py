"""Names that the ranks and their test share, without torch."""

ALONE = ("lora", "ia3", "bottleneck", "prefix")  # the methods of Zhou et al. (2024), compared with one process
CASES = (*(f"{method}/{stage}" for method in (*ALONE, "sentiment") for stage in ("zero2", "zero3")), "lora/ddp")
KILLED = "lora/zero3"
