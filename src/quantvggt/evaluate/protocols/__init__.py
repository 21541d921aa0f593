"""How published tables measure: which scenes and frames, which alignment, which numbers, how they are pooled."""
