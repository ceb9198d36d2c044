"""Serve a store with vLLM: one engine, one set of live weights, every task of the family.

vLLM loads four doors by their names: `plugin` in every process, `endpoint` in the API process,
`scheduler` in the engine's core, `worker` in each worker. Behind them:

    options    what is served, as it travels to every process
    assets     a task's tokenizer, template and configs, as files
    checks     what is refused before an engine starts: vLLM's version, tasks, configs, options
    launch     from a command line to the end of the server
    api        names of tasks, answers, administration; dispatch finds a request's task
    engine     one task a step: policy says which, queues and grammars hold the others
    weights    load a store into the model, learn where weights went, swap them
    metrics    counts and times per task, and logs

Importing this package does not import vLLM.
"""
