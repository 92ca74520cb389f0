"""What a network and a step cost, counted without TensorFlow."""
