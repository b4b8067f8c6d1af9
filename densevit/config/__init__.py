"""Reading configs, as programs or as data, and finding the mistakes in them before anything is built."""
