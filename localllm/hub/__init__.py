"""Where models come from: names, the catalog, the files that are already on this machine."""
