"""Crawl readers, instance table, image store, decoding, augmentation, sampling and batches."""
