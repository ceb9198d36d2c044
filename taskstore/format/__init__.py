"""The store on disk: SPEC.md, its manifest, its containers, its sections. Never imports torch."""
