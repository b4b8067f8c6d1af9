"""From a config to a run: reading the config, building the runner, validating."""
