"""The study: methods, schemes and settings compared on the same scenes by one command that can be interrupted."""
