"""The plug-in as a running service (Fig. 2 of the paper): a sealed store, and HTTP before it."""
