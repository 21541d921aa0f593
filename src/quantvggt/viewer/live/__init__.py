"""The live viewer: scenes in the browser, drawn by viser (extra `view`) from arrays that this process holds."""
