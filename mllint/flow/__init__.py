"""The heart: follows objects from where they are made to what is done with them, without running the code."""
