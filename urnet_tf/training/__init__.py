"""Fitting: the loop, losses, optimizers, the second round."""
