"""What is wrong with a config, its data, its weights and its recipe, before the first iteration."""
