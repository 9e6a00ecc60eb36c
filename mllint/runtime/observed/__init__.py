"""Detectors of what only a run shows: one module a topic, one function a rule, called like it. Each is asked about one process."""
