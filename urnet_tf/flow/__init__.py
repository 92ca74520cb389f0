"""The flow: what will run and why, and running it."""
