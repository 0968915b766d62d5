"""The reference pair: scenes, training, evaluation and the trained weights. No torch at import."""
