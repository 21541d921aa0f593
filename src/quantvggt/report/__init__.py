"""Results as people read them: pages, plots, tables, and the demo that shows them all."""
