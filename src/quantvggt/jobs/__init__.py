"""Many things at once: what is finished stays on disk (store, code); an executor does the rest, here or on many
machines (contract, executor, workers, cluster)."""
