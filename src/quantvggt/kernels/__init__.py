"""Integer arithmetic and attention: `contract` (what ops take), `reference` (what they give), `registry` (who runs)."""
