"""Public data sets, from the archives that they are published in to the layout that the configs expect."""
