"""Words and sentences as vectors."""
