"""The parts of `experiments/ablation.py`: what is compared, how it is measured, what is reported."""
