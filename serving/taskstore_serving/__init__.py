"""Serve a store with vLLM: one engine, one set of live weights, every task of the family.

Before vLLM is loaded
    options    what is served, as it travels to every process
    versions   which vLLM this was tested with
    choice     which tasks one engine can serve; servable, refused: and what it cannot
    launch     vLLM's arguments and environment
    server     from there to the end of the server; children, probe

In every process
    plugin     what vLLM calls there

In a worker
    loader     --load-format taskstore: from a store straight into the model
    family     what is swapped (groups, learning, spans, rests, beside), and guarding: may it be
    packed     matrices in the order of the CPU's kernel; cpu_kernels says which
    cores      for what loads and swaps, all that OpenMP shares out
    worker     runs a step with the weights of its task

In the engine's core
    scheduler  one task a step; policy says which, queues and carried help

In the API process
    endpoint   vLLM's endpoint plugin
    served     names, tasks, how they change; admin has the routes, dispatch finds the task
    fronts     vLLM's serving objects, once per tokenizer, template and configs
    metrics    counts per task: frontend, requests, instruments; logs

Importing this package does not import vLLM.
"""
