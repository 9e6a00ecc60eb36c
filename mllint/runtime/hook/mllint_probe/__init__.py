"""Watches a training program from inside its own interpreter; reached by `sitecustomize` alone, never imported by mllint itself.

It stands by itself: the standard library and the program's own torch, Python 3.8 and later. Nothing here may change what the program
computes: no random number is drawn, no tensor is kept alive, and an error of ours never reaches the program.
"""
