"""What a model computes before its first trained or random part: computed once a node, kept on disk, shared by all trials and epochs."""
