"""A live model's task swapped, beside other ways."""
