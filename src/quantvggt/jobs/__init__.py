"""Many things at once: what is finished stays on disk (store, code), processes share the work (workers)."""
