"""The integer arithmetic: two ops (`ops`), their definition (`reference`) and who runs them (`registry`)."""
