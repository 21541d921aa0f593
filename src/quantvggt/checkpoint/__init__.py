"""Store models small and read them back: our folders, published files, the hub, QuantVGGT's parameters."""
