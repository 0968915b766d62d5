"""The edge's side: the way to the cloud, and the pipeline a developer calls."""
