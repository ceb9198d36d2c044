"""Several servers share the tasks of a family: who serves which, and the router's configuration."""
