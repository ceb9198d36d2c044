"""Codes numbers in few bits: `rans` by how often they occur, `fields` in the bits that each has."""
