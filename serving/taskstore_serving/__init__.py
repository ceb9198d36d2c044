"""The vLLM adapter lives here. This release packs and unpacks; serving has no code yet."""
