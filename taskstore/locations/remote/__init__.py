"""Where bytes lie that are not on this machine: addresses, repositories of a hub, buckets.

A kind of address is one module with a class that is a `locations.base.Location`; `addresses` knows
them by their schemes. Files are read through `windows`.
"""
