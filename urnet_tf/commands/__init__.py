"""What commands of the command line do with their flags, one module each, where it is more than a call."""
