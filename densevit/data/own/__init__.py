"""From the images and labels that somebody has to a data set and a config: what tools/import_data.py is made of."""
