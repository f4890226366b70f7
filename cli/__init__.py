"""The command line: `wordline`."""
