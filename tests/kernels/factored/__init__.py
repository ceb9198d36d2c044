"""Tests of taskstore.kernels.factored."""
