"""Carrying out fixes: edits become exact changes of text, the text is checked again, and only then written."""
