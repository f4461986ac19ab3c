"""One module an architecture, named as in `general.architecture`; see `convert.registry`."""
