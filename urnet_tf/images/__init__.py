"""Pictures: what a file holds, decoding, crops, augmentation, the packed store."""
