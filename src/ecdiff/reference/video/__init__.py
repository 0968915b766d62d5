"""The reference video pair: drawn clips, training, evaluation and the trained weights."""
