"""One file a model family. The only place, beside training, that imports diffusers."""
