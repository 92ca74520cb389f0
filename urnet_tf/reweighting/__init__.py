"""The paper's re-weightings, one file a section: arrays in, arrays out."""
