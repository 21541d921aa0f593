"""Any number of frames: overlapping chunks, each through the model as ever, joined into one scene on disk."""
