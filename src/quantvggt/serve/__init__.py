"""Reconstruction for others: what others may send and ask for, a queue on disk, a worker, HTTP."""
