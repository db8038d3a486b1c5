"""Names that the ranks and their test share, without torch."""

METHODS = ("spider", "full", "l1", "l2", "magnitude", "random_half", "dare", "grafting", "tailor")
TRIALS = tuple(f"{method}/{stage}" for method in METHODS for stage in ("zero2", "zero3"))
KILLED = "spider/zero3"
HANDED = ("spider/zero2", "spider/zero3", "adalora/ddp")  # method/engine that other numbers of workers go on with
