"""The cloud's side: the engine that owns the models and the server in front of it."""
