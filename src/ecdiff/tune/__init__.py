"""`ecdiff tune`: the best plan for a pair, prompts, hardware and network (section 3.3)."""
