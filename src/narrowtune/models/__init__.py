"""Everything that knows transformers: configs and classes, weights, processors."""
