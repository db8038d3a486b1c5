"""WHERE TRIALS RUN: placement (pure), preflight, the Ray cluster, leased worker groups."""
