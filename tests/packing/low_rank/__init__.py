"""Tests of taskstore.packing.low_rank."""
