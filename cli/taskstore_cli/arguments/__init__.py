"""Declares options and arguments, and turns them into what the library takes."""
