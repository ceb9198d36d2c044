"""Serve a store with vLLM: one engine, one set of live weights, every task of the family.

    plugin     what vLLM calls in each of its processes
    loader     --load-format taskstore: from a store straight into the model
    family     D and masks beside live weights, made by the model's own load_weights
    worker     runs a step with the weights of its task
    options    what is served, as it travels to every process
    versions   which vLLM this was tested with

Importing this package does not import vLLM.
"""
