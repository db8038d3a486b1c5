"""Names that the ranks and their test share, without torch."""

WITHOUT_CHANCE = ("clip_zero_shot", "clip_concat", "clip_product", "clip_both", "clip_lora", "blip2_e1", "blip2_e2", "tinyllava")
WITH_DROPOUT = ("blip2_e3",)
CASES = (*(f"{method}/{stage}" for method in (*WITHOUT_CHANCE, *WITH_DROPOUT) for stage in ("zero2", "zero3")), "tinyllava/ddp")
ALONE = WITHOUT_CHANCE
KILLED = "blip2_e2/zero3"
