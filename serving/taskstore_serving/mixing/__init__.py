"""Steps of several tasks: what layers compute in them, and what they cost."""
