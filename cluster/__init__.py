"""WHERE TRIALS RUN: what fits where (placement, room; pure), the Ray of this driver and its elastic nodes (ray_cluster, elastic), its
tokens (auth); and a study sent to a cluster: what travels (submit, archive, planted), the job server (jobs), what keeps a driver at work
there (supervise, attempt). The worker groups themselves are `trainables.adapters`."""
