"""Using exports: predicting, and serving them."""
