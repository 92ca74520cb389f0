"""Making, checking and describing exports of a trained classifier."""
