"""How an answer is read out of a model's words: one file per kind of answer, no torch."""
