"""Looking at models, machines and results from outside."""
