"""Commands that are more than a few lines, one module each. A module says what arguments it takes and carries the command out."""
