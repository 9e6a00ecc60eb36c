"""Running the user's own command for a few steps, and judging findings by what happened in it."""
