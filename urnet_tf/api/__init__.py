"""What `import urnet_tf` offers beside the rooms themselves: weights from arrays, reading and running."""
