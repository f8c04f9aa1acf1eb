"""Where a model's output distribution has moved: probes of one model against another."""
