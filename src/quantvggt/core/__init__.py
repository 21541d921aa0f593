"""Numbers: schemes, ranges and scales, rotations, packing. Imports nothing from the rest of the package."""
