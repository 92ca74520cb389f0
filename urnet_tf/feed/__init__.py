"""Training batches: who is drawn, and the packed targets."""
