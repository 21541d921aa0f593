"""Quantized layers, and the transformer pieces that every family of models is built from."""
