"""What SPEC.md section 5 demands beyond types: versions, numbers for people, lineage of tasks."""
