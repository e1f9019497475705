"""Readers, one a kind of file: ``read(path)`` gives every array under the file's own name."""
