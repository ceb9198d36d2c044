"""Masks that others computed: read safely, matched to the family's tensors."""
