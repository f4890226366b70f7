"""Processing elements: one file per family, hardware and bit-exact numpy reference side by side."""
